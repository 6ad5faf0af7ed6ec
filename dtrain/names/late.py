"""The names that load on first use: by TensorFlow's module, the module of dtrain's and the names in it.

A whole module of dtrain/tf1 needs no line here: it is found by its path.
"""

from __future__ import annotations

LATE: dict[str, dict[str, str]] = {
    "tf": {
        "dtrain.comm.launch": "launch",
        "dtrain.ops.asserts": """
            assert_equal assert_greater assert_greater_equal assert_integer assert_less assert_less_equal
            assert_negative assert_non_negative assert_non_positive assert_none_equal assert_positive
            assert_rank assert_rank_at_least assert_rank_in assert_scalar assert_type is_non_decreasing
            is_strictly_increasing
        """,
        "dtrain.ops.host": "Assert Print print py_func",
        "dtrain.ops.sampling": "multinomial random_crop",
        "dtrain.ops.tensors": """
            accumulate_n atan2 bincount broadcast_static_shape check_numerics clip_by_average_norm
            confusion_matrix count_up_to cross cumprod depth_to_space div_no_nan einsum erfc
            histogram_fixed_width identity_n invert_permutation is_numeric_tensor log_sigmoid
            matrix_band_part matrix_set_diag meshgrid norm realdiv reverse_sequence reverse_v2 scalar_mul
            scatter_add scatter_nd scatter_sub scatter_update shape_n space_to_depth sparse_to_dense
            tensordot truncatediv truncatemod unsorted_segment_sum verify_tensor_all_finite
        """,
        "dtrain.runtime.config": "GraphOptions OptimizerOptions",
        "dtrain.tf1.averages": "moving_average_variables",
        "dtrain.tf1.composites": """
            argsort batch_gather dimension_at_index dimension_value double ensure_shape get_logger
            get_static_value half init_scope is_tensor roll saturate_cast sort switch_case where_v2
        """,
        "dtrain.tf1.control_flow": "case cond foldl foldr map_fn scan while_loop",
        "dtrain.tf1.devices": "colocate_with container device",
        "dtrain.tf1.fifo": "FIFOQueue RandomShuffleQueue",
        "dtrain.tf1.initial": "orthogonal_initializer uniform_unit_scaling_initializer",
        "dtrain.tf1.messages": "Event Summary",
        "dtrain.tf1.old": """
            assert_variables_initialized executing_eagerly no_regularizer op_scope parallel_stack
            strided_slice variable_op_scope
        """,
        "dtrain.tf1.parsing": """
            decode_csv decode_raw FixedLenFeature parse_example parse_single_example read_file
            string_to_number
        """,
        "dtrain.tf1.queues": "FixedLengthRecordReader TextLineReader TFRecordReader WholeFileReader",
        "dtrain.tf1.sparse": """
            SparseTensor SparseTensorValue sparse_add sparse_reduce_max sparse_reduce_sum
            sparse_tensor_dense_matmul sparse_tensor_to_dense
        """,
        "dtrain.tf1.strings": "as_string reduce_join regex_replace string_join string_split substr",
        "dtrain.tf1.tables": "initialize_all_tables tables_initializer",
        "dtrain.tf1.templates": "make_template",
        "dtrain.tf1.tensor_array": "TensorArray",
        "dtrain.tf1.v0": """
            batch_matmul histogram_summary image_summary inv merge_all_summaries merge_summary pack
            scalar_summary unpack
        """,
        "dtrain.train.meta_graph": "import_graph_def MetaGraphDef",
        "dtrain.tf1.windows": "extract_image_patches",
        "dtrain.tf1.v1": """
            disable_eager_execution disable_resource_variables disable_v2_behavior disable_v2_tensorshape
            GIT_VERSION COMPILER_VERSION VERSION
        """,
    },
    "tf.data": {
        "dtrain.tf1.dataset": """
            Dataset FixedLengthRecordDataset get_output_classes get_output_shapes get_output_types Iterator
            make_initializable_iterator make_one_shot_iterator TextLineDataset TFRecordDataset
        """,
    },
    "tf.debugging": {
        "dtrain": """
            Assert assert_equal assert_greater assert_greater_equal assert_integer assert_less
            assert_less_equal assert_negative assert_non_negative assert_non_positive assert_none_equal
            assert_positive assert_rank assert_rank_at_least assert_rank_in assert_scalar assert_type
            check_numerics is_finite is_inf is_nan is_non_decreasing is_numeric_tensor
            is_strictly_increasing
        """,
    },
    "tf.dtypes": {
        "dtrain": "as_dtype as_string bool cast DType double float16 float32 float64 half int16 int32 int64 "
        "int8 saturate_cast string uint8",
    },
    "tf.estimator": {
        "dtrain.train": """
            CheckpointSaverHook FeedFnHook FinalOpsHook LoggingTensorHook NanLossDuringTrainingError
            NanTensorHook ProfilerHook SecondOrStepTimer SessionRunArgs SessionRunContext SessionRunHook
            SessionRunValues StepCounterHook StopAtStepHook SummarySaverHook
        """,
    },
    "tf.initializers": {
        "dtrain.tf1.initial": "orthogonal uniform_unit_scaling",
    },
    "tf.io": {
        "dtrain": """
            decode_csv decode_raw FixedLenFeature parse_example parse_single_example read_file
        """,
        "dtrain.tf1.graphs": "write_graph",
        "dtrain.tf1.image": "decode_image decode_jpeg decode_png",
        "dtrain.tf1.python_io": """
            tf_record_iterator TFRecordCompressionType TFRecordOptions TFRecordWriter
        """,
    },
    "tf.linalg": {
        "dtrain": "cross einsum eye matmul matrix_transpose norm tensordot trace",
        "dtrain.nn": "l2_normalize",
        "dtrain.tf1.newer": "band_part diag diag_part set_diag tensor_diag tensor_diag_part transpose",
    },
    "tf.manip": {
        "dtrain": "gather_nd reshape reverse roll scatter_nd tile",
    },
    "tf.math": {
        "dtrain": """
            abs accumulate_n acos acosh add add_n argmax argmin asin asinh atan atan2 atanh bincount ceil
            confusion_matrix cos cosh count_nonzero cross cumprod cumsum div_no_nan divide equal erf erfc
            exp expm1 floor floordiv floormod greater greater_equal invert_permutation less less_equal log
            log1p log_sigmoid logical_and logical_not logical_or logical_xor maximum minimum mod multiply
            negative not_equal pow reciprocal reduce_all reduce_any reduce_logsumexp reduce_max reduce_mean
            reduce_min reduce_prod reduce_sum rint round rsqrt scalar_mul sigmoid sign sin sinh sqrt square
            squared_difference subtract tan tanh truediv truncatediv truncatemod unsorted_segment_sum
        """,
        "dtrain.nn": "in_top_k l2_normalize log_softmax softmax softplus softsign top_k zero_fraction",
        "dtrain.tf1.composites": """
            divide_no_nan multiply_no_nan polyval reciprocal_no_nan reduce_euclidean_norm reduce_std
            reduce_variance xdivy xlogy
        """,
        "dtrain.tf1.newer": "is_finite is_inf is_nan",
    },
    "tf.nn": {
        "dtrain.ops.convolutions": """
            avg_pool3d conv1d conv1d_transpose conv3d conv3d_transpose convolution depthwise_conv2d
            local_response_normalization lrn max_pool3d pool separable_conv2d
        """,
        "dtrain.ops.moments": "normalize_moments sufficient_statistics weighted_moments",
        "dtrain.ops.sampling": """
            log_uniform_candidate_sampler nce_loss sampled_softmax_loss uniform_candidate_sampler
        """,
        "dtrain": "depth_to_space space_to_depth",
        "dtrain.tf1.composites": """
            avg_pool1d avg_pool2d batch_norm_with_global_normalization depthwise_conv2d_native
            log_poisson_loss max_pool1d max_pool2d silu
        """,
        "dtrain.tf1.sparse": "embedding_lookup_sparse",
        "dtrain.tf1.windows": "dilation2d erosion2d max_pool_with_argmax",
        "dtrain.tf1.recurrent": """
            bidirectional_dynamic_rnn bidirectional_rnn dynamic_rnn rnn static_bidirectional_rnn static_rnn
        """,
    },
    "tf.random": {
        "dtrain": "multinomial set_random_seed truncated_normal",
        "dtrain.tf1.newer": "categorical normal shuffle uniform",
    },
    "tf.summary": {
        "dtrain.tf1.graphs": "FileWriterCache",
        "dtrain.tf1.messages": "Event SessionLog Summary SummaryDescription",
    },
    "tf.train": {
        "dtrain.tf1.averages": "ExponentialMovingAverage",
        "dtrain.tf1.composites": "SaverDef",
        "dtrain.tf1.cluster": "ClusterSpec replica_device_setter Server Supervisor SyncReplicasOptimizer",
        "dtrain.tf1.example": "BytesList Example Feature Features FloatList Int64List",
        "dtrain.tf1.fifo": "add_queue_runner QueueRunner",
        "dtrain.tf1.graphs": "write_graph",
        "dtrain.tf1.proximal": """
            AdagradDAOptimizer FtrlOptimizer ProximalAdagradOptimizer ProximalGradientDescentOptimizer
        """,
        "dtrain.tf1.queues": """
            batch batch_join Coordinator input_producer limit_epochs match_filenames_once
            range_input_producer shuffle_batch shuffle_batch_join slice_input_producer start_queue_runners
            string_input_producer
        """,
        "dtrain.tf1.v0": "SummaryWriter",
        "dtrain.train.meta_graph": "export_meta_graph import_meta_graph",
        "dtrain.train.readers": """
            init_from_checkpoint list_variables load_checkpoint load_variable NewCheckpointReader
        """,
        "dtrain.train.schedules": "linear_cosine_decay",
    },
}
