"""TensorFlow 1's public names that dtrain knows of, and what is to be said of those it has in part or not.

Whether a name is supported is not written here: it is looked up in the code. Scope: the core of TensorFlow
1.12 that programs for one machine use, and loss scales of 1.15; whole areas that are left out are one entry.
"""

from __future__ import annotations

#: Names by module, one entry a name.
NAMES: dict[str, str] = {
    "tf": """
        abs accumulate_n acos acosh add add_check_numerics_ops add_n add_to_collection add_to_collections
        AggregationMethod all_variables app arg_max arg_min argmax argmin argsort as_dtype as_string asin
        asinh Assert assert_equal assert_greater assert_greater_equal assert_integer assert_less
        assert_less_equal assert_negative assert_non_negative assert_non_positive assert_none_equal
        assert_positive assert_rank assert_rank_at_least assert_rank_in assert_scalar assert_type
        assert_variables_initialized assign assign_add assign_sub atan atan2 atanh AttrValue AUTO_REUSE
        batch_gather batch_to_space betainc bincount bitcast bitwise bool boolean_mask broadcast_dynamic_shape
        broadcast_static_shape broadcast_to case cast ceil check_numerics cholesky clip_by_average_norm
        clip_by_global_norm clip_by_norm clip_by_value colocate_with compat COMPILER_VERSION complex
        complex128 complex64 concat cond ConfigProto confusion_matrix conj constant constant_initializer
        container contrib control_dependencies convert_to_tensor convert_to_tensor_or_indexed_slices cos cosh
        count_nonzero count_up_to create_partitioned_variables cross cumprod cumsum custom_gradient data
        debugging decode_csv decode_raw depth_to_space dequantize deserialize_many_sparse device diag
        diag_part digamma Dimension dimension_at_index dimension_value distribute distributions div div_no_nan
        divide double DType dtypes dynamic_partition dynamic_stitch edit_distance einsum
        enable_eager_execution encode_base64 ensure_shape equal erf erfc errors estimator Event
        executing_eagerly exp expand_dims expm1 extract_image_patches eye feature_column FIFOQueue fill
        fixed_size_partitioner FixedLenFeature FixedLengthRecordReader flags float16 float32 float64 floor
        floor_div floordiv floormod foldl foldr gather gather_nd get_collection get_collection_ref
        get_default_graph get_default_session get_local_variable get_logger get_seed get_session_handle
        get_static_value get_variable get_variable_scope gfile GIT_VERSION global_norm global_variables
        global_variables_initializer glorot_normal_initializer glorot_uniform_initializer GPUOptions gradients
        GradientTape Graph graph_util GraphDef GraphKeys GraphOptions greater greater_equal group
        guarantee_const half hessians histogram_fixed_width identity identity_n igamma image import_graph_def
        IndexedSlices init_scope initialize_all_tables initialize_all_variables initialize_local_variables
        initialize_variables initializers int16 int32 int64 int8 InteractiveSession invert_permutation io
        is_finite is_inf is_nan is_non_decreasing is_numeric_tensor is_strictly_increasing is_tensor
        is_variable_initialized keras layers lbeta less less_equal lgamma lin_space linalg linspace
        load_op_library local_variables local_variables_initializer log log1p log_sigmoid logging logical_and
        logical_not logical_or logical_xor losses make_ndarray make_template make_tensor_proto manip map_fn
        matching_files math matmul matrix_band_part matrix_determinant matrix_diag matrix_diag_part
        matrix_inverse matrix_set_diag matrix_solve matrix_solve_ls matrix_transpose matrix_triangular_solve
        maximum meshgrid metrics min_max_variable_partitioner minimum mod model_variables
        moving_average_variables multinomial multiply name_scope negative newaxis nn no_op no_regularizer
        NodeDef NoGradient norm not_equal NotDifferentiable one_hot ones ones_initializer ones_like op_scope
        Operation OptimizerOptions orthogonal_initializer pad parallel_stack parse_example
        parse_single_example placeholder placeholder_with_default polygamma pow Print print PriorityQueue
        profiler py_func python_io qr quantization quantize random random_crop random_gamma random_normal
        random_normal_initializer random_poisson random_shuffle random_uniform random_uniform_initializer
        RandomShuffleQueue range rank read_file ReaderBase real realdiv reciprocal reduce_all reduce_any
        reduce_join reduce_logsumexp reduce_max reduce_mean reduce_min reduce_prod reduce_sum regex_replace
        register_tensor_conversion_function RegisterGradient report_uninitialized_variables
        required_space_to_batch_paddings reset_default_graph reshape resource resource_loader reverse
        reverse_sequence reverse_v2 rint roll round rsqrt RunMetadata RunOptions saturate_cast saved_model
        scalar_mul scan scatter_add scatter_nd scatter_sub scatter_update searchsorted segment_max
        segment_mean segment_min segment_prod segment_sum self_adjoint_eig sequence_mask serialize_tensor
        Session set_random_seed setdiff1d sets shape shape_n sigmoid sign sin sinh size slice sort
        space_to_batch space_to_depth sparse sparse_add sparse_placeholder sparse_reduce_max sparse_reduce_sum
        sparse_tensor_dense_matmul sparse_tensor_to_dense sparse_to_dense SparseTensor SparseTensorValue
        spectral split sqrt square squared_difference squeeze stack stop_gradient strided_slice string
        string_join string_split string_to_number strings substr subtract Summary summary svd switch_case
        sysconfig tables_initializer tan tanh Tensor TensorArray tensordot TensorShape test TextLineReader
        tfprof TFRecordReader tile timestamp to_bfloat16 to_double to_float to_int32 to_int64 tpu trace train
        trainable_variables transpose truediv truncated_normal truncated_normal_initializer truncatediv
        truncatemod tuple uint16 uint8 uniform_unit_scaling_initializer unique unravel_index
        unsorted_segment_sum unstack user_ops Variable variable_axis_size_partitioner variable_op_scope
        variable_scope VariableAggregation variables_initializer VariableScope variance_scaling_initializer
        VarLenFeature verify_tensor_all_finite VERSION version where where_v2 while_loop WholeFileReader
        write_file zeros zeros_initializer zeros_like zeta
    """,
    "tf.nn": """
        all_candidate_sampler atrous_conv2d avg_pool avg_pool1d avg_pool2d avg_pool3d
        batch_norm_with_global_normalization batch_normalization bias_add bidirectional_dynamic_rnn
        compute_accidental_hits conv1d conv1d_transpose conv2d conv2d_backprop_filter conv2d_backprop_input
        conv2d_transpose conv3d conv3d_transpose convolution crelu ctc_beam_search_decoder ctc_greedy_decoder
        ctc_loss depth_to_space depthwise_conv2d depthwise_conv2d_native dilation2d dropout dynamic_rnn elu
        embedding_lookup embedding_lookup_sparse erosion2d fixed_unigram_candidate_sampler fractional_max_pool
        fused_batch_norm in_top_k l2_loss l2_normalize leaky_relu local_response_normalization
        log_poisson_loss log_softmax log_uniform_candidate_sampler lrn max_pool max_pool1d max_pool2d
        max_pool3d max_pool_with_argmax moments nce_loss normalize_moments pool raw_rnn relu relu6 relu_layer
        rnn_cell sampled_softmax_loss selu separable_conv2d sigmoid sigmoid_cross_entropy_with_logits silu
        softmax softmax_cross_entropy_with_logits softmax_cross_entropy_with_logits_v2 softplus softsign
        space_to_batch space_to_depth sparse_softmax_cross_entropy_with_logits static_bidirectional_rnn
        static_rnn sufficient_statistics swish tanh top_k uniform_candidate_sampler
        weighted_cross_entropy_with_logits weighted_moments with_space_to_batch xw_plus_b zero_fraction
    """,
    "tf.train": """
        AdadeltaOptimizer AdagradDAOptimizer AdagradOptimizer AdamOptimizer add_queue_runner
        assert_global_step basic_train_loop batch batch_join BytesList Checkpoint checkpoint_exists
        CheckpointManager CheckpointSaverHook ChiefSessionCreator ClusterDef ClusterSpec Coordinator
        cosine_decay cosine_decay_restarts create_global_step Example exponential_decay
        ExponentialMovingAverage export_meta_graph Feature Features FeedFnHook FloatList FtrlOptimizer
        generate_checkpoint_state_proto get_checkpoint_mtimes get_checkpoint_state get_global_step
        get_or_create_global_step global_step GradientDescentOptimizer import_meta_graph init_from_checkpoint
        input_producer Int64List inverse_time_decay latest_checkpoint limit_epochs linear_cosine_decay
        list_variables load_checkpoint load_variable LoggingTensorHook LooperThread match_filenames_once
        maybe_batch MomentumOptimizer MonitoredSession MonitoredTrainingSession NanTensorHook
        natural_exp_decay noisy_linear_cosine_decay Optimizer piecewise_constant polynomial_decay
        ProximalAdagradOptimizer ProximalGradientDescentOptimizer QueueRunner range_input_producer
        remove_checkpoint replica_device_setter RMSPropOptimizer Saver SaverDef Scaffold sdca_optimizer
        SequenceExample Server ServerDef SessionCreator SessionManager SessionRunArgs SessionRunHook
        shuffle_batch shuffle_batch_join SingularMonitoredSession slice_input_producer start_queue_runners
        StepCounterHook StopAtStepHook string_input_producer summary_iterator SummarySaverHook Supervisor
        SyncReplicasOptimizer update_checkpoint_state warm_start write_graph
    """,
    "tf.train.experimental": """
        disable_mixed_precision_graph_rewrite DynamicLossScale enable_mixed_precision_graph_rewrite
        FixedLossScale LossScale MixedPrecisionLossScaleOptimizer PythonState
    """,
    "tf.layers": """
        average_pooling1d average_pooling2d average_pooling3d AveragePooling1D AveragePooling2D
        AveragePooling3D batch_normalization BatchNormalization Conv1D conv1d Conv2D conv2d conv2d_transpose
        Conv2DTranspose Conv3D conv3d conv3d_transpose Conv3DTranspose Dense dense Dropout dropout Flatten
        flatten InputSpec Layer max_pooling1d max_pooling2d max_pooling3d MaxPooling1D MaxPooling2D
        MaxPooling3D separable_conv1d separable_conv2d SeparableConv1D SeparableConv2D
    """,
    "tf.app": "flags run",
    "tf.flags": """
        DEFINE DEFINE_alias DEFINE_bool DEFINE_boolean DEFINE_enum DEFINE_flag DEFINE_float DEFINE_integer
        DEFINE_list DEFINE_multi_enum DEFINE_multi_float DEFINE_multi_integer DEFINE_multi_string
        DEFINE_spaceseplist DEFINE_string Flag FLAGS FlagValues mark_flag_as_required mark_flags_as_required
        register_validator
    """,
    "tf.gfile": """
        Copy DeleteRecursively Exists FastGFile GFile Glob IsDirectory ListDirectory MakeDirs MkDir Open
        Remove Rename Stat Walk
    """,
    "tf.logging": """
        DEBUG debug ERROR error FATAL fatal flush get_verbosity INFO info log log_every_n log_first_n log_if
        set_verbosity TaskLevelStatusMessage vlog WARN warn warning
    """,
    "tf.debugging": """
        Assert assert_equal assert_greater assert_greater_equal assert_integer assert_less assert_less_equal
        assert_negative assert_non_negative assert_non_positive assert_none_equal assert_positive assert_rank
        assert_rank_at_least assert_rank_in assert_scalar assert_type check_numerics is_finite is_inf is_nan
        is_non_decreasing is_numeric_tensor is_strictly_increasing
    """,
    "tf.linalg": """
        band_part cholesky cross det diag diag_part einsum eye inv l2_normalize logdet matmul matrix_transpose
        norm qr set_diag solve svd tensor_diag tensor_diag_part tensordot trace transpose
    """,
    "tf.manip": "gather_nd reshape reverse roll scatter_nd tile",
    "tf.math": """
        abs accumulate_n acos acosh add add_n argmax argmin asin asinh atan atan2 atanh betainc bincount ceil
        confusion_matrix cos cosh count_nonzero cross cumprod cumsum digamma div_no_nan divide divide_no_nan
        equal erf erfc exp expm1 floor floordiv floormod greater greater_equal igamma in_top_k
        invert_permutation is_finite is_inf is_nan l2_normalize less less_equal lgamma log log1p log_sigmoid
        log_softmax logical_and logical_not logical_or logical_xor maximum minimum mod multiply
        multiply_no_nan negative not_equal polygamma polyval pow reciprocal reciprocal_no_nan reduce_all
        reduce_any reduce_euclidean_norm reduce_logsumexp reduce_max reduce_mean reduce_min reduce_prod
        reduce_std reduce_sum reduce_variance rint round rsqrt scalar_mul segment_sum sigmoid sign sin sinh
        softmax softplus softsign sqrt square squared_difference subtract tan tanh top_k truediv truncatediv
        truncatemod unsorted_segment_sum xdivy xlogy zero_fraction zeta
    """,
    "tf.random": """
        categorical gamma multinomial normal poisson set_random_seed shuffle truncated_normal uniform
    """,
    "tf.io": """
        decode_csv decode_image decode_jpeg decode_png decode_raw FixedLenFeature gfile matching_files
        parse_example parse_single_example read_file tf_record_iterator TFRecordCompressionType
        TFRecordOptions TFRecordWriter write_file write_graph
    """,
    "tf.losses": """
        absolute_difference add_loss compute_weighted_loss cosine_distance get_losses get_regularization_loss
        get_regularization_losses get_total_loss hinge_loss huber_loss log_loss mean_pairwise_squared_error
        mean_squared_error Reduction sigmoid_cross_entropy softmax_cross_entropy sparse_softmax_cross_entropy
    """,
    "tf.metrics": """
        accuracy auc average_precision_at_k false_negatives false_negatives_at_thresholds false_positives
        false_positives_at_thresholds mean mean_absolute_error mean_cosine_distance mean_iou
        mean_per_class_accuracy mean_relative_error mean_squared_error mean_tensor percentage_below precision
        precision_at_k precision_at_thresholds recall recall_at_k recall_at_thresholds recall_at_top_k
        root_mean_squared_error sensitivity_at_specificity sparse_average_precision_at_k sparse_precision_at_k
        specificity_at_sensitivity true_negatives true_negatives_at_thresholds true_positives
        true_positives_at_thresholds
    """,
    "tf.summary": """
        audio Event FileWriter FileWriterCache get_summary_description histogram image merge merge_all scalar
        SessionLog Summary SummaryDescription tensor_summary text
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
        autograph boosted_trees cluster_resolver crf cudnn_rnn data distribute distributions eager estimator
        factorization framework gan graph_editor image keras kfac layers learn lookup losses metrics nccl nn
        opt predictor quantize rnn seq2seq signal slim staging stateless summary tensor_forest tensorboard
        tensorrt timeseries tpu training
    """,
    "tf.distributions": """
        Bernoulli Beta Categorical Dirichlet DirichletMultinomial Distribution Exponential Gamma kl_divergence
        Laplace Multinomial Normal register_kl RegisterKL ReparameterizationType StudentT Uniform
    """,
    "tf.contrib.distributions": """
        Bernoulli Categorical Distribution kl_divergence MultivariateNormalDiag
        MultivariateNormalDiagWithSoftplusScale MultivariateNormalFullCovariance Normal
        NormalWithSoftplusScale OneHotCategorical RelaxedOneHotCategorical RelaxedBernoulli Uniform Gamma Beta
        Exponential Laplace Dirichlet StudentT Mixture
    """,
    "tf.contrib.factorization": """
        COSINE_DISTANCE GMM gmm GmmAlgorithm KMeans KMeansClustering RANDOM_INIT SQUARED_EUCLIDEAN_DISTANCE
        WALSMatrixFactorization WALSModel
    """,
    "tf.contrib.tensorboard": "plugins",
    "tf.contrib.tensorboard.plugins": "projector",
    "tf.contrib.layers": """
        apply_regularization avg_pool2d avg_pool3d batch_norm bias_add conv1d conv2d conv2d_in_plane
        conv2d_transpose conv3d conv3d_transpose convolution convolution1d convolution2d
        convolution2d_transpose convolution3d dense_to_sparse dropout elu embed_sequence flatten
        fully_connected gdn group_norm images_to_sequence instance_norm l1_l2_regularizer l1_regularizer
        l2_regularizer layer_norm linear max_pool2d max_pool3d maxout one_hot_encoding optimize_loss
        OPTIMIZER_CLS_NAMES OPTIMIZER_SUMMARIES pool relu relu6 repeat safe_embedding_lookup_sparse
        separable_conv2d separable_convolution2d softmax spatial_softmax stack sum_regularizer
        summarize_activation summarize_activations summarize_collection summarize_tensor summarize_tensors
        unit_norm variance_scaling_initializer xavier_initializer xavier_initializer_conv2d
    """,
    "tf.contrib.framework": """
        add_arg_scope add_model_variable arg_scope arg_scoped_arguments assert_global_step
        assign_from_checkpoint assign_from_checkpoint_fn create_global_step current_arg_scope filter_variables
        get_global_step get_local_variables get_model_variables get_or_create_global_step
        get_trainable_variables get_unique_variable get_variables get_variables_by_name
        get_variables_by_suffix get_variables_to_restore has_arg_scope init_from_checkpoint is_tensor
        list_variables load_variable local_variable model_variable nest variable
    """,
    "tf.contrib.losses": """
        absolute_difference add_loss compute_weighted_loss cosine_distance get_losses
        get_regularization_losses get_total_loss hinge_loss log_loss mean_pairwise_squared_error
        mean_squared_error sigmoid_cross_entropy softmax_cross_entropy sparse_softmax_cross_entropy
    """,
    "tf.contrib.slim": """
        add_arg_scope arg_scope avg_pool2d batch_norm bias_add conv2d conv2d_transpose create_train_op data
        dataset dropout evaluation flatten fully_connected get_model_variables get_or_create_global_step
        get_variables get_variables_to_restore l1_regularizer l2_regularizer layer_norm layers learning losses
        max_pool2d model_analyzer metrics model_variable nets one_hot_encoding repeat separable_conv2d
        softmax stack tfexample_decoder utils variable variance_scaling_initializer xavier_initializer
    """,
    "tf.contrib.training": "bucket_by_sequence_length create_train_op HParams stratified_sample train",
    "tf.contrib.opt": """
        AdaMaxOptimizer AdamWOptimizer ExternalOptimizerInterface LazyAdamOptimizer MomentumWOptimizer
        NadamOptimizer ScipyOptimizerInterface
    """,
    "tf.keras": """
        activations applications backend callbacks constraints datasets estimator initializers Input layers
        losses metrics Model models optimizers preprocessing regularizers Sequential utils wrappers
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
        Constant constant deserialize get glorot_normal glorot_uniform he_normal he_uniform Identity identity
        Initializer lecun_normal lecun_uniform normal Ones ones Orthogonal orthogonal random_normal
        random_uniform RandomNormal RandomUniform serialize truncated_normal TruncatedNormal uniform
        VarianceScaling Zeros zeros
    """,
    "tf.keras.layers": """
        Activation ActivityRegularization Add add AlphaDropout Average average AveragePooling1D
        AveragePooling2D AveragePooling3D AvgPool1D AvgPool2D AvgPool3D BatchNormalization Bidirectional
        Concatenate concatenate Conv1D Conv2D Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM2D Convolution1D
        Convolution2D Convolution2DTranspose Convolution3D Cropping1D Cropping2D Cropping3D CuDNNGRU CuDNNLSTM
        Dense DepthwiseConv2D Dot dot Dropout ELU Embedding Flatten GaussianDropout GaussianNoise
        GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalAvgPool1D GlobalAvgPool2D
        GlobalMaxPool1D GlobalMaxPool2D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GRU GRUCell
        Input InputLayer InputSpec Lambda Layer LeakyReLU LocallyConnected1D LocallyConnected2D LSTM LSTMCell
        Masking Maximum maximum MaxPool1D MaxPool2D MaxPool3D MaxPooling1D MaxPooling2D MaxPooling3D Minimum
        minimum Multiply multiply Permute PReLU ReLU RepeatVector Reshape RNN SeparableConv1D SeparableConv2D
        SimpleRNN SimpleRNNCell Softmax SpatialDropout1D SpatialDropout2D SpatialDropout3D StackedRNNCells
        Subtract subtract ThresholdedReLU TimeDistributed UpSampling1D UpSampling2D UpSampling3D Wrapper
        ZeroPadding1D ZeroPadding2D ZeroPadding3D
    """,
    "tf.keras.losses": """
        binary_crossentropy categorical_crossentropy categorical_hinge cosine deserialize get hinge KLD kld
        kullback_leibler_divergence logcosh MAE mae MAPE mape mean_absolute_error
        mean_absolute_percentage_error mean_squared_error mean_squared_logarithmic_error MSE mse MSLE msle
        poisson serialize sparse_categorical_crossentropy squared_hinge
    """,
    "tf.keras.metrics": """
        binary_accuracy categorical_accuracy deserialize get serialize sparse_categorical_accuracy
        sparse_top_k_categorical_accuracy top_k_categorical_accuracy
    """,
    "tf.keras.models": """
        clone_model load_model Model model_from_config model_from_json model_from_yaml save_model Sequential
    """,
    "tf.keras.optimizers": """
        Adadelta Adagrad Adam Adamax deserialize get Nadam Optimizer RMSprop serialize SGD
    """,
    "tf.keras.regularizers": "deserialize get l1 l1_l2 L1L2 l2 Regularizer serialize",
    "tf.keras.utils": """
        convert_all_kernels_in_model custom_object_scope CustomObjectScope deserialize_keras_object
        GeneratorEnqueuer get_custom_objects get_file get_source_inputs HDF5Matrix multi_gpu_model normalize
        OrderedEnqueuer plot_model Progbar Sequence SequenceEnqueuer serialize_keras_object to_categorical
    """,
    "tf.contrib.rnn": """
        AttentionCellWrapper BasicLSTMCell BasicRNNCell Conv1DLSTMCell Conv2DLSTMCell core_rnn_cell
        CoupledInputForgetGateLSTMCell DeviceWrapper DropoutWrapper EmbeddingWrapper FusedRNNCell GLSTMCell
        GridLSTMCell GRUBlockCell GRUBlockCellV2 GRUCell HighwayWrapper InputProjectionWrapper
        LayerNormBasicLSTMCell LayerRNNCell LSTMBlockCell LSTMBlockFusedCell LSTMCell LSTMStateTuple
        MultiRNNCell NASCell
        OutputProjectionWrapper PhasedLSTMCell ResidualWrapper RNNCell stack_bidirectional_dynamic_rnn
        stack_bidirectional_rnn static_bidirectional_rnn static_rnn TimeFreqLSTMCell UGRNNCell
    """,
    "tf.contrib.seq2seq": """
        AttentionWrapper BahdanauAttention BasicDecoder BeamSearchDecoder dynamic_decode GreedyEmbeddingHelper
        LuongAttention sequence_loss tile_batch TrainingHelper
    """,
    "tf.contrib.legacy_seq2seq": """
        attention_decoder basic_rnn_seq2seq embedding_attention_seq2seq embedding_rnn_decoder
        embedding_rnn_seq2seq model_with_buckets rnn_decoder sequence_loss sequence_loss_by_example
        tied_rnn_seq2seq
    """,
    "tf.nn.rnn_cell": """
        BasicLSTMCell BasicRNNCell DeviceWrapper DropoutWrapper GRUCell LSTMCell LSTMStateTuple MultiRNNCell
        ResidualWrapper RNNCell
    """,
    "tf.test": """
        assert_equal_graph_def Benchmark benchmark_config compute_gradient compute_gradient_error get_temp_dir
        gpu_device_name is_built_with_cuda is_gpu_available main mock StubOutForTesting test_src_dir_path
        TestCase
    """,
    "tf.data": """
        Dataset experimental FixedLengthRecordDataset get_output_classes get_output_shapes get_output_types
        Iterator make_initializable_iterator make_one_shot_iterator TextLineDataset TFRecordDataset
    """,
    "tf.data.experimental": """
        AUTOTUNE CsvDataset make_csv_dataset map_and_batch parallel_interleave shuffle_and_repeat unbatch
    """,
    "tf.estimator": """
        BaselineClassifier BaselineRegressor BestExporter BoostedTreesClassifier BoostedTreesRegressor
        CheckpointSaverHook classifier_parse_example_spec DNNClassifier DNNLinearCombinedClassifier
        DNNLinearCombinedRegressor DNNRegressor Estimator EstimatorSpec EvalSpec export Exporter FeedFnHook
        FinalExporter FinalOpsHook inputs LatestExporter LinearClassifier LinearRegressor LoggingTensorHook
        ModeKeys NanLossDuringTrainingError NanTensorHook ProfilerHook regressor_parse_example_spec RunConfig
        SecondOrStepTimer SessionRunArgs SessionRunContext SessionRunHook SessionRunValues StepCounterHook
        StopAtStepHook SummarySaverHook train_and_evaluate TrainSpec VocabInfo WarmStartSettings
    """,
    "tf.estimator.inputs": "numpy_input_fn pandas_input_fn",
    "tf.feature_column": """
        bucketized_column categorical_column_with_hash_bucket categorical_column_with_identity
        categorical_column_with_vocabulary_file categorical_column_with_vocabulary_list crossed_column
        embedding_column indicator_column input_layer linear_model make_parse_example_spec numeric_column
        shared_embedding_columns weighted_categorical_column
    """,
    "tf.image": """
        adjust_brightness adjust_contrast adjust_gamma adjust_hue adjust_saturation central_crop
        convert_image_dtype crop_and_resize crop_to_bounding_box decode_and_crop_jpeg decode_bmp decode_gif
        decode_image decode_jpeg decode_png draw_bounding_boxes encode_jpeg encode_png extract_glimpse
        extract_jpeg_shape flip_left_right flip_up_down grayscale_to_rgb hsv_to_rgb image_gradients is_jpeg
        non_max_suppression pad_to_bounding_box per_image_standardization psnr random_brightness
        random_contrast random_flip_left_right random_flip_up_down random_hue random_jpeg_quality
        random_saturation resize_area resize_bicubic resize_bilinear resize_image_with_crop_or_pad
        resize_image_with_pad resize_images resize_nearest_neighbor ResizeMethod rgb_to_grayscale rgb_to_hsv
        rgb_to_yiq rgb_to_yuv rot90 sample_distorted_bounding_box sobel_edges ssim total_variation
        transpose_image yiq_to_rgb yuv_to_rgb
    """,
    "tf.python_io": "tf_record_iterator TFRecordCompressionType TFRecordOptions TFRecordWriter",
    "tf.contrib.data": """
        batch_and_drop_remainder CheckpointInputPipelineHook Counter CsvDataset group_by_window ignore_errors
        make_csv_dataset map_and_batch padded_batch_and_drop_remainder parallel_interleave prefetch_to_device
        rejection_resample shuffle_and_repeat unbatch
    """,
    "tf.contrib.learn": """
        datasets DNNClassifier DNNEstimator DNNLinearCombinedClassifier DNNLinearCombinedRegressor
        DNNRegressor Estimator Experiment infer_real_valued_columns_from_input KMeansClustering learn_runner
        LinearClassifier LinearEstimator LinearRegressor MetricSpec ModeKeys ModelFnOps monitors preprocessing
        read_batch_examples run_n RunConfig SKCompat SVM
    """,
    "tf.contrib.metrics": """
        accuracy aggregate_metric_map aggregate_metrics confusion_matrix streaming_accuracy
        streaming_auc streaming_mean streaming_mean_absolute_error streaming_mean_iou
        streaming_mean_squared_error streaming_precision streaming_recall streaming_root_mean_squared_error
    """,
    "tf.graph_util": """
        convert_variables_to_constants extract_sub_graph must_run_on_cpu remove_training_nodes
        tensor_shape_from_node_def_name
    """,
    "tf.saved_model": """
        builder constants loader main_op main_op_with_restore signature_constants signature_def_utils
        simple_save tag_constants utils
    """,
    "tf.saved_model.builder": "SavedModelBuilder",
    "tf.saved_model.loader": "load maybe_saved_model_directory",
    "tf.saved_model.signature_def_utils": """
        build_signature_def classification_signature_def predict_signature_def regression_signature_def
    """,
    "tf.saved_model.utils": "build_tensor_info get_tensor_from_tensor_info",
    "tf.compat": """
        as_bytes as_str as_str_any as_text bytes_or_text_types complex_types integral_types path_to_str
        real_types
    """,
    "tf.version": "COMPILER_VERSION GIT_VERSION VERSION",
    "tf.dtypes": """
        as_dtype as_string bool cast double DType float16 float32 float64 half int16 int32 int64 int8
        saturate_cast string uint8
    """,
    "tf.sparse": "add matmul reduce_max reduce_sum SparseTensor to_dense",
    "tf.strings": """
        as_string join length lower reduce_join regex_full_match regex_replace split strip substr
        to_hash_bucket_fast to_number upper
    """,
    "tf.estimator.export": """
        build_parsing_serving_input_receiver_fn build_raw_serving_input_receiver_fn ClassificationOutput
        ExportOutput PredictOutput RegressionOutput ServingInputReceiver TensorServingInputReceiver
    """,
    "tf.contrib.predictor": "from_saved_model",
    "tf.nn.seq2seq": "rnn_decoder sequence_loss sequence_loss_by_example",
}

