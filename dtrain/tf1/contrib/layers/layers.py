"""Layers of tf.contrib.layers: functions whose variables are called weights and biases.

Each takes arguments from arg_scope. Activations are ReLU unless it is said otherwise, weights begin as
xavier_initializer makes them, padding is SAME, and a normalizer_fn takes the place of the biases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.graph import Tensor, control_dependencies, get_default_graph, name_scope
from dtrain.ops.array import CountLike, identity, reshape, stop_gradient, transpose
from dtrain.ops.base import apply, convert_to_tensor
from dtrain.ops.conv import conv2d_transpose as transposed
from dtrain.ops.convolutions import convolution as convolved
from dtrain.ops.convolutions import depthwise_conv2d
from dtrain.ops.dropout import dropout as dropped
from dtrain.ops.index import one_hot
from dtrain.ops.initializers import Ones, Zeros
from dtrain.ops.linalg import matmul
from dtrain.ops.math import add, maximum, sqrt, square
from dtrain.ops.nn import elu as elu_
from dtrain.ops.nn import embedding_lookup
from dtrain.ops.nn import relu as relu_
from dtrain.ops.nn import relu6 as relu6_
from dtrain.ops.nn import softmax as softmax_
from dtrain.ops.normalize import batch_normalization, moments
from dtrain.ops.pool import avg_pool, max_pool
from dtrain.ops.reduce import reduce_max, reduce_sum
from dtrain.ops.scopes import VariableScope, variable_scope
from dtrain.tf1.contrib.framework import add_arg_scope, model_variable
from dtrain.tf1.contrib.layers.initializers import xavier_initializer
from dtrain.tf1.layers.base import chosen, fixed, size_along
from dtrain.tf1.layers.convolutional import Conv2DTranspose
from dtrain.tf1.layers.core import Flatten
from dtrain.tf1.layers.normalization import moved

__all__ = [
    "avg_pool2d",
    "batch_norm",
    "bias_add",
    "conv1d",
    "conv2d",
    "conv2d_transpose",
    "conv3d",
    "convolution",
    "convolution1d",
    "convolution2d",
    "convolution2d_transpose",
    "convolution3d",
    "dropout",
    "elu",
    "embed_sequence",
    "flatten",
    "fully_connected",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "linear",
    "max_pool2d",
    "maxout",
    "one_hot_encoding",
    "relu",
    "relu6",
    "repeat",
    "separable_conv2d",
    "separable_convolution2d",
    "softmax",
    "stack",
    "unit_norm",
]

Function = Callable[..., Any] | None


@add_arg_scope
def fully_connected(
    inputs: Any,
    num_outputs: int,
    activation_fn: Function = relu_,
    normalizer_fn: Function = None,
    normalizer_params: dict[str, Any] | None = None,
    weights_initializer: Any = xavier_initializer(),  # noqa: B008
    weights_regularizer: Function = None,
    biases_initializer: Any = Zeros(),  # noqa: B008
    biases_regularizer: Function = None,
    reuse: Any = None,
    variables_collections: Any = None,
    outputs_collections: Any = None,
    trainable: bool = True,
    scope: Any = None,
) -> Tensor:
    """activation_fn(inputs @ weights + biases), along the last axis of the inputs.

    normalizer_fn: instead of the biases, with normalizer_params. variables_collections: a list of names, or a
    dict of such by 'weights' and 'biases'. outputs_collections: names of collections that get the result.
    """
    x = convert_to_tensor(inputs)
    with variable_scope(scope, "fully_connected", [x], reuse=reuse) as here:
        make = partial(_variable, x, trainable, variables_collections)
        size = size_along(x.shape, -1, here.name)
        weights = make("weights", [size, num_outputs], weights_initializer, weights_regularizer)
        y = matmul(x, weights)
        if normalizer_fn is None and biases_initializer is not None:
            y = add(y, make("biases", [num_outputs], biases_initializer, biases_regularizer), name="BiasAdd")
        return _finished(y, activation_fn, normalizer_fn, normalizer_params, outputs_collections, here)


@add_arg_scope
def convolution(
    inputs: Any,
    num_outputs: int,
    kernel_size: Any,
    stride: Any = 1,
    padding: str = "SAME",
    data_format: str | None = None,
    rate: Any = 1,
    activation_fn: Function = relu_,
    normalizer_fn: Function = None,
    normalizer_params: dict[str, Any] | None = None,
    weights_initializer: Any = xavier_initializer(),  # noqa: B008
    weights_regularizer: Function = None,
    biases_initializer: Any = Zeros(),  # noqa: B008
    biases_regularizer: Function = None,
    reuse: Any = None,
    variables_collections: Any = None,
    outputs_collections: Any = None,
    trainable: bool = True,
    scope: Any = None,
) -> Tensor:
    """A convolution of sequences, images or volumes, by the inputs' rank; arguments as fully_connected.

    data_format: NWC, NHWC or NDHWC by default; NCW, NCHW or NCDHW for channels after the examples.
    """
    x = convert_to_tensor(inputs)
    axes = (x.shape.ndims or 0) - 2
    if axes not in (1, 2, 3):
        raise GraphError(f"convolution: {x!r} is neither sequences nor images nor volumes.")
    first = data_format is not None and data_format.startswith("NC")
    with variable_scope(scope, "Conv", [x], reuse=reuse) as here:
        make = partial(_variable, x, trainable, variables_collections)
        size = size_along(x.shape, 1 if first else -1, here.name)
        shape = [*_each(kernel_size, axes), size, num_outputs]
        weights = make("weights", shape, weights_initializer, weights_regularizer)
        y = convolved(x, weights, padding, stride, rate, data_format=data_format)
        if normalizer_fn is None and biases_initializer is not None:
            biases = make("biases", [num_outputs], biases_initializer, biases_regularizer)
            y = add(y, reshape(biases, [-1, *[1] * axes]) if first else biases, name="BiasAdd")
        return _finished(y, activation_fn, normalizer_fn, normalizer_params, outputs_collections, here)


def _ranked(name: str, rank: int, what: str) -> Callable[..., Tensor]:
    """convolution, of inputs of one rank."""

    def conv(inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        x = convert_to_tensor(inputs)
        if x.shape.ndims not in (rank, None):
            raise GraphError(f"{name}: {x!r} is not {what}, of rank {rank}.")
        return convolution(x, *args, **kwargs)

    conv.__name__ = conv.__qualname__ = name
    conv.__doc__ = f"convolution of {what}, with its arguments."
    return add_arg_scope(conv)


convolution1d = conv1d = _ranked("convolution1d", 3, "sequences [n, steps, channels]")
convolution2d = conv2d = _ranked("convolution2d", 4, "images [n, height, width, channels]")
convolution3d = conv3d = _ranked("convolution3d", 5, "volumes [n, depth, height, width, channels]")


@add_arg_scope
def convolution2d_transpose(
    inputs: Any,
    num_outputs: int,
    kernel_size: Any,
    stride: Any = 1,
    padding: str = "SAME",
    data_format: str = "NHWC",
    activation_fn: Function = relu_,
    normalizer_fn: Function = None,
    normalizer_params: dict[str, Any] | None = None,
    weights_initializer: Any = xavier_initializer(),  # noqa: B008
    weights_regularizer: Function = None,
    biases_initializer: Any = Zeros(),  # noqa: B008
    biases_regularizer: Function = None,
    reuse: Any = None,
    variables_collections: Any = None,
    outputs_collections: Any = None,
    trainable: bool = True,
    scope: Any = None,
) -> Tensor:
    """The transpose of a convolution, which makes images larger; arguments as fully_connected."""
    x = convert_to_tensor(inputs)
    with variable_scope(scope, "Conv2d_transpose", [x], reuse=reuse) as here:
        make = partial(_variable, x, trainable, variables_collections)
        channels = size_along(x.shape, 1 if data_format == "NCHW" else -1, here.name)
        shape = [*_each(kernel_size, 2), num_outputs, channels]
        weights = make("weights", shape, weights_initializer, weights_regularizer)
        images = transpose(x, [0, 2, 3, 1]) if data_format == "NCHW" else x
        to = Conv2DTranspose.enlarged(images, shape[:2], _each(stride, 2), padding.upper())
        y = transposed(images, weights, [*to, num_outputs], _each(stride, 2), padding)
        if normalizer_fn is None and biases_initializer is not None:
            y = add(y, make("biases", [num_outputs], biases_initializer, biases_regularizer), name="BiasAdd")
        y = transpose(y, [0, 3, 1, 2]) if data_format == "NCHW" else y
        return _finished(y, activation_fn, normalizer_fn, normalizer_params, outputs_collections, here)


conv2d_transpose = convolution2d_transpose


@add_arg_scope
def separable_convolution2d(
    inputs: Any,
    num_outputs: int | None,
    kernel_size: Any,
    depth_multiplier: int = 1,
    stride: Any = 1,
    padding: str = "SAME",
    data_format: str = "NHWC",
    rate: Any = 1,
    activation_fn: Function = relu_,
    normalizer_fn: Function = None,
    normalizer_params: dict[str, Any] | None = None,
    weights_initializer: Any = xavier_initializer(),  # noqa: B008
    weights_regularizer: Function = None,
    biases_initializer: Any = Zeros(),  # noqa: B008
    biases_regularizer: Function = None,
    reuse: Any = None,
    variables_collections: Any = None,
    outputs_collections: Any = None,
    trainable: bool = True,
    scope: Any = None,
) -> Tensor:
    """Each channel convolved by itself, then all mixed to num_outputs, which None leaves out.

    Variables: depthwise_weights, pointwise_weights and biases; other arguments as fully_connected.
    """
    if data_format != "NHWC":
        raise GraphError("separable_convolution2d: data_format is NHWC here.")
    x = convert_to_tensor(inputs)
    with variable_scope(scope, "SeparableConv2d", [x], reuse=reuse) as here:
        make = partial(_variable, x, trainable, variables_collections)
        channels = size_along(x.shape, -1, here.name)
        shape = [*_each(kernel_size, 2), channels, depth_multiplier]
        depthwise = make("depthwise_weights", shape, weights_initializer, weights_regularizer)
        y = depthwise_conv2d(x, depthwise, _each(stride, 2), padding, _each(rate, 2))
        outputs = channels * depth_multiplier
        if num_outputs is not None:
            shape, outputs = [1, 1, outputs, num_outputs], num_outputs
            y = convolved(
                y, make("pointwise_weights", shape, weights_initializer, weights_regularizer), "VALID"
            )
        if normalizer_fn is None and biases_initializer is not None:
            y = add(y, make("biases", [outputs], biases_initializer, biases_regularizer), name="BiasAdd")
        return _finished(y, activation_fn, normalizer_fn, normalizer_params, outputs_collections, here)


separable_conv2d = separable_convolution2d


@add_arg_scope
def batch_norm(
    inputs: Any,
    decay: float = 0.999,
    center: bool = True,
    scale: bool = False,
    epsilon: float = 0.001,
    activation_fn: Function = None,
    param_initializers: dict[str, Any] | None = None,
    param_regularizers: dict[str, Any] | None = None,
    updates_collections: Any = GraphKeys.UPDATE_OPS,
    is_training: Any = True,
    reuse: Any = None,
    variables_collections: Any = None,
    outputs_collections: Any = None,
    trainable: bool = True,
    batch_weights: Any = None,
    fused: bool | None = None,
    data_format: str = "NHWC",
    zero_debias_moving_mean: bool = False,
    scope: Any = None,
    renorm: bool = False,
    renorm_clipping: Any = None,
    renorm_decay: float = 0.99,
    adjustment: Any = None,
) -> Tensor:
    """Batch normalization over all axes but the channels, of the whole batch on any number of ranks.

    Args:
        updates_collections: where the updates of moving_mean and moving_variance are collected for a program
            to run; None runs them with the result.
        is_training: a boolean or a tensor.
        fused: as by default, the moving variance divides by count - 1; False keeps it as it is.
        batch_weights, renorm, adjustment, zero_debias_moving_mean: not supported.
    """
    refused = {"batch_weights": batch_weights, "renorm": renorm, "adjustment": adjustment}
    refused["zero_debias_moving_mean"] = zero_debias_moving_mean
    if given := [name for name, value in refused.items() if value is not None and value is not False]:
        raise GraphError(f"batch_norm: {', '.join(given)} is not supported: leave it out.")
    x = convert_to_tensor(inputs)
    rank = x.shape.ndims
    if rank is None:
        raise GraphError(f"batch_norm: the rank of {x!r} has to be known.")
    axis = 1 if data_format.startswith("NC") and rank > 2 else rank - 1
    axes = [a for a in range(rank) if a != axis]
    with variable_scope(scope, "BatchNorm", [x], reuse=reuse) as here:
        shape = [size_along(x.shape, axis, here.name)]
        first, regularized = param_initializers or {}, param_regularizers or {}

        def make(name: str, default: Any, trainable: bool) -> Any:
            initializer = first.get(name, default)
            return _variable(
                x, trainable, variables_collections, name, shape, initializer, regularized.get(name)
            )

        beta = make("beta", Zeros(), trainable) if center else None
        gamma = make("gamma", Ones(), trainable) if scale else None
        means = make("moving_mean", Zeros(), False)
        variances = make("moving_variance", Ones(), False)
        wide = [-1 if a == axis else 1 for a in range(rank)] if axis < rank - 1 else None

        def normal(*statistics: Any) -> Tensor:
            values = [*statistics, beta, gamma]
            if wide is not None:
                values = [None if v is None else reshape(v, wide) for v in values]
            return batch_normalization(x, values[0], values[1], values[2], values[3], epsilon)

        if fixed(is_training) is False:
            return _finished(normal(means, variances), activation_fn, None, None, outputs_collections, here)
        mean, variance = moments(x, axes)
        kept = variance
        if fused is not False and rank in (2, 4):
            count = apply(CountLike(tuple(axes)), x)
            kept = variance * (count / maximum(count - 1, 1))
        updates = [
            moved(moving, stop_gradient(batch), decay, is_training)
            for moving, batch in ((means, mean), (variances, kept))
        ]
        y = chosen(is_training, lambda: normal(mean, variance), lambda: normal(means, variances))
        if updates_collections is None:
            with control_dependencies(updates):
                y = identity(y)
        else:
            for update in updates:
                get_default_graph().add_to_collections(updates_collections, update)
        return _finished(y, activation_fn, None, None, outputs_collections, here)


@add_arg_scope
def layer_norm(
    inputs: Any,
    center: bool = True,
    scale: bool = True,
    activation_fn: Function = None,
    reuse: Any = None,
    variables_collections: Any = None,
    outputs_collections: Any = None,
    trainable: bool = True,
    begin_norm_axis: int = 1,
    begin_params_axis: int = -1,
    scope: Any = None,
) -> Tensor:
    """Each example by its own mean and variance (Ba et al. 2016), over the axes from begin_norm_axis on."""
    x = convert_to_tensor(inputs)
    rank = x.shape.ndims or 0
    with variable_scope(scope, "LayerNorm", [x], reuse=reuse) as here:
        shape = [size_along(x.shape, a, here.name) for a in range(begin_params_axis % max(rank, 1), rank)]
        make = partial(_variable, x, trainable, variables_collections)
        beta = make("beta", shape, Zeros(), None) if center else None
        gamma = make("gamma", shape, Ones(), None) if scale else None
        mean, variance = moments(x, list(range(begin_norm_axis % rank, rank)), keep_dims=True)
        y = batch_normalization(x, mean, variance, beta, gamma, 1e-12)
        return _finished(y, activation_fn, None, None, outputs_collections, here)


@add_arg_scope
def instance_norm(
    inputs: Any,
    center: bool = True,
    scale: bool = True,
    epsilon: float = 1e-6,
    activation_fn: Function = None,
    param_initializers: Any = None,
    reuse: Any = None,
    variables_collections: Any = None,
    outputs_collections: Any = None,
    trainable: bool = True,
    data_format: str = "NHWC",
    scope: Any = None,
) -> Tensor:
    """Each channel of each image by its own mean and variance (Ulyanov et al. 2016)."""
    x = convert_to_tensor(inputs)
    rank = x.shape.ndims or 0
    first_axis = data_format.startswith("NC")
    if first_axis:
        x = transpose(x, [0, *range(2, rank), 1])
    with variable_scope(scope, "InstanceNorm", [x], reuse=reuse) as here:
        shape, first = [size_along(x.shape, -1, here.name)], param_initializers or {}
        make = partial(_variable, x, trainable, variables_collections)
        beta = make("beta", shape, first.get("beta", Zeros()), None) if center else None
        gamma = make("gamma", shape, first.get("gamma", Ones()), None) if scale else None
        mean, variance = moments(x, list(range(1, rank - 1)), keep_dims=True)
        y = batch_normalization(x, mean, variance, beta, gamma, epsilon)
        y = transpose(y, [0, rank - 1, *range(1, rank - 1)]) if first_axis else y
        return _finished(y, activation_fn, None, None, outputs_collections, here)


@add_arg_scope
def group_norm(
    inputs: Any,
    groups: int = 32,
    channels_axis: int = -1,
    reduction_axes: Sequence[int] = (-3, -2),
    center: bool = True,
    scale: bool = True,
    epsilon: float = 1e-6,
    activation_fn: Function = None,
    param_initializers: Any = None,
    reuse: Any = None,
    variables_collections: Any = None,
    outputs_collections: Any = None,
    trainable: bool = True,
    scope: Any = None,
    mean_close_to_zero: bool = False,
) -> Tensor:
    """Channels in groups, each group of each example by its own mean and variance (Wu & He 2018).

    mean_close_to_zero: says how TensorFlow computes the variance, and changes nothing.

    Raises:
        GraphError: the channels lie along another axis than the last, or do not make so many groups.
    """
    x = convert_to_tensor(inputs)
    rank = x.shape.ndims or 0
    if channels_axis % rank != rank - 1 or any(a % rank == rank - 1 for a in reduction_axes):
        raise GraphError("group_norm: channels lie along the last axis, and the others are reduced.")
    with variable_scope(scope, "GroupNorm", [x], reuse=reuse) as here:
        channels, first = size_along(x.shape, -1, here.name), param_initializers or {}
        if channels % groups:
            raise GraphError(f"group_norm: {channels} channels are not {groups} groups of the same size.")
        make = partial(_variable, x, trainable, variables_collections)
        beta = make("beta", [channels], first.get("beta", Zeros()), None) if center else None
        gamma = make("gamma", [channels], first.get("gamma", Ones()), None) if scale else None
        sizes = [-1, *(size_along(x.shape, a, here.name) for a in range(1, rank - 1))]
        apart = reshape(x, [*sizes, groups, channels // groups])
        mean, variance = moments(apart, [*(a % rank for a in reduction_axes), rank], keep_dims=True)
        y = reshape(batch_normalization(apart, mean, variance, None, None, epsilon), [*sizes, channels])
        y = y if gamma is None else y * gamma
        y = y if beta is None else y + beta
        return _finished(y, activation_fn, None, None, outputs_collections, here)


# -- layers without variables ----------------------------------------------------------------------------
@add_arg_scope
def max_pool2d(
    inputs: Any,
    kernel_size: Any,
    stride: Any = 2,
    padding: str = "VALID",
    data_format: str = "NHWC",
    outputs_collections: Any = None,
    scope: str | None = None,
) -> Tensor:
    """The largest entry of each window of images."""
    with _named(scope, "MaxPool2D") as name:
        y = _pool(max_pool, inputs, kernel_size, stride, padding, data_format)
        return _collected(y, outputs_collections, name)


@add_arg_scope
def avg_pool2d(
    inputs: Any,
    kernel_size: Any,
    stride: Any = 2,
    padding: str = "VALID",
    data_format: str = "NHWC",
    outputs_collections: Any = None,
    scope: str | None = None,
) -> Tensor:
    """The mean of each window of images, without the padding."""
    with _named(scope, "AvgPool2D") as name:
        y = _pool(avg_pool, inputs, kernel_size, stride, padding, data_format)
        return _collected(y, outputs_collections, name)


@add_arg_scope
def maxout(inputs: Any, num_units: int, axis: int = -1, scope: str | None = None) -> Tensor:
    """The largest of each num_units groups along an axis, whose size that number divides.

    Raises:
        GraphError: it does not.
    """
    x = convert_to_tensor(inputs)
    with _named(scope, "MaxOut"):
        sizes = [-1 if n is None else n for n in x.shape.as_list()]
        at = axis % len(sizes)
        if sizes[at] % num_units:
            raise GraphError(f"maxout: the {sizes[at]} features are not a multiple of num_units {num_units}.")
        apart = reshape(x, [*sizes[:at], num_units, sizes[at] // num_units, *sizes[at + 1 :]])
        return reduce_max(apart, at + 1)


@add_arg_scope
def flatten(inputs: Any, outputs_collections: Any = None, scope: str | None = None) -> Tensor:
    """[n, ...] as [n, size]."""
    with _named(scope, "Flatten") as name:
        return _collected(Flatten().call(convert_to_tensor(inputs)), outputs_collections, name)


@add_arg_scope
def dropout(
    inputs: Any,
    keep_prob: Any = 0.5,
    noise_shape: Any = None,
    is_training: Any = True,
    outputs_collections: Any = None,
    scope: str | None = None,
    seed: int | None = None,
) -> Tensor:
    """While training, entries kept with this probability and divided by it, the others 0."""
    x = convert_to_tensor(inputs)
    with _named(scope, "Dropout") as name:
        y = chosen(is_training, lambda: dropped(x, keep_prob, noise_shape, seed), lambda: identity(x))
        return _collected(y, outputs_collections, name)


@add_arg_scope
def bias_add(
    inputs: Any,
    activation_fn: Function = None,
    initializer: Any = Zeros(),  # noqa: B008
    regularizer: Function = None,
    reuse: Any = None,
    variables_collections: Any = None,
    outputs_collections: Any = None,
    trainable: bool = True,
    data_format: str = "NHWC",
    scope: Any = None,
) -> Tensor:
    """activation_fn(inputs + biases), a bias a channel."""
    x = convert_to_tensor(inputs)
    first = data_format == "NCHW"
    with variable_scope(scope, "BiasAdd", [x], reuse=reuse) as here:
        shape = [size_along(x.shape, 1 if first else -1, here.name)]
        biases = _variable(x, trainable, variables_collections, "biases", shape, initializer, regularizer)
        y = add(x, reshape(biases, [-1, *[1] * ((x.shape.ndims or 2) - 2)]) if first else biases)
        return _finished(y, activation_fn, None, None, outputs_collections, here)


@add_arg_scope
def one_hot_encoding(
    labels: Any,
    num_classes: int,
    on_value: float = 1.0,
    off_value: float = 0.0,
    outputs_collections: Any = None,
    scope: str | None = None,
) -> Tensor:
    """Labels [n] as float32 indicators [n, num_classes]."""
    with _named(scope, "OneHotEncoding") as name:
        return _collected(
            one_hot(labels, num_classes, on_value=on_value, off_value=off_value), outputs_collections, name
        )


@add_arg_scope
def softmax(logits: Any, scope: str | None = None) -> Tensor:
    """Probabilities along the last axis."""
    with _named(scope, "softmax"):
        return softmax_(logits)


@add_arg_scope
def unit_norm(inputs: Any, dim: int, epsilon: float = 1e-7, scope: str | None = None) -> Tensor:
    """inputs / (their length along an axis + epsilon)."""
    x = convert_to_tensor(inputs)
    with _named(scope, "UnitNorm"):
        return x / sqrt(epsilon + reduce_sum(square(x), dim, keepdims=True))


def embed_sequence(
    ids: Any,
    vocab_size: int | None = None,
    embed_dim: int | None = None,
    unique: bool = False,
    initializer: Any = None,
    regularizer: Function = None,
    trainable: bool = True,
    scope: Any = None,
    reuse: Any = None,
) -> Tensor:
    """Rows of the variable embeddings [vocab_size, embed_dim], by ids; unique changes nothing."""
    if not (reuse or (vocab_size and embed_dim)):
        raise GraphError("embed_sequence: give vocab_size and embed_dim, or reuse.")
    with variable_scope(scope, "EmbedSequence", [ids], reuse=reuse):
        shape = [vocab_size, embed_dim] if vocab_size and embed_dim else None
        embeddings = model_variable("embeddings", shape, None, initializer, regularizer, trainable)
        return embedding_lookup(embeddings, ids)


# -- several layers --------------------------------------------------------------------------------------
@add_arg_scope
def repeat(inputs: Any, repetitions: int, layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The layer applied so many times, in scopes name/name_1, name/name_2 ..."""
    scope = kwargs.pop("scope", None)
    with variable_scope(scope, "Repeat", [inputs]):
        name = _name(scope, layer)
        for i in range(repetitions):
            inputs = layer(inputs, *args, **{**kwargs, "scope": f"{name}_{i + 1}"})
        return inputs


