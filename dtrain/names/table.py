"""TensorFlow 1's public names that dtrain knows of, and what is to be said of those it has in part or not.

Whether a name is supported is not written here: it is looked up in the code. Scope: the core of TensorFlow
1.12 that programs for one machine use, and loss scales of 1.15; whole areas that are left out are one entry.
"""

from __future__ import annotations

#: Names by module, one entry a name.
NAMES: dict[str, str] = {
    "tf": """
        abs accumulate_n acos acosh add add_check_numerics_ops add_n add_to_collection add_to_collections
        AggregationMethod all_variables app arg_max arg_min argmax argmin as_dtype as_string asin asinh
        assert_equal assert_greater assert_greater_equal assert_integer assert_less assert_less_equal
        assert_negative assert_non_negative assert_non_positive assert_none_equal assert_positive
        assert_rank assert_scalar assert_variables_initialized assign assign_add assign_sub atan atan2
        atanh AttrValue AUTO_REUSE batch_to_space betainc bincount bitcast bitwise bool boolean_mask
        broadcast_dynamic_shape broadcast_static_shape broadcast_to case cast ceil check_numerics cholesky
        clip_by_average_norm clip_by_global_norm clip_by_norm clip_by_value colocate_with complex
        complex128 complex64 concat cond ConfigProto confusion_matrix conj constant constant_initializer
        container contrib control_dependencies convert_to_tensor convert_to_tensor_or_indexed_slices cos
        cosh count_nonzero count_up_to create_partitioned_variables cross cumprod cumsum custom_gradient
        data debugging decode_csv decode_raw depth_to_space dequantize deserialize_many_sparse device diag
        diag_part digamma Dimension distribute distributions div div_no_nan divide DType dynamic_partition
        dynamic_stitch edit_distance einsum enable_eager_execution encode_base64 equal erf erfc errors
        estimator Event executing_eagerly exp expand_dims expm1 extract_image_patches eye feature_column
        FIFOQueue fill fixed_size_partitioner FixedLenFeature flags float16 float32 float64 floor
        floor_div floordiv floormod foldl foldr gather gather_nd get_collection get_collection_ref
        get_default_graph get_default_session get_local_variable get_seed get_session_handle get_variable
        get_variable_scope gfile global_norm global_variables global_variables_initializer
        glorot_normal_initializer glorot_uniform_initializer GPUOptions gradients GradientTape Graph
        graph_util GraphDef GraphKeys GraphOptions greater greater_equal group guarantee_const hessians
        histogram_fixed_width identity identity_n igamma image import_graph_def IndexedSlices
        initialize_all_tables initialize_all_variables initialize_local_variables initialize_variables
        initializers int16 int32 int64 int8 InteractiveSession invert_permutation io is_finite is_inf
        is_nan is_non_decreasing is_numeric_tensor is_strictly_increasing is_variable_initialized keras
        layers lbeta less less_equal lgamma lin_space linalg linspace load_op_library local_variables
        local_variables_initializer log log1p log_sigmoid logging logical_and logical_not logical_or
        logical_xor losses make_ndarray make_template make_tensor_proto manip map_fn matching_files math
        matmul matrix_band_part matrix_determinant matrix_diag matrix_diag_part matrix_inverse
        matrix_set_diag matrix_solve matrix_solve_ls matrix_transpose matrix_triangular_solve maximum
        meshgrid metrics min_max_variable_partitioner minimum mod model_variables moving_average_variables
        multinomial multiply name_scope negative newaxis nn no_op no_regularizer NodeDef NoGradient norm
        not_equal NotDifferentiable one_hot ones ones_initializer ones_like op_scope Operation
        OptimizerOptions orthogonal_initializer pad parallel_stack parse_example placeholder
        placeholder_with_default polygamma pow Print print PriorityQueue profiler py_func python_io qr
        quantization quantize random random_crop random_gamma random_normal random_normal_initializer
        random_poisson random_shuffle random_uniform random_uniform_initializer RandomShuffleQueue range
        rank read_file ReaderBase real realdiv reciprocal reduce_all reduce_any reduce_logsumexp
        reduce_max reduce_mean reduce_min reduce_prod reduce_sum register_tensor_conversion_function
        RegisterGradient report_uninitialized_variables required_space_to_batch_paddings
        reset_default_graph reshape resource resource_loader reverse reverse_sequence reverse_v2 rint
        round rsqrt RunMetadata RunOptions saved_model scalar_mul scan scatter_add scatter_nd scatter_sub
        scatter_update searchsorted segment_max segment_mean segment_min segment_prod segment_sum
        self_adjoint_eig sequence_mask serialize_tensor Session set_random_seed setdiff1d sets shape
        shape_n sigmoid sign sin sinh size slice space_to_batch space_to_depth sparse_placeholder
        sparse_reduce_sum sparse_tensor_to_dense sparse_to_dense SparseTensor spectral split sqrt square
        squared_difference squeeze stack stop_gradient strided_slice string string_join string_split
        string_to_number strings substr subtract summary Summary svd sysconfig tables_initializer tan tanh
        Tensor TensorArray tensordot TensorShape test TextLineReader tfprof TFRecordReader tile timestamp
        to_bfloat16 to_double to_float to_int32 to_int64 tpu trace train trainable_variables transpose
        truediv truncated_normal truncated_normal_initializer truncatediv truncatemod tuple uint16 uint8
        uniform_unit_scaling_initializer unique unravel_index unsorted_segment_sum unstack user_ops
        Variable variable_axis_size_partitioner variable_op_scope variable_scope VariableAggregation
        variables_initializer VariableScope variance_scaling_initializer VarLenFeature
        verify_tensor_all_finite where while_loop write_file zeros zeros_initializer zeros_like zeta
    """,
    "tf.nn": """
        all_candidate_sampler atrous_conv2d avg_pool avg_pool3d batch_normalization bias_add
        bidirectional_dynamic_rnn compute_accidental_hits conv1d conv2d conv2d_backprop_filter
        conv2d_backprop_input conv2d_transpose conv3d convolution crelu
        ctc_beam_search_decoder ctc_greedy_decoder ctc_loss
        depthwise_conv2d dilation2d dropout dynamic_rnn elu embedding_lookup embedding_lookup_sparse
        erosion2d fixed_unigram_candidate_sampler fractional_max_pool fused_batch_norm in_top_k l2_loss
        l2_normalize leaky_relu local_response_normalization log_poisson_loss log_softmax
        log_uniform_candidate_sampler lrn max_pool max_pool3d max_pool_with_argmax moments nce_loss
        normalize_moments pool raw_rnn relu relu6 relu_layer rnn_cell sampled_softmax_loss selu
        separable_conv2d sigmoid sigmoid_cross_entropy_with_logits softmax
        softmax_cross_entropy_with_logits softmax_cross_entropy_with_logits_v2 softplus softsign
        space_to_batch sparse_softmax_cross_entropy_with_logits static_bidirectional_rnn static_rnn
        sufficient_statistics swish tanh top_k uniform_candidate_sampler
        weighted_cross_entropy_with_logits weighted_moments with_space_to_batch xw_plus_b zero_fraction
    """,
    "tf.train": """
        AdadeltaOptimizer AdagradDAOptimizer AdagradOptimizer AdamOptimizer add_queue_runner
        assert_global_step basic_train_loop batch batch_join BytesList Checkpoint checkpoint_exists
        CheckpointManager CheckpointSaverHook ChiefSessionCreator ClusterDef ClusterSpec Coordinator
        cosine_decay cosine_decay_restarts create_global_step Example exponential_decay
        ExponentialMovingAverage export_meta_graph Feature Features FeedFnHook FloatList FtrlOptimizer
        generate_checkpoint_state_proto get_checkpoint_mtimes get_checkpoint_state get_global_step
        get_or_create_global_step global_step GradientDescentOptimizer import_meta_graph
        init_from_checkpoint input_producer Int64List inverse_time_decay latest_checkpoint limit_epochs
        linear_cosine_decay list_variables load_checkpoint load_variable LoggingTensorHook LooperThread
        match_filenames_once maybe_batch MomentumOptimizer MonitoredSession MonitoredTrainingSession
        NanTensorHook natural_exp_decay noisy_linear_cosine_decay Optimizer piecewise_constant
        polynomial_decay ProximalAdagradOptimizer ProximalGradientDescentOptimizer QueueRunner
        range_input_producer remove_checkpoint replica_device_setter RMSPropOptimizer Saver SaverDef
        Scaffold sdca_optimizer SequenceExample Server ServerDef SessionCreator SessionManager
        SessionRunArgs SessionRunHook shuffle_batch SingularMonitoredSession slice_input_producer
        start_queue_runners StepCounterHook StopAtStepHook string_input_producer summary_iterator
        SummarySaverHook Supervisor SyncReplicasOptimizer update_checkpoint_state warm_start write_graph
    """,
    "tf.train.experimental": """
        disable_mixed_precision_graph_rewrite DynamicLossScale enable_mixed_precision_graph_rewrite
        FixedLossScale LossScale MixedPrecisionLossScaleOptimizer PythonState
    """,
    "tf.layers": """
        average_pooling1d average_pooling2d AveragePooling2D batch_normalization BatchNormalization conv1d
        conv2d Conv2D conv2d_transpose conv3d Dense dense Dropout dropout flatten Flatten Layer
        max_pooling1d max_pooling2d MaxPooling2D separable_conv2d
    """,
    "tf.contrib.rnn": """
        AttentionCellWrapper BasicLSTMCell BasicRNNCell Conv1DLSTMCell Conv2DLSTMCell
        core_rnn_cell CoupledInputForgetGateLSTMCell DeviceWrapper DropoutWrapper EmbeddingWrapper
        FusedRNNCell GLSTMCell
        GridLSTMCell GRUBlockCell GRUCell
        HighwayWrapper InputProjectionWrapper LayerNormBasicLSTMCell LayerRNNCell LSTMBlockCell
        LSTMBlockFusedCell LSTMCell LSTMStateTuple MultiRNNCell NASCell OutputProjectionWrapper
        PhasedLSTMCell ResidualWrapper RNNCell stack_bidirectional_dynamic_rnn stack_bidirectional_rnn
        static_bidirectional_rnn static_rnn TimeFreqLSTMCell UGRNNCell
    """,
    "tf.contrib.seq2seq": """
        AttentionWrapper BahdanauAttention BasicDecoder BeamSearchDecoder dynamic_decode
        GreedyEmbeddingHelper LuongAttention sequence_loss tile_batch TrainingHelper
    """,
    "tf.contrib.legacy_seq2seq": """
        attention_decoder basic_rnn_seq2seq embedding_attention_seq2seq embedding_rnn_decoder
        embedding_rnn_seq2seq model_with_buckets rnn_decoder sequence_loss sequence_loss_by_example
        tied_rnn_seq2seq
    """,
    "tf.nn.seq2seq": "rnn_decoder sequence_loss sequence_loss_by_example",
    "tf.nn.rnn_cell": """
        BasicLSTMCell BasicRNNCell DeviceWrapper DropoutWrapper GRUCell LSTMCell LSTMStateTuple
        MultiRNNCell ResidualWrapper RNNCell
    """,
    "tf.losses": """
        absolute_difference add_loss compute_weighted_loss cosine_distance get_losses
        get_regularization_loss get_regularization_losses get_total_loss hinge_loss huber_loss log_loss
        mean_pairwise_squared_error mean_squared_error Reduction sigmoid_cross_entropy
        softmax_cross_entropy sparse_softmax_cross_entropy
    """,
    "tf.metrics": """
        accuracy auc average_precision_at_k false_negatives false_positives mean mean_absolute_error
        mean_squared_error precision recall root_mean_squared_error true_negatives true_positives
    """,
    "tf.summary": """
        audio Event FileWriter FileWriterCache get_summary_description histogram image merge merge_all
        scalar SessionLog Summary SummaryDescription tensor_summary text
    """,
    "tf.initializers": """
        constant global_variables glorot_normal glorot_uniform he_normal he_uniform identity lecun_normal
        lecun_uniform local_variables ones orthogonal random_normal random_uniform truncated_normal
        uniform_unit_scaling variables variance_scaling zeros
    """,
    "tf.errors": """
        AbortedError AlreadyExistsError CancelledError DataLossError DeadlineExceededError
        FailedPreconditionError InternalError InvalidArgumentError NotFoundError OpError OutOfRangeError
        PermissionDeniedError ResourceExhaustedError UnavailableError UnimplementedError UnknownError
    """,
    "tf.contrib": """
        autograph cluster_resolver crf data distributions eager estimator framework layers learn metrics
        opt rnn seq2seq slim staging summary tensorboard training
    """,
    "tf.contrib.layers": """
        apply_regularization avg_pool2d batch_norm bias_add conv2d dropout embed_sequence flatten
        fully_connected l1_l2_regularizer l1_regularizer l2_regularizer layer_norm linear max_pool2d
        one_hot_encoding optimize_loss relu repeat separable_conv2d softmax stack sum_regularizer
        summarize_tensor
        variance_scaling_initializer xavier_initializer xavier_initializer_conv2d
    """,
    "tf.keras": """
        activations applications backend callbacks constraints datasets estimator initializers Input
        layers losses metrics Model models optimizers preprocessing regularizers Sequential utils wrappers
    """,
    "tf.keras.activations": """
        deserialize elu exponential get hard_sigmoid linear relu selu serialize sigmoid softmax softplus
        softsign tanh
    """,
    "tf.keras.callbacks": """
        BaseLogger Callback CSVLogger EarlyStopping History LambdaCallback LearningRateScheduler
        ModelCheckpoint ProgbarLogger ReduceLROnPlateau RemoteMonitor TensorBoard TerminateOnNaN
    """,
    "tf.keras.datasets": "boston_housing cifar10 cifar100 fashion_mnist imdb mnist reuters",
    "tf.keras.initializers": """
        Constant constant deserialize get glorot_normal glorot_uniform he_normal he_uniform Identity
        identity Initializer lecun_normal lecun_uniform normal Ones ones Orthogonal orthogonal
        random_normal random_uniform RandomNormal RandomUniform serialize truncated_normal
        TruncatedNormal uniform VarianceScaling Zeros zeros
    """,
    "tf.keras.layers": """
        Activation ActivityRegularization Add add AlphaDropout Average average AveragePooling1D
        AveragePooling2D AveragePooling3D AvgPool1D AvgPool2D AvgPool3D BatchNormalization Bidirectional
        Concatenate concatenate Conv1D Conv2D Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM2D
        Convolution1D Convolution2D Convolution2DTranspose Convolution3D Cropping1D Cropping2D Cropping3D
        CuDNNGRU CuDNNLSTM Dense DepthwiseConv2D Dot dot Dropout ELU Embedding Flatten GaussianDropout
        GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
        GlobalAvgPool1D GlobalAvgPool2D GlobalMaxPool1D GlobalMaxPool2D GlobalMaxPooling1D
        GlobalMaxPooling2D GlobalMaxPooling3D GRU GRUCell Input InputLayer InputSpec Lambda Layer
        LeakyReLU LocallyConnected1D LocallyConnected2D LSTM LSTMCell Masking Maximum maximum MaxPool1D
        MaxPool2D MaxPool3D MaxPooling1D MaxPooling2D MaxPooling3D Minimum minimum Multiply multiply
        Permute PReLU ReLU RepeatVector Reshape RNN SeparableConv1D SeparableConv2D SimpleRNN
        SimpleRNNCell Softmax SpatialDropout1D SpatialDropout2D SpatialDropout3D StackedRNNCells
        Subtract subtract ThresholdedReLU TimeDistributed UpSampling1D UpSampling2D UpSampling3D Wrapper
        ZeroPadding1D ZeroPadding2D ZeroPadding3D
    """,
    "tf.keras.losses": """
        binary_crossentropy categorical_crossentropy categorical_hinge cosine deserialize get hinge KLD
        kld kullback_leibler_divergence logcosh MAE mae MAPE mape mean_absolute_error
        mean_absolute_percentage_error mean_squared_error mean_squared_logarithmic_error MSE mse MSLE
        msle poisson serialize sparse_categorical_crossentropy squared_hinge
    """,
    "tf.keras.metrics": """
        binary_accuracy categorical_accuracy deserialize get serialize sparse_categorical_accuracy
        sparse_top_k_categorical_accuracy top_k_categorical_accuracy
    """,
    "tf.keras.models": """
        clone_model load_model Model model_from_config model_from_json model_from_yaml save_model
        Sequential
    """,
    "tf.keras.optimizers": """
        Adadelta Adagrad Adam Adamax deserialize get Nadam Optimizer RMSprop serialize SGD
    """,
    "tf.keras.regularizers": "deserialize get l1 l1_l2 L1L2 l2 Regularizer serialize",
    "tf.keras.utils": """
        convert_all_kernels_in_model custom_object_scope CustomObjectScope deserialize_keras_object
        GeneratorEnqueuer get_custom_objects get_file get_source_inputs HDF5Matrix multi_gpu_model
        normalize OrderedEnqueuer plot_model Progbar Sequence SequenceEnqueuer serialize_keras_object
        to_categorical
    """,
}

