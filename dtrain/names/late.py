"""The names that load on first use: by TensorFlow's module, the module of dtrain's and the names in it.

A whole module of dtrain/tf1 needs no line here: it is found by its path.
"""

from __future__ import annotations

LATE: dict[str, dict[str, str]] = {
    "tf": {
        "dtrain.tf1.v1": """
            disable_eager_execution disable_resource_variables disable_v2_behavior disable_v2_tensorshape
        """,
        "dtrain.tf1.control_flow": "case cond foldl foldr map_fn scan while_loop",
        "dtrain.tf1.tensor_array": "TensorArray",
    },
    "tf.nn": {
        "dtrain.tf1.recurrent": """
            bidirectional_dynamic_rnn bidirectional_rnn dynamic_rnn rnn static_bidirectional_rnn static_rnn
        """,
    },
}
