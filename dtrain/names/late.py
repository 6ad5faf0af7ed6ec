"""The names that load on first use: by TensorFlow's module, the module of dtrain's and the names in it.

A whole module of dtrain/tf1 needs no line here: it is found by its path.
"""

from __future__ import annotations

LATE: dict[str, dict[str, str]] = {
    "tf": {
        "dtrain.comm.launch": "launch",
        "dtrain.tf1.v1": """
            disable_eager_execution disable_resource_variables disable_v2_behavior disable_v2_tensorshape
        """,
        "dtrain.tf1.v0": """
            batch_matmul histogram_summary image_summary inv merge_all_summaries merge_summary pack
            scalar_summary unpack
        """,
        "dtrain.tf1.control_flow": "case cond foldl foldr map_fn scan while_loop",
        "dtrain.tf1.tensor_array": "TensorArray",
    },
    "tf.train": {"dtrain.tf1.v0": "SummaryWriter"},
    "tf.data": {
        "dtrain.tf1.dataset": """
            Dataset FixedLengthRecordDataset Iterator TFRecordDataset TextLineDataset
        """,
    },
    "tf.nn": {
        "dtrain.tf1.recurrent": """
            bidirectional_dynamic_rnn dynamic_rnn static_bidirectional_rnn static_rnn
        """,
    },
}