#: What differs from TensorFlow 1 in names that are there.
PARTIAL: dict[str, str] = {
    "tf.assign": "validate_shape is True",
    "tf.bincount": "minlength and maxlength are given, and the same",
    "tf.boolean_mask": "the mask is a constant",
    "tf.cond": "where the condition follows from values both branches are computed, without optimizers",
    "tf.ConfigProto": "fields that mean nothing here are taken and change nothing",
    "tf.confusion_matrix": "num_classes is given",
    "tf.contrib": "data, layers, learn, metrics",
    "tf.contrib.data.prefetch_to_device": "the same elements; a session moves what it is fed",
    "tf.contrib.factorization": "KMeans",
    "tf.contrib.factorization.KMeans": "begins with random rows or with given ones",
    "tf.contrib.framework.variable": "no partitioner",
    "tf.contrib.layers.batch_norm": "no batch_weights, renorm, adjustment and zero_debias_moving_mean",
    "tf.contrib.layers.optimize_loss": "no gradient_noise_scale; of names those of OPTIMIZER_CLS_NAMES",
    "tf.contrib.learn": "no monitors and preprocessing",
    "tf.contrib.learn.datasets": "mnist, and CSV files",
    "tf.contrib.slim.learning": "create_train_op and train, whose loop is a MonitoredTrainingSession's",
    "tf.cumprod": "the size of the axis is known",
    "tf.data.Dataset": "no window, reduce, options; prefetch and num_parallel_calls change nothing",
    "tf.data.Iterator": "a session that goes on from a checkpoint begins the data anew",
    "tf.decode_csv": "in functions of data sets and on what a run takes",
    "tf.decode_raw": "in functions of data sets and on what a run takes",
    "tf.contrib.distributions": "Normal, MultivariateNormalDiag, Uniform, Bernoulli, Categorical",
    "tf.distributions": "Normal, Uniform, Bernoulli, Categorical, kl_divergence",
    "tf.depth_to_space": "data_format is NHWC",
    "tf.device": "a session is on one device: taken, and changes nothing; a GPU's name is reported once",
    "tf.einsum": "no '...', and no label twice in a tensor",
    "tf.estimator": "no boosted trees, baselines and exporters",
    "tf.estimator.Estimator": "no warm_start_from; what it exports TensorFlow does not read",
    "tf.estimator.EvalSpec": "no exporters; start_delay_secs changes nothing",
    "tf.estimator.RunConfig": "no distribution strategies: mpirun starts the ranks",
    "tf.feature_column.categorical_column_with_hash_bucket": "another hash than TensorFlow's",
    "tf.feature_column.numeric_column": "no default_value",
    "tf.FIFOQueue": "no threads: a QueueRunner's operations run where elements are missing",
    "tf.get_variable": "no partitioner",
    "tf.gfile": "what writes, moves or deletes is done by rank 0",
    "tf.GPUOptions": "its fields are taken and change nothing",
    "tf.gradients": "no gate_gradients and aggregation_method",
    "tf.GraphOptions": "its fields are taken and change nothing",
    "tf.graph_util": "convert_variables_to_constants, extract_sub_graph, remove_training_nodes",
    "tf.import_graph_def": "graphs that dtrain wrote, without functions of Python and data sets",
    "tf.image.decode_image": "by Pillow, in functions of data sets and on what a run takes",
    "tf.image.decode_jpeg": "by Pillow, in functions of data sets and on what a run takes",
    "tf.image.decode_png": "by Pillow, in functions of data sets and on what a run takes; uint8",
    "tf.image.resize_images": "no preserve_aspect_ratio; BICUBIC and AREA where sizes are known",
    "tf.keras": "modules as below",
    "tf.keras.callbacks.Callback": "no calls around the batches of a test, in evaluate and predict",
    "tf.keras.datasets": "mnist, fashion_mnist, cifar10, cifar100; boston_housing from Keras's cache",
    "tf.keras.layers.BatchNormalization": "synchronized=False is its own",
    "tf.keras.layers.UpSampling2D": "interpolation is nearest or bilinear",
    "tf.layers.batch_normalization": "no renorm, virtual_batch_size and adjustment; one axis",
    "tf.layers.BatchNormalization": "no renorm, virtual_batch_size and adjustment; one axis",
    "tf.layers.conv3d": "all sizes but that of the batch are known",
    "tf.layers.Conv3D": "all sizes but that of the batch are known",
    "tf.layers.Layer": "no InputSpec and compute_output_shape",
    "tf.matrix_set_diag": "the matrices are square",
    "tf.metrics.recall_at_k": "one label an example",
    "tf.layers.conv3d_transpose": "all sizes but that of the batch are known",
    "tf.layers.Conv3DTranspose": "all sizes but that of the batch are known",
    "tf.nn.conv3d": "all sizes but that of the batch are known",
    "tf.nn.conv3d_transpose": "all sizes but that of the batch are known",
    "tf.nn.depthwise_conv2d": "all sizes but that of the batch are known",
    "tf.nn.pool": "dilation_rate is 1",
    "tf.norm": "of matrices no spectral norm",
    "tf.OptimizerOptions": "its fields are taken and change nothing",
    "tf.parse_example": "FixedLenFeature",
    "tf.parse_single_example": "FixedLenFeature",
    "tf.py_func": "every rank calls it with whole arrays; see its docstring for shapes",
    "tf.python_io.TFRecordWriter": "writes no ZLIB",
    "tf.RandomShuffleQueue": "as tf.FIFOQueue",
    "tf.read_file": "in functions of data sets and on what a run takes",
    "tf.reverse_sequence": "batch_axis is 0",
    "tf.RunMetadata": "step_stats, for timeline.Timeline",
    "tf.RunOptions": "trace_level",
    "tf.sequence_mask": "maxlen has to be given",
    "tf.sparse": "products and sums of them are computed densely",
    "tf.SparseTensor": "three dense tensors: fetch and feed these",
    "tf.strings": "in functions of data sets, of constants and of what a run takes",
    "tf.Session": "target is ''",
    "tf.space_to_depth": "data_format is NHWC",
    "tf.TensorArray": "indices follow from counters and shapes; no handle and split",
    "tf.test.TestCase": "test_session, evaluate, and comparisons of arrays",
    "tf.train.AdadeltaOptimizer": "only the learning rate may be a tensor",
    "tf.train.AdagradOptimizer": "only the learning rate may be a tensor",
    "tf.train.AdamOptimizer": "only the learning rate may be a tensor",
    "tf.train.batch": "a data set: no threads; num_threads and capacity change nothing",
    "tf.train.ClusterSpec": "mpirun starts the ranks; addresses are kept and change nothing",
    "tf.train.cosine_decay_restarts": "t_mul is a number",
    "tf.train.experimental.DynamicLossScale": "no update, get_config; from 1 to 2**24",
    "tf.train.experimental.FixedLossScale": "no update, get_config",
    "tf.train.MomentumOptimizer": "only the learning rate may be a tensor",
    "tf.train.Optimizer": "subclasses write `_update`, not `_apply_dense`; no aggregation_method",
    "tf.train.replica_device_setter": "every rank holds all variables",
    "tf.train.RMSPropOptimizer": "only the learning rate may be a tensor",
    "tf.saved_model": "files of dtrain's own, which TensorFlow's serving does not read; no assets",
    "tf.train.export_meta_graph": "files of dtrain's own, without functions of Python and data sets",
    "tf.train.import_meta_graph": "files that dtrain wrote",
    "tf.train.Saver": "files are safetensors; sharded and write_version change nothing",
    "tf.train.SaverDef": "the numbers of formats alone",
    "tf.train.Server": "target is ''; a task of the job ps is refused",
    "tf.train.shuffle_batch": "a data set: no threads; min_after_dequeue changes nothing",
    "tf.train.start_queue_runners": "there is nothing to start: it returns []",
    "tf.train.Supervisor": "its session is a MonitoredSession; no ready_op and session_manager",
    "tf.train.SyncReplicasOptimizer": "a step is of all ranks; no variable_averages",
    "tf.train.write_graph": "its operations are dtrain's",
    "tf.Variable": "its sizes are known when it is made and do not change",
    "tf.where": "with a condition alone, it is a constant",
    "tf.while_loop": "where its steps cannot be counted no gradient without maximum_iterations; no writes",
}

