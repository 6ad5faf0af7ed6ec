"""dt.nn: activations, losses, convolution, pooling, normalisation and dropout, under TensorFlow 1's names."""

from dtrain.names import module_getattr
from dtrain.ops.conv import (
    atrous_conv2d,
    conv2d,
    conv2d_backprop_filter,
    conv2d_backprop_input,
    conv2d_transpose,
)
from dtrain.ops.dropout import dropout
from dtrain.ops.loss import (
    sigmoid_cross_entropy_with_logits,
    softmax_cross_entropy_with_logits,
    softmax_cross_entropy_with_logits_v2,
    sparse_softmax_cross_entropy_with_logits,
    weighted_cross_entropy_with_logits,
)
from dtrain.ops.math import sigmoid, tanh
from dtrain.ops.nn import (
    bias_add,
    crelu,
    elu,
    embedding_lookup,
    l2_loss,
    leaky_relu,
    log_softmax,
    relu,
    relu6,
    relu_layer,
    selu,
    softmax,
    softplus,
    softsign,
    swish,
    xw_plus_b,
    zero_fraction,
)
from dtrain.ops.normalize import batch_normalization, fused_batch_norm, l2_normalize, moments
from dtrain.ops.pool import avg_pool, max_pool
from dtrain.ops.topk import in_top_k, top_k

__all__ = [
    "atrous_conv2d",
    "avg_pool",
    "batch_normalization",
    "bias_add",
    "conv2d",
    "conv2d_backprop_filter",
    "conv2d_backprop_input",
    "conv2d_transpose",
    "crelu",
    "dropout",
    "elu",
    "embedding_lookup",
    "fused_batch_norm",
    "in_top_k",
    "l2_loss",
    "l2_normalize",
    "leaky_relu",
    "log_softmax",
    "max_pool",
    "moments",
    "relu",
    "relu6",
    "relu_layer",
    "selu",
    "sigmoid",
    "sigmoid_cross_entropy_with_logits",
    "softmax",
    "softmax_cross_entropy_with_logits",
    "softmax_cross_entropy_with_logits_v2",
    "softplus",
    "softsign",
    "sparse_softmax_cross_entropy_with_logits",
    "swish",
    "tanh",
    "top_k",
    "weighted_cross_entropy_with_logits",
    "xw_plus_b",
    "zero_fraction",
]

__getattr__ = module_getattr("tf.nn")