#: What differs from TensorFlow 1 in names that are there.
PARTIAL: dict[str, str] = {
    "tf.assign": "validate_shape is True",
    "tf.boolean_mask": "the mask is a constant",
    "tf.ConfigProto": "fields that mean nothing here are taken and change nothing",
    "tf.contrib": "layers",
    "tf.get_variable": "no partitioner",
    "tf.GPUOptions": "its fields are taken and change nothing",
    "tf.cond": "where the condition follows from values both branches are computed, without optimizers",
    "tf.gradients": "no gate_gradients and aggregation_method",
    "tf.keras": "models are Sequential; modules as below",
    "tf.pad": "mode is CONSTANT",
    "tf.sequence_mask": "maxlen has to be given",
    "tf.RunMetadata": "step_stats, for timeline.Timeline",
    "tf.RunOptions": "trace_level",
    "tf.Session": "target is ''",
    "tf.Variable": "its sizes are known when it is made and do not change",
    "tf.TensorArray": "indices follow from counters and shapes; no handle and split",
    "tf.while_loop": "where its steps cannot be counted no gradient without maximum_iterations; no writes",
    "tf.where": "with a condition alone, it is a constant",
    "tf.contrib.layers": "initializers and regularizers",
    "tf.keras.datasets": "mnist",
    "tf.keras.callbacks.Callback": "no calls around the batches of a test, in evaluate and predict",
    "tf.keras.callbacks.TensorBoard": "no gradients, images and embeddings",
    "tf.keras.layers.BatchNormalization": "axis is the last; synchronized=False is its own",
    "tf.keras.layers.Conv2D": "data_format is channels_last; no constraints and activity_regularizer",
    "tf.keras.layers.Dense": "no constraints and activity_regularizer",
    "tf.keras.models.Sequential": "arrays, no generators; one input and one output",
    "tf.keras.Sequential": "arrays, no generators; one input and one output",
    "tf.train.AdadeltaOptimizer": "only the learning rate may be a tensor",
    "tf.train.AdagradOptimizer": "only the learning rate may be a tensor",
    "tf.train.AdamOptimizer": "only the learning rate may be a tensor",
    "tf.train.cosine_decay_restarts": "t_mul is a number",
    "tf.train.experimental.DynamicLossScale": "no update, get_config; from 1 to 2**24",
    "tf.train.experimental.FixedLossScale": "no update, get_config",
    "tf.train.MomentumOptimizer": "only the learning rate may be a tensor",
    "tf.train.Optimizer": "subclasses write `_update`, not `_apply_dense`; no aggregation_method",
    "tf.train.RMSPropOptimizer": "only the learning rate may be a tensor",
    "tf.train.Saver": "no sharded, keep_checkpoint_every_n_hours; files are safetensors",
}