#: Why names are not there, where there is more to say than that.
_WHY: dict[str, str] = {
    "no threads fill queues: take train.batch, or a data set of tf.data": """
        tf.PriorityQueue tf.ReaderBase tf.train.LooperThread tf.train.maybe_batch
    """,
    "tensors are dense": """
        tf.VarLenFeature tf.IndexedSlices tf.convert_to_tensor_or_indexed_slices tf.deserialize_many_sparse
        tf.sparse_placeholder tf.edit_distance
    """,
    "an Example has no lists of lists": "tf.train.SequenceExample",
    "it computes with numbers: prepare text in Python before it is fed": "tf.encode_base64",
    "numbers are real": "tf.complex tf.complex64 tf.complex128 tf.conj tf.real tf.spectral",
    "read and write files in Python, outside of the graph": """
        tf.matching_files tf.write_file tf.io.matching_files tf.io.write_file
    """,
    "write the loop with while_loop, or take dynamic_rnn with sequence_length": "tf.nn.raw_rnn",
    "it has no connectionist temporal classification": """
        tf.nn.ctc_loss tf.nn.ctc_beam_search_decoder tf.nn.ctc_greedy_decoder
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
        tf.matrix_triangular_solve tf.qr tf.self_adjoint_eig tf.svd tf.linalg.cholesky tf.linalg.det
        tf.linalg.inv tf.linalg.logdet tf.linalg.qr tf.linalg.solve tf.linalg.svd
    """,
    "variables are not split: every rank holds all of them": """
        tf.create_partitioned_variables tf.fixed_size_partitioner tf.min_max_variable_partitioner
        tf.variable_axis_size_partitioner
    """,
    "there are no servers: start the ranks with mpirun, every one runs the whole program": """
        tf.distribute tf.tpu tf.train.ClusterDef tf.train.ServerDef tf.contrib.cluster_resolver
    """,
    "write the training loop around Session.run": """
        tf.train.SessionCreator tf.train.SessionManager tf.train.basic_train_loop
    """,
    "a graph is defined, then run": """
        tf.GradientTape tf.enable_eager_execution tf.custom_gradient tf.contrib.eager
    """,
    "checkpoints and graphs are not kept in TensorFlow's formats": "tf.make_tensor_proto tf.make_ndarray",
    "it is another layer above the graph, out of scope": "tf.contrib.estimator",
    "its gradient is not that of a draw; NumPy draws outside of the graph": """
        tf.random_gamma tf.random_poisson tf.random.gamma tf.random.poisson
    """,
    "how many there are is not known before a run, and a plan has fixed shapes": """
        tf.unique tf.setdiff1d tf.dynamic_partition tf.segment_max tf.segment_mean tf.segment_min
        tf.segment_prod tf.segment_sum tf.math.segment_sum
    """,
    "a file beside the program is found by Python's __file__": "tf.resource_loader",
    "the gradients of several uses are added up in one way": "tf.AggregationMethod",
    "an op's gradient is its class's: see dtrain/ops/base.py": "tf.RegisterGradient",
    "optimizers are those of dt.train": "tf.contrib.opt.AdamWOptimizer tf.contrib.opt.MomentumWOptimizer",
    "SciPy's optimizers are not wrapped: minimize by those of dt.train": """
        tf.contrib.opt.ExternalOptimizerInterface tf.contrib.opt.ScipyOptimizerInterface
    """,
    "forests and boosted trees are no graphs that train by steps: use a library for them": """
        tf.contrib.boosted_trees tf.contrib.tensor_forest
    """,
    "take KMeans, and its training_graph in a loop": "tf.contrib.factorization.KMeansClustering",
    "it is no part of dtrain": """
        tf.contrib.factorization.GMM tf.contrib.factorization.GmmAlgorithm
        tf.contrib.factorization.WALSModel tf.contrib.factorization.WALSMatrixFactorization
        tf.contrib.factorization.gmm
    """,
    "the ranks of mpirun are what shares the work, and their GPUs meet through NCCL by themselves": """
        tf.contrib.distribute tf.contrib.nccl tf.contrib.tpu
    """,
    "it has no pretrained networks and their data sets": """
        tf.contrib.slim.nets tf.contrib.slim.data tf.contrib.slim.dataset tf.contrib.slim.tfexample_decoder
    """,
    "what products are rounded to is the session's: its device's precision, or --precision": """
        tf.train.experimental.disable_mixed_precision_graph_rewrite
        tf.train.experimental.enable_mixed_precision_graph_rewrite
    """,
    "loss scales are DynamicLossScale and FixedLossScale": "tf.train.experimental.LossScale",
    "give get_config() to from_config()": "tf.keras.models.model_from_config",
    "fit prints its own progress": "tf.keras.callbacks.ProgbarLogger tf.keras.callbacks.BaseLogger",
    "Examples are read by Python, which no saved graph holds: take build_raw_serving_input_receiver_fn": """
        tf.estimator.export.build_parsing_serving_input_receiver_fn
    """,
    "models are exported by export_savedmodel alone": """
        tf.estimator.Exporter tf.estimator.BestExporter tf.estimator.FinalExporter
        tf.estimator.LatestExporter tf.estimator.classifier_parse_example_spec
        tf.estimator.regressor_parse_example_spec tf.feature_column.make_parse_example_spec
    """,
    "trees are not trained by steps of a graph": """
        tf.estimator.BoostedTreesClassifier tf.estimator.BoostedTreesRegressor
    """,
    "give hooks": "tf.contrib.learn.monitors",
    "boxes are cut out by crop_to_bounding_box": """
        tf.image.crop_and_resize tf.image.draw_bounding_boxes tf.image.sample_distorted_bounding_box
    """,
    "networks whose weights others trained are no part of it": "tf.keras.applications",
    "its files are Python pickles, which run code": "tf.keras.datasets.imdb tf.keras.datasets.reuters",
}
REASONS: dict[str, str] = {name: reason for reason, names in _WHY.items() for name in names.split()}