@add_arg_scope
def stack(inputs: Any, layer: Callable[..., Any], stack_args: Sequence[Any], **kwargs: Any) -> Any:
    """The layer applied once for each of stack_args, which are its arguments after the inputs."""
    scope, reuse = kwargs.pop("scope", None), kwargs.pop("reuse", None)
    with variable_scope(scope, "Stack", [inputs], reuse=reuse):
        name = _name(scope, layer)
        for i, args in enumerate(stack_args):
            args = args if isinstance(args, list | tuple) else [args]
            inputs = layer(inputs, *args, **{**kwargs, "scope": f"{name}_{i + 1}"})
        return inputs


relu = partial(fully_connected, activation_fn=relu_)
elu = partial(fully_connected, activation_fn=elu_)
relu6 = partial(fully_connected, activation_fn=relu6_)
linear = partial(fully_connected, activation_fn=None)


# -- what they share -------------------------------------------------------------------------------------
def collected(graph: Any) -> dict[Any, str]:
    """The names under which tensors of a graph joined their outputs_collections."""
    return graph.kept.setdefault("output names", {})


def _variable(
    x: Tensor,
    trainable: bool,
    collections: Any,
    name: str,
    shape: Any,
    initializer: Any,
    regularizer: Any,
) -> Any:
    keys = collections.get(name) if isinstance(collections, dict) else collections
    keys = [keys] if isinstance(keys, str) else keys
    return model_variable(name, shape, x.dtype, initializer, regularizer, trainable, keys)


