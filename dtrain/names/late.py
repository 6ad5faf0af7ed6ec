"""The names that load on first use: by TensorFlow's module, the module of dtrain's and the names in it.

A whole module of dtrain/tf1 needs no line here: it is found by its path.
"""

from __future__ import annotations

LATE: dict[str, dict[str, str]] = {
    "tf": {
        "dtrain.tf1.v1": """
            disable_eager_execution disable_resource_variables disable_v2_behavior disable_v2_tensorshape
        """,
        "dtrain.tf1.fifo": "FIFOQueue RandomShuffleQueue",
        "dtrain.tf1.parsing": """
            FixedLenFeature decode_csv decode_raw parse_example parse_single_example read_file
            string_to_number
        """,
        "dtrain.tf1.tables": "initialize_all_tables tables_initializer",
        "dtrain.tf1.queues": "FixedLengthRecordReader TFRecordReader TextLineReader WholeFileReader",
    },
    "tf.data": {
        "dtrain.tf1.dataset": """
            Dataset FixedLengthRecordDataset Iterator TFRecordDataset TextLineDataset get_output_classes
            get_output_shapes get_output_types make_initializable_iterator make_one_shot_iterator
        """,
    },
    "tf.estimator": {
        "dtrain.train": """
            CheckpointSaverHook FeedFnHook FinalOpsHook LoggingTensorHook NanLossDuringTrainingError
            NanTensorHook ProfilerHook SecondOrStepTimer SessionRunArgs SessionRunContext SessionRunHook
            SessionRunValues StepCounterHook StopAtStepHook SummarySaverHook
        """,
    },
    "tf.train": {
        "dtrain.tf1.example": "BytesList Example Feature Features FloatList Int64List",
        "dtrain.tf1.fifo": "QueueRunner add_queue_runner",
        "dtrain.tf1.queues": """
            Coordinator batch batch_join input_producer limit_epochs match_filenames_once range_input_producer
            shuffle_batch shuffle_batch_join slice_input_producer start_queue_runners string_input_producer
        """,
    },
}