#: What dtrain offers beside TensorFlow 1's names.
OWN: dict[str, str] = {
    "Shard": "this rank's rows of a batch, to feed: dt.Shard(rows, total)",
    "Task": "what `dtrain train FILE.py` trains: data, model, loss, metrics, optimizer",
    "launch": "a function on several ranks, from a notebook or a script: dt.launch(4, function)",
    "mul": "multiply, under the name that TensorFlow had for it before 1.0",
    "neg": "negative, likewise",
    "select": "where, likewise",
    "sub": "subtract, likewise",
    "pack": "stack, likewise",
    "unpack": "unstack, likewise",
    "inv": "reciprocal, likewise",
    "batch_matmul": "matmul, likewise",
    "scalar_summary": "summary.scalar, likewise",
    "histogram_summary": "summary.histogram, likewise",
    "image_summary": "summary.image, likewise",
    "merge_summary": "summary.merge, likewise",
    "merge_all_summaries": "summary.merge_all, likewise",
    "train.SummaryWriter": "summary.FileWriter, likewise",
    "train.NadamOptimizer": "tf.contrib.opt had it",
    "train.AdaMaxOptimizer": "tf.contrib.opt had it",
}


def known(module: str, name: str) -> bool:
    """Whether TensorFlow has the name, of a module such as 'tf.nn'."""
    return name in NAMES.get(module, "").split() or f"{module}.{name}" in NAMES


def refusal(module: str, name: str) -> str:
    """What is said of a name of TensorFlow's that is not here; '' for one that TensorFlow has not either."""
    if not known(module, name):
        return ""
    why = REASONS.get(f"{module}.{name}", "it is not supported")
    return f"dtrain has no {module}.{name}: {why}. docs/tensorflow1.md lists what there is."
