"""Convolutions and pooling beside the two-dimensional ones, made of those.

Sequences are images of one row. A volume is convolved slice by slice: the slices under the filter lie side by
side as channels, which makes a few large matrix products of it. Depthwise, each channel has filters
of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.graph import Tensor, TensorLike
from dtrain.graph.shape import as_static
from dtrain.ops.array import expand_dims, reshape, squeeze, transpose, zeros
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.conv import conv2d, conv2d_transpose
from dtrain.ops.join import concat, pad, stack, unstack
from dtrain.ops.late import known_value
from dtrain.ops.late import shape as sizes_of
from dtrain.ops.math import add, add_n, multiply, pow, square
from dtrain.ops.pool import avg_pool, max_pool
from dtrain.ops.window import channels_last, padding_of, place_windows, two


def conv1d(
    value: Any = None,
    filters: Any = None,
    stride: Any = None,
    padding: Any = None,
    use_cudnn_on_gpu: bool | None = None,
    data_format: str | None = None,
    name: str | None = None,
    input: Any = None,
    dilations: Any = 1,
) -> Tensor:
    """Convolution of sequences [n, steps, in] by filters [size, in, out].

    data_format: NWC or NCW, by their older names NHWC and NCHW.
    """
    x = convert_to_tensor(input if value is None else value)
    first = data_format in ("NCW", "NCHW")
    if first:
        x = transpose(x, [0, 2, 1])
    if stride is None:
        raise GraphError("conv1d: stride is missing: 1 moves the window step by step.")
    by, apart = _one(stride, "stride"), _one(dilations, "dilations")
    kernel = expand_dims(convert_to_tensor(filters), 0)
    y = squeeze(conv2d(expand_dims(x, 1), kernel, [1, by], padding, dilations=[1, apart]), [1], name=name)
    return transpose(y, [0, 2, 1]) if first else y


def conv3d(
    input: Any,
    filter: Any = None,
    strides: Any = None,
    padding: Any = None,
    data_format: str = "NDHWC",
    dilations: Any = (1, 1, 1, 1, 1),
    name: str | None = None,
    filters: Any = None,
) -> Tensor:
    """Convolution of volumes [n, depth, height, width, in] by filters [depth, height, width, in, out].

    Raises:
        GraphError: the depth is not known, or the shapes do not fit.
    """
    x, f = convert_to_tensor(input), convert_to_tensor(filter if filters is None else filters)
    if data_format == "NCDHW":
        strides, dilations = (_behind(v) for v in (strides, dilations))
        y = conv3d(transpose(x, [0, 2, 3, 4, 1]), f, strides, padding, "NDHWC", dilations, name)
        return transpose(y, [0, 4, 1, 2, 3])
    padding = padding_of(padding)
    by, apart = _three(strides, "strides", data_format), _three(dilations, "dilations", data_format)
    slices, kernel = _depth(x, "the volumes"), f.spec.shape
    if kernel is None or len(kernel) != 5 or None in kernel[:4]:
        raise GraphError(f"conv3d: the filter {f!r} is not [depth, height, width, in, out].")
    axis = place_windows(len(slices), kernel[0], by[0], apart[0], padding)  # type: ignore[arg-type]  # known, see above
    kd, kh, kw, inputs = kernel[:4]
    flat = reshape(transpose(f, [1, 2, 0, 3, 4]), [kh, kw, kd * inputs, -1])  # type: ignore[operator]  # known, see above
    results = []
    for i in range(axis.count):
        under = [i * axis.stride - axis.before + k * axis.dilation for k in range(axis.size)]
        inside = [k for k, at in enumerate(under) if 0 <= at < len(slices)]
        # those of its entries that lie inside follow one another
        part = flat[:, :, inside[0] * inputs : (inside[-1] + 1) * inputs]  # type: ignore[operator]  # known, see above
        window = concat([slices[under[k]] for k in inside], 3)
        results.append(conv2d(window, part, by[1:], padding, dilations=apart[1:]))
    return stack(results, 1, name=name or "Conv3D")


def conv3d_transpose(
    value: Any,
    filter: Any = None,
    output_shape: Any = None,
    strides: Any = None,
    padding: Any = "SAME",
    data_format: str = "NDHWC",
    name: str | None = None,
) -> Tensor:
    """The transpose (gradient) of conv3d: volumes [n, depth, height, width, in] made larger.

    filter: [depth, height, width, out, in]; output_shape: [n, depth', height', width', out], of which conv3d
    would make the shape of value; n may be a tensor.

    Raises:
        GraphError: a size but that of the batch is not known, or the shapes do not fit.
    """
    x, f = convert_to_tensor(value), convert_to_tensor(filter)
    to, n = _volume(output_shape, x)
    if data_format == "NCDHW":
        to, by = [*to[1:], to[0]], _behind(strides)
        y = conv3d_transpose(transpose(x, [0, 2, 3, 4, 1]), f, [n, *to], by, padding, name=name)
        return transpose(y, [0, 4, 1, 2, 3])
    by = _three(strides, "strides", data_format)
    slices, kernel = _depth(x, "the volumes"), f.spec.shape
    if kernel is None or len(kernel) != 5 or None in kernel or kernel[3] != to[3]:
        raise GraphError(f"conv3d_transpose: the filter {f!r} is not [depth, height, width, {to[3]}, in].")
    axis = place_windows(to[0], kernel[0], by[0], 1, padding_of(padding))  # type: ignore[arg-type]  # known, see above
    if axis.count != len(slices):
        raise GraphError(
            f"conv3d_transpose: a depth of {to[0]} makes {axis.count} slices, and not {len(slices)}."
        )
    results = []
    for at in range(to[0]):
        # slices whose window has this one under it, and the part of the filter that it meets there
        under = [(i, at + axis.before - i * axis.stride) for i in range(axis.count)]
        under = [(i, k) for i, k in under if 0 <= k < axis.size]
        if not under:
            results.append(zeros([n, *to[1:]], x.dtype))
            continue
        part = concat([f[k] for _, k in under], 3)
        behind = concat([slices[i] for i, _ in under], 3)
        results.append(conv2d_transpose(behind, part, [n, *to[1:]], by[1:], padding))
    return stack(results, 1, name=name or "conv3d_transpose")


def conv1d_transpose(
    input: Any,
    filters: Any,
    output_shape: Any,
    strides: Any,
    padding: Any = "SAME",
    data_format: str = "NWC",
    dilations: None = None,
    name: str | None = None,
) -> Tensor:
    """The transpose of conv1d: sequences [n, steps, in] made longer by filters [size, out, in].

    output_shape: [n, steps', out]. Raises GraphError where the shapes do not fit, or for dilations.
    """
    if dilations not in (None, 1):
        raise GraphError("conv1d_transpose: dilations are 1 here.")
    x, first = convert_to_tensor(input), data_format in ("NCW", "NCHW")
    sizes = unstack(convert_to_tensor(output_shape)) if isinstance(output_shape, TensorLike) else output_shape
    n, *to = sizes
    to = to[::-1] if first else to
    x = transpose(x, [0, 2, 1]) if first else x
    by = _one(strides, "strides")
    kernel = expand_dims(convert_to_tensor(filters), 0)
    y = conv2d_transpose(expand_dims(x, 1), kernel, [n, 1, *to], [1, by], padding)
    y = squeeze(y, [1], name=name)
    return transpose(y, [0, 2, 1]) if first else y


def _volume(output_shape: Any, x: Tensor) -> tuple[list[int], Any]:
    """The sizes of volumes but the first, and the first: a number or a tensor."""
    if output_shape is None:
        raise GraphError("conv3d_transpose: output_shape is missing: [n, depth, height, width, out].")
    known = known_value(convert_to_tensor(output_shape))
    if known is None or known.shape != (5,) or any(size is None for size in known[1:]):
        raise GraphError(f"conv3d_transpose: of {output_shape!r} the sizes but the first are to be known.")
    return [int(size) for size in known[1:]], sizes_of(x)[0] if known[0] is None else int(known[0])


def depthwise_conv2d(
    input: Any,
    filter: Any,
    strides: Any,
    padding: Any,
    rate: Any = None,
    name: str | None = None,
    data_format: str | None = None,
) -> Tensor:
    """Each channel of images convolved by filters [height, width, in, multiplier] of its own.

    The result has in * multiplier channels, those of one input channel side by side.

    Raises:
        GraphError: height or width is not known, or the shapes do not fit.
    """
    x, f = convert_to_tensor(input), convert_to_tensor(filter)
    if data_format == "NCHW":
        y = depthwise_conv2d(transpose(x, [0, 2, 3, 1]), f, channels_last(strides), padding, rate, name)
        return transpose(y, [0, 3, 1, 2])
    by, apart = two(strides, "strides", data_format), two(1 if rate is None else rate, "rate")
    shape, kernel = x.spec.shape, f.spec.shape
    if shape is None or len(shape) != 4 or None in shape[1:] or kernel is None or None in kernel:
        raise GraphError(
            f"depthwise_conv2d: the sizes of {x!r} but for the first, and of {f!r}, are to be known."
        )
    if shape[3] != kernel[2]:
        raise GraphError(
            f"depthwise_conv2d: the images have {shape[3]} channels, the filter is for {kernel[2]}."
        )
    down, across = (
        place_windows(shape[1 + i], kernel[i], by[i], apart[i], padding_of(padding))  # type: ignore[arg-type]  # known, see above
        for i in (0, 1)
    )
    if down.padded or across.padded:
        x = pad(x, [[0, 0], [down.before, down.after], [across.before, across.after], [0, 0]])
    terms = []
    for i in range(down.size):
        for j in range(across.size):
            part = expand_dims(x[:, down.under(i), across.under(j), :], -1)
            terms.append(multiply(part, f[i, j]))
    channels = kernel[2] * kernel[3]  # type: ignore[operator]  # known, see above
    return reshape(add_n(terms), [-1, down.count, across.count, channels], name=name or "depthwise")


def separable_conv2d(
    input: Any,
    depthwise_filter: Any,
    pointwise_filter: Any,
    strides: Any,
    padding: Any,
    rate: Any = None,
    name: str | None = None,
    data_format: str | None = None,
) -> Tensor:
    """depthwise_conv2d, then the channels mixed by pointwise_filter [1, 1, in * multiplier, out]."""
    x = convert_to_tensor(input)
    if data_format == "NCHW":
        x, strides = transpose(x, [0, 2, 3, 1]), channels_last(strides)
    y = depthwise_conv2d(x, depthwise_filter, strides, padding, rate)
    y = conv2d(y, pointwise_filter, 1, "VALID", name=name or "separable_conv2d")
    return transpose(y, [0, 3, 1, 2]) if data_format == "NCHW" else y


def convolution(
    input: Any,
    filter: Any,
    padding: Any,
    strides: Any = None,
    dilation_rate: Any = None,
    name: str | None = None,
    data_format: str | None = None,
) -> Tensor:
    """The convolution of the input's rank: sequences, images or volumes; strides and rates are per axis."""
    x = convert_to_tensor(input)
    axes = (x.shape.ndims or 0) - 2
    if axes not in (1, 2, 3):
        raise GraphError(f"convolution: {x!r} is neither sequences nor images nor volumes.")
    first = data_format is not None and data_format.startswith("NC")
    by, rates = (_each(v, axes) for v in (strides, dilation_rate))
    if axes == 1:
        return conv1d(x, filter, by[0], padding, None, "NCW" if first else "NWC", name, dilations=rates[0])
    ends = ([1, 1], []) if first else ([1], [1])
    by, rates = ([*ends[0], *v, *ends[1]] for v in (by, rates))
    if axes == 2:
        return conv2d(x, filter, by, padding, True, "NCHW" if first else "NHWC", rates, name)
    return conv3d(x, filter, by, padding, "NCDHW" if first else "NDHWC", rates, name)


def pool(
    input: Any,
    window_shape: Any,
    pooling_type: str,
    padding: Any,
    dilation_rate: Any = None,
    strides: Any = None,
    name: str | None = None,
    data_format: str | None = None,
) -> Tensor:
    """Pooling of sequences, images or volumes by MAX or AVG; window_shape and strides are per axis.

    Raises:
        GraphError: for a dilation_rate above 1.
    """
    x = convert_to_tensor(input)
    rank = x.shape.ndims or 0
    if any(r != 1 for r in _each(dilation_rate, rank - 2)):
        raise GraphError("pool: dilation_rate is 1 here.")
    kinds = {"MAX": (max_pool, max_pool3d), "AVG": (avg_pool, avg_pool3d)}
    if pooling_type not in kinds or rank not in (3, 4, 5):
        raise GraphError(f"pool: {pooling_type!r} of {x!r}: MAX or AVG of sequences, images or volumes.")
    images, volumes = kinds[pooling_type]
    first = data_format is not None and data_format.startswith("NC")
    if first:
        x = transpose(x, [0, *range(2, rank), 1])
    size, by = _each(window_shape, rank - 2), _each(strides, rank - 2)
    if rank == 3:
        y = squeeze(images(expand_dims(x, 1), [1, *size], [1, *by], padding), [1], name=name)
    elif rank == 4:
        y = images(x, size, by, padding, name=name)
    else:
        y = volumes(x, [1, *size, 1], [1, *by, 1], padding, name=name)
    return transpose(y, [0, rank - 1, *range(1, rank - 1)]) if first else y


def max_pool3d(
    input: Any, ksize: Any, strides: Any, padding: Any, data_format: str = "NDHWC", name: str | None = None
) -> Tensor:
    """The largest entry of each window of volumes [n, depth, height, width, channels]."""
    return _pool3d(max_pool, input, ksize, strides, padding, data_format, name or "MaxPool3D")


def avg_pool3d(
    input: Any, ksize: Any, strides: Any, padding: Any, data_format: str = "NDHWC", name: str | None = None
) -> Tensor:
    """The mean of each window of volumes [n, depth, height, width, channels], without the padding."""
    return _pool3d(avg_pool, input, ksize, strides, padding, data_format, name or "AvgPool3D")


def local_response_normalization(
    input: Any,
    depth_radius: int = 5,
    bias: float = 1,
    alpha: float = 1,
    beta: float = 0.5,
    name: str | None = None,
) -> Tensor:
    """input / (bias + alpha * sum)^beta, sum: the squares of 2 * depth_radius + 1 channels."""
    x = convert_to_tensor(input)
    channels = (x.spec.shape or (None,))[-1]
    if x.shape.ndims != 4 or channels is None:
        raise GraphError(f"local_response_normalization: {x!r} is not [n, height, width, channels].")
    at = np.arange(channels)
    near = (np.abs(at[:, None] - at) <= depth_radius).astype(x.dtype.numpy)
    total = conv2d(square(x), near.reshape(1, 1, channels, channels), 1, "VALID")
    return multiply(x, pow(add(total * alpha, bias), -beta), name=name or "LRN")


lrn = local_response_normalization


def _pool3d(
    images: Any, input: Any, ksize: Any, strides: Any, padding: Any, data_format: str, name: str
) -> Tensor:
    """Each slice pooled, then the slices under each window."""
    x = convert_to_tensor(input)
    if data_format == "NCDHW":
        y = _pool3d(
            images, transpose(x, [0, 2, 3, 4, 1]), _behind(ksize), _behind(strides), padding, "NDHWC", name
        )
        return transpose(y, [0, 4, 1, 2, 3])
    size, by = _three(ksize, "ksize", data_format), _three(strides, "strides", data_format)
    slices = [images(part, size[1:], by[1:], padding) for part in _depth(x, "the volumes")]
    # the depth as rows of images one column wide
    rest = as_static((slices[0].spec.shape or ())[1:])
    deep = reshape(stack(slices, 1), [-1, len(slices), 1, int(np.prod(rest))])
    pooled = images(deep, [size[0], 1], [by[0], 1], padding)
    return reshape(pooled, [-1, pooled.spec.shape[1], *rest], name=name)


def _depth(x: Tensor, what: str) -> list[Tensor]:
    """The slices of volumes along their depth."""
    shape = x.spec.shape
    if shape is None or len(shape) != 5 or None in shape[1:]:
        raise GraphError(f"{what} {x!r} are [n, depth, height, width, channels], all but n known.")
    return [x[:, i] for i in range(shape[1])]  # type: ignore[arg-type]  # known, see above


def _one(value: Any, what: str) -> int:
    """A step along a sequence: an int, or [1, step, 1] and the like, with one that is not 1."""
    sizes = [int(v) for v in value] if isinstance(value, Sequence) else [int(value)]
    more = [v for v in sizes if v != 1]
    if len(more) > 1:
        raise GraphError(f"{what} {sizes}: one number.")
    return more[0] if more else 1


def _each(value: Any, axes: int) -> list[int]:
    """A number for each axis, from one or as many."""
    given = [1] if value is None else [int(v) for v in value] if hasattr(value, "__len__") else [int(value)]
    if len(given) not in (1, axes):
        raise GraphError(f"{given}: a number for each of {axes} axes.")
    return given * axes if len(given) == 1 else given


def _three(value: Any, what: str, data_format: str) -> list[int]:
    """(depth, height, width) of [1, depth, height, width, 1], or of one or three ints."""
    if data_format != "NDHWC":
        raise GraphError(f"{what}: data_format {data_format!r} is none of NDHWC and NCDHW.")
    if value is None:
        raise GraphError(f"{what} are missing: [1, 1, 1, 1, 1] moves the windows one by one.")
    sizes = [int(v) for v in value] if hasattr(value, "__len__") else [int(value)] * 3
    return sizes[1:4] if len(sizes) == 5 else sizes


def _behind(sizes: Any) -> Any:
    """[1, 1, depth, height, width] as [1, depth, height, width, 1]."""
    return [sizes[0], *sizes[2:], sizes[1]] if hasattr(sizes, "__len__") and len(sizes) == 5 else sizes