#: Why names are not there, where there is more to say than that.
_WHY: dict[str, str] = {
    "there are no queues and readers: feed batches, such as those of next_batch": """
        tf.FIFOQueue tf.PriorityQueue tf.RandomShuffleQueue tf.ReaderBase tf.TFRecordReader
        tf.TextLineReader tf.decode_csv tf.decode_raw tf.parse_example tf.FixedLenFeature tf.VarLenFeature
        tf.data tf.python_io tf.train.Coordinator tf.train.LooperThread tf.train.QueueRunner
        tf.train.add_queue_runner tf.train.batch tf.train.batch_join tf.train.input_producer
        tf.train.limit_epochs tf.train.maybe_batch tf.train.range_input_producer tf.train.shuffle_batch
        tf.train.slice_input_producer tf.train.start_queue_runners tf.train.string_input_producer
        tf.train.Example tf.train.Feature tf.train.Features tf.train.SequenceExample tf.train.BytesList
        tf.train.FloatList tf.train.Int64List tf.train.match_filenames_once
    """,
    "tensors are dense": """
        tf.IndexedSlices tf.SparseTensor tf.convert_to_tensor_or_indexed_slices tf.deserialize_many_sparse
        tf.sparse_placeholder tf.sparse_reduce_sum tf.sparse_tensor_to_dense tf.sparse_to_dense
        tf.nn.embedding_lookup_sparse tf.edit_distance
    """,
    "it computes with numbers: prepare text in Python before it is fed": """
        tf.as_string tf.encode_base64 tf.string_join tf.string_split tf.string_to_number tf.strings
        tf.substr
    """,
    "numbers are real": "tf.complex tf.complex64 tf.complex128 tf.conj tf.real tf.spectral",
    "read and write files in Python, outside of the graph": """
        tf.matching_files tf.read_file tf.write_file tf.gfile tf.io
    """,
    "write the loop with while_loop, or take dynamic_rnn with sequence_length": "tf.nn.raw_rnn",
    "it has no connectionist temporal classification": """
        tf.nn.ctc_loss tf.nn.ctc_greedy_decoder tf.nn.ctc_beam_search_decoder
    """,
    "it has no decoders and attention": """
        tf.contrib.crf tf.contrib.rnn.AttentionCellWrapper tf.contrib.seq2seq.AttentionWrapper
        tf.contrib.seq2seq.BasicDecoder tf.contrib.seq2seq.BeamSearchDecoder
        tf.contrib.seq2seq.BahdanauAttention tf.contrib.seq2seq.LuongAttention
        tf.contrib.seq2seq.GreedyEmbeddingHelper tf.contrib.seq2seq.TrainingHelper
        tf.contrib.seq2seq.dynamic_decode tf.contrib.seq2seq.tile_batch
        tf.contrib.legacy_seq2seq.attention_decoder tf.contrib.legacy_seq2seq.basic_rnn_seq2seq
        tf.contrib.legacy_seq2seq.embedding_attention_seq2seq
        tf.contrib.legacy_seq2seq.embedding_rnn_decoder tf.contrib.legacy_seq2seq.embedding_rnn_seq2seq
        tf.contrib.legacy_seq2seq.model_with_buckets tf.contrib.legacy_seq2seq.tied_rnn_seq2seq
    """,
    "it has no matrix decompositions; NumPy computes them outside of the graph": """
        tf.cholesky tf.matrix_determinant tf.matrix_inverse tf.matrix_solve tf.matrix_solve_ls
        tf.matrix_triangular_solve tf.qr tf.self_adjoint_eig tf.svd tf.linalg
    """,
    "variables are not split: every rank holds all of them": """
        tf.create_partitioned_variables tf.fixed_size_partitioner tf.min_max_variable_partitioner
        tf.variable_axis_size_partitioner
    """,
    "there are no servers: start the ranks with mpirun, every one runs the whole program": """
        tf.distribute tf.tpu tf.train.ClusterDef tf.train.ClusterSpec tf.train.Server tf.train.ServerDef
        tf.train.Supervisor tf.train.SyncReplicasOptimizer tf.train.replica_device_setter
        tf.contrib.cluster_resolver
    """,
    "write the training loop around Session.run": """
        tf.train.SessionCreator tf.train.SessionManager tf.train.basic_train_loop
    """,
    "a graph is defined, then run": """
        tf.GradientTape tf.enable_eager_execution tf.custom_gradient tf.contrib.eager
    """,
    "checkpoints and graphs are not kept in TensorFlow's formats": """
        tf.import_graph_def tf.saved_model tf.graph_util tf.train.export_meta_graph
        tf.train.import_meta_graph tf.train.write_graph tf.train.SaverDef tf.make_tensor_proto
        tf.make_ndarray
    """,
    "it is another layer above the graph, out of scope": """
        tf.estimator tf.feature_column tf.distributions tf.contrib.estimator tf.contrib.learn
        tf.contrib.slim
    """,
    "NumPy functions work on what Session.run returns, outside of the graph": "tf.py_func",
    "the gradients of several uses are added up in one way": "tf.AggregationMethod",
    "the device is one for a session: Session(device='gpu') or --device": "tf.device",
    "an op's gradient is its class's: see dtrain/ops/base.py": "tf.RegisterGradient",
    "AdagradOptimizer is close": "tf.train.AdagradDAOptimizer",
    "the optimizers are those of Ruder's overview": """
        tf.train.FtrlOptimizer tf.train.ProximalAdagradOptimizer tf.train.ProximalGradientDescentOptimizer
    """,
    "dt.train has NadamOptimizer and AdaMaxOptimizer": "tf.contrib.opt",
    "what products are rounded to is the session's: its device's precision, or --precision": """
        tf.train.experimental.disable_mixed_precision_graph_rewrite
        tf.train.experimental.enable_mixed_precision_graph_rewrite
    """,
    "loss scales are DynamicLossScale and FixedLossScale": "tf.train.experimental.LossScale",
    "models are Sequential": """
        tf.keras.Model tf.keras.models.Model tf.keras.models.model_from_config tf.keras.layers.Add
        tf.keras.layers.add tf.keras.layers.Concatenate tf.keras.layers.concatenate
        tf.keras.layers.Average tf.keras.layers.average tf.keras.layers.Multiply
        tf.keras.layers.multiply tf.keras.layers.Subtract tf.keras.layers.subtract tf.keras.layers.Dot
        tf.keras.layers.dot tf.keras.layers.Maximum tf.keras.layers.maximum tf.keras.layers.Minimum
        tf.keras.layers.minimum
    """,
    "a model is saved by its method save": "tf.keras.models.save_model",
    "models are saved as JSON": "tf.keras.models.model_from_yaml",
    "the ranks of mpirun are what shares the work": "tf.keras.utils.multi_gpu_model",
    "give an object's get_config()": """
        tf.keras.activations.serialize tf.keras.initializers.serialize tf.keras.losses.serialize
        tf.keras.metrics.serialize tf.keras.optimizers.serialize tf.keras.regularizers.serialize
        tf.keras.utils.serialize_keras_object
    """,
    "get takes what get_config gave": """
        tf.keras.activations.deserialize tf.keras.initializers.deserialize tf.keras.losses.deserialize
        tf.keras.metrics.deserialize tf.keras.optimizers.deserialize
        tf.keras.regularizers.deserialize tf.keras.utils.deserialize_keras_object
    """,
    "fit prints its own progress": "tf.keras.callbacks.ProgbarLogger tf.keras.callbacks.BaseLogger",
}
REASONS: dict[str, str] = {name: reason for reason, names in _WHY.items() for name in names.split()}

#: What dtrain offers beside TensorFlow 1's names.
OWN: dict[str, str] = {
    "Shard": "this rank's rows of a batch, to feed: dt.Shard(rows, total)",
    "Task": "what `dtrain train FILE.py` trains: data, model, loss, metrics, optimizer",
    "mul": "multiply, under the name that TensorFlow had for it before 1.0",
    "neg": "negative, likewise",
    "select": "where, likewise",
    "sub": "subtract, likewise",
    "train.NadamOptimizer": "tf.contrib.opt had it",
    "train.AdaMaxOptimizer": "tf.contrib.opt had it",
}


def refusal(module: str, name: str) -> str:
    """What is said of a name of TensorFlow's that is not here; '' for one that TensorFlow has not either."""
    if name not in NAMES.get(module, "").split() and f"{module}.{name}" not in NAMES:
        return ""
    why = REASONS.get(f"{module}.{name}", "it is not supported")
    return f"dtrain has no {module}.{name}: {why}. docs/tensorflow1.md lists what there is."