def _finished(
    y: Tensor, activation: Any, normalizer: Any, params: Any, collections: Any, here: VariableScope
) -> Any:
    """With the normalizer and the activation, and collected."""
    if normalizer is not None:
        y = normalizer(y, **(params or {}))
    return _collected(y if activation is None else activation(y), collections, here.original_name_scope)


def _collected(y: Tensor, collections: Any, name: str) -> Tensor:
    if collections:
        get_default_graph().add_to_collections(collections, y)
        collected(y.graph)[y] = name.rstrip("/")
    return y


@contextmanager
def _named(scope: Any, default: str) -> Iterator[str]:
    with name_scope(scope, default) as name:
        yield name


def _pool(pool: Any, inputs: Any, size: Any, stride: Any, padding: str, data_format: str) -> Tensor:
    x = convert_to_tensor(inputs)
    if data_format == "NCHW":
        y = pool(transpose(x, [0, 2, 3, 1]), _each(size, 2), _each(stride, 2), padding)
        return transpose(y, [0, 3, 1, 2])
    return pool(x, _each(size, 2), _each(stride, 2), padding)


def _each(value: Any, axes: int) -> list[int]:
    given = [int(v) for v in value] if hasattr(value, "__len__") else [int(value)]
    return given * axes if len(given) == 1 else given


def _name(scope: Any, layer: Any) -> str:
    """What the scopes of repeated layers begin with."""
    if scope is not None:
        return scope if isinstance(scope, str) else scope.name.rpartition("/")[2]
    return getattr(getattr(layer, "func", layer), "__name__", "layer")
