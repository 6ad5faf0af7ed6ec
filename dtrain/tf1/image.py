"""tf.image: images as tensors [height, width, channels], or [n, height, width, channels].

All are formulas of the graph's ops, so they run in a plan and in the functions of data sets; decoding and
encoding is Pillow's, in the functions of data sets. Random draws are the same on all ranks.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.errors import DataError, EnvironmentProblem, GraphError
from dtrain.graph.dtypes import as_dtype, float32, int32, string, uint8
from dtrain.graph.graph import Tensor, TensorLike
from dtrain.names import module_getattr
from dtrain.ops import math
from dtrain.ops.array import expand_dims, transpose
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.clip import clip_by_value
from dtrain.ops.functions import floor
from dtrain.ops.index import gather
from dtrain.ops.join import pad, reverse, stack, tile, unstack
from dtrain.ops.late import shape as shape_of
from dtrain.ops.logic import where
from dtrain.ops.make import range_
from dtrain.ops.math import cast, maximum, minimum
from dtrain.ops.nn import relu
from dtrain.ops.python import in_python
from dtrain.ops.random import random_uniform
from dtrain.ops.reduce import reduce_max, reduce_mean, reduce_min, reduce_prod, reduce_sum
from dtrain.ops.slicing import slice_
from dtrain.ops.tensors import tensordot

__all__ = [
    "ResizeMethod",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_gamma",
    "adjust_hue",
    "adjust_saturation",
    "central_crop",
    "convert_image_dtype",
    "crop_to_bounding_box",
    "decode_image",
    "decode_jpeg",
    "decode_png",
    "encode_jpeg",
    "encode_png",
    "flip_left_right",
    "flip_up_down",
    "grayscale_to_rgb",
    "hsv_to_rgb",
    "pad_to_bounding_box",
    "per_image_standardization",
    "random_brightness",
    "random_contrast",
    "random_flip_left_right",
    "random_flip_up_down",
    "random_hue",
    "random_saturation",
    "resize_area",
    "resize_bicubic",
    "resize_bilinear",
    "resize_image_with_crop_or_pad",
    "resize_images",
    "resize_nearest_neighbor",
    "rgb_to_grayscale",
    "rgb_to_hsv",
    "rot90",
    "transpose_image",
]

__getattr__ = module_getattr("tf.image")


# -- sizes -----------------------------------------------------------------------------------------------
class ResizeMethod:
    """How resize_images finds the pixels between pixels."""

    BILINEAR, NEAREST_NEIGHBOR, BICUBIC, AREA = range(4)


def resize_images(
    images: Any,
    size: Any,
    method: int = ResizeMethod.BILINEAR,
    align_corners: bool = False,
    preserve_aspect_ratio: bool = False,
) -> Tensor:
    """Images of size [height, width]: of the same dtype where NEAREST_NEIGHBOR, else float32.

    An image that is known to be of this size already comes back as it is.
    """
    if preserve_aspect_ratio:
        raise GraphError("resize_images: preserve_aspect_ratio is not supported: give the size itself.")
    if method not in (0, 1, 2, 3):
        raise GraphError(f"resize_images: method={method!r} is none of ResizeMethod's.")
    images = convert_to_tensor(images)
    height, width = unstack(size, 2) if isinstance(size, TensorLike) else size
    height, width = (n if isinstance(n, TensorLike) else int(n) for n in (height, width))
    at = _height_axis(images)
    known = images.spec.shape
    if known is not None and known[at : at + 2] == (height, width):
        return images
    if method in (ResizeMethod.BICUBIC, ResizeMethod.AREA):
        make = _cubic if method == ResizeMethod.BICUBIC else _area
        result = cast(images, float32)
        for axis, size_ in ((at, height), (at + 1, width)):
            result = _mixed(result, axis, size_, align_corners, make)
        return result
    if method == ResizeMethod.NEAREST_NEIGHBOR:
        result = _nearest(_nearest(images, at, height, align_corners), at + 1, width, align_corners)
    else:
        result = cast(images, float32)
        result = _between(_between(result, at + 1, width, align_corners), at, height, align_corners)
    return result


def resize_bilinear(images: Any, size: Any, align_corners: bool = False, name: str | None = None) -> Tensor:
    """resize_images with BILINEAR."""
    return resize_images(images, size, ResizeMethod.BILINEAR, align_corners)


def resize_nearest_neighbor(
    images: Any, size: Any, align_corners: bool = False, name: str | None = None
) -> Tensor:
    """resize_images with NEAREST_NEIGHBOR."""
    return resize_images(images, size, ResizeMethod.NEAREST_NEIGHBOR, align_corners)


def resize_bicubic(images: Any, size: Any, align_corners: bool = False, name: str | None = None) -> Tensor:
    """resize_images with BICUBIC."""
    return resize_images(images, size, ResizeMethod.BICUBIC, align_corners)


def resize_area(images: Any, size: Any, align_corners: bool = False, name: str | None = None) -> Tensor:
    """resize_images with AREA."""
    return resize_images(images, size, ResizeMethod.AREA, align_corners)


def _mixed(images: Tensor, axis: int, size: Any, corners: bool, make: Any) -> Tensor:
    """Images whose rows or columns are weighted sums of those that they had."""
    had = images.spec.shape[axis] if images.spec.shape else None
    if had is None or isinstance(size, TensorLike):
        raise GraphError("resize_images: with BICUBIC and AREA the sizes of the images are to be known.")
    scale = (had - 1) / (size - 1) if corners and size > 1 else had / size
    weights = make(had, size, np.float32(scale)).astype(np.float32)
    order = list(range(len(images.shape)))
    order.insert(axis, order.pop())
    return transpose(tensordot(images, weights.T, [[axis], [0]]), order)


def _cubic(had: int, wants: int, scale: np.float32) -> np.ndarray:
    """Weights of Keys's cubic convolution (1981) with a = -0.75, at 1,024 places between two pixels."""

    def near(x: np.ndarray) -> np.ndarray:
        return (1.25 * x - 2.25) * x * x + 1

    def far(x: np.ndarray) -> np.ndarray:
        return ((-0.75 * x + 3.75) * x - 6) * x + 3

    places = np.arange(wants, dtype=np.float32) * scale
    first = np.floor(places).astype(int)
    part = np.rint((places - first) * 1024) / 1024
    weights = np.zeros((wants, had))
    for step, share in ((-1, far(part + 1)), (0, near(part)), (1, near(1 - part)), (2, far(2 - part))):
        np.add.at(weights, (np.arange(wants), np.clip(first + step, 0, had - 1)), share)
    return weights


def _area(had: int, wants: int, scale: np.float32) -> np.ndarray:
    """Weights by how much of each pixel lies in the new one."""
    begin = np.arange(wants) * float(scale)
    inside = np.minimum(np.arange(had) + 1, begin[:, None] + float(scale)) - np.maximum(
        np.arange(had), begin[:, None]
    )
    return np.maximum(inside, 0) / float(scale)


def _places(images: Tensor, axis: int, size: Any, corners: bool) -> Tensor:
    """Where in the image each pixel of the new one is taken from."""
    had, wants = cast(shape_of(images)[axis], float32), cast(convert_to_tensor(size), float32)
    scale = (had - 1.0) / maximum(wants - 1.0, 1.0) if corners else had / wants
    return cast(range_(size), float32) * scale


def _nearest(images: Tensor, axis: int, size: Any, corners: bool) -> Tensor:
    places = _places(images, axis, size, corners)
    which = cast(floor(places + 0.5) if corners else floor(places), int32)
    return gather(images, minimum(which, shape_of(images)[axis] - 1), axis=axis)


def _between(images: Tensor, axis: int, size: Any, corners: bool) -> Tensor:
    places = _places(images, axis, size, corners)
    low = cast(floor(places), int32)
    one = gather(images, low, axis=axis)
    other = gather(images, minimum(low + 1, shape_of(images)[axis] - 1), axis=axis)
    behind = _rank(images) - 1 - axis
    share = places - floor(places)
    for _ in range(behind):
        share = expand_dims(share, -1)
    return one + (other - one) * share


def crop_to_bounding_box(
    image: Any, offset_height: Any, offset_width: Any, target_height: Any, target_width: Any
) -> Tensor:
    """The part of target size that begins at the offsets."""
    image = convert_to_tensor(image)
    first = [0] if _rank(image) == 4 else []
    begin = [*first, offset_height, offset_width, 0]
    size = [*([-1] * len(first)), target_height, target_width, -1]
    return slice_(image, begin, size)


def pad_to_bounding_box(
    image: Any, offset_height: Any, offset_width: Any, target_height: Any, target_width: Any
) -> Tensor:
    """The image at these offsets in zeros of target size."""
    image = convert_to_tensor(image)
    at = _height_axis(image)
    below = target_height - offset_height - _size(image, at)
    right = target_width - offset_width - _size(image, at + 1)
    paddings = [[offset_height, below], [offset_width, right], [0, 0]]
    return pad(image, [[0, 0], *paddings] if _rank(image) == 4 else paddings)


def resize_image_with_crop_or_pad(image: Any, target_height: Any, target_width: Any) -> Tensor:
    """The middle of the image, or the image in the middle of zeros, at this size."""
    image = convert_to_tensor(image)
    at = _height_axis(image)
    offsets, sizes, pads = list[Any](), list[Any](), list[Any]()
    for target, axis in ((target_height, at), (target_width, at + 1)):
        had = _size(image, axis)
        more = target - had
        if isinstance(more, int):
            offsets.append(max(-more // 2, 0))
            sizes.append(min(target, had))
            pads.append(max(more // 2, 0))
        else:
            offsets.append(maximum(-more // 2, 0))
            sizes.append(minimum(target, had))
            pads.append(maximum(more // 2, 0))
    cropped = crop_to_bounding_box(image, *offsets, *sizes)
    whole = pad_to_bounding_box(cropped, pads[0], pads[1], target_height, target_width)
    if isinstance(target_height, int) and isinstance(target_width, int):
        dims = [target_height, target_width, (image.spec.shape or (None,))[-1]]
        whole.set_shape([(image.spec.shape or (None,))[0], *dims] if _rank(image) == 4 else dims)
    return whole


def central_crop(image: Any, central_fraction: float) -> Tensor:
    """The middle part of an image: this share of each side."""
    if not 0 < central_fraction <= 1:
        raise GraphError(f"central_crop: central_fraction is {central_fraction}; it has to be in (0, 1].")
    image = convert_to_tensor(image)
    at = _height_axis(image)
    begins, sizes = [], []
    for axis in (at, at + 1):
        had = _size(image, axis)
        if isinstance(had, int):
            begin: Any = int((had - had * central_fraction) / 2)
        else:
            whole = cast(had, "float64")
            begin = cast((whole - whole * central_fraction) / 2.0, int32)
        begins.append(begin)
        sizes.append(had - begin * 2)
    return crop_to_bounding_box(image, *begins, *sizes)


# -- turning ---------------------------------------------------------------------------------------------
def flip_left_right(image: Any) -> Tensor:
    """Mirrored: the left is on the right."""
    image = convert_to_tensor(image)
    return reverse(image, [_height_axis(image) + 1])


def flip_up_down(image: Any) -> Tensor:
    """Upside down, mirrored."""
    image = convert_to_tensor(image)
    return reverse(image, [_height_axis(image)])


def random_flip_left_right(image: Any, seed: int | None = None) -> Tensor:
    """flip_left_right of each image, or not, as a coin falls."""
    return _perhaps(convert_to_tensor(image), flip_left_right, seed)


def random_flip_up_down(image: Any, seed: int | None = None) -> Tensor:
    """flip_up_down of each image, or not, as a coin falls."""
    return _perhaps(convert_to_tensor(image), flip_up_down, seed)


def _perhaps(image: Tensor, flip: Callable[[Any], Tensor], seed: int | None) -> Tensor:
    shape: list[Any] = [1, 1, 1]
    if _rank(image) == 4:
        shape = [shape_of(image)[0], *shape]
    coin = random_uniform(shape, 0.0, 1.0, seed=seed)
    same = math.equal(image, image)  # of the image's shape, for the coin to be spread over
    return where(math.less(coin + cast(same, float32) * 0.0, 0.5), flip(image), image)


def rot90(image: Any, k: int = 1, name: str | None = None) -> Tensor:
    """Turned k times by a quarter, against the clock."""
    image = convert_to_tensor(image)
    at = _height_axis(image)
    turns: dict[int, Callable[[Any], Any]] = {
        0: lambda x: x,
        1: lambda x: reverse(transpose_image(x), [at]),
        2: lambda x: reverse(x, [at, at + 1]),
        3: lambda x: transpose_image(reverse(x, [at])),
    }
    return turns[int(k) % 4](image)


def transpose_image(image: Any) -> Tensor:
    """Rows become columns."""
    image = convert_to_tensor(image)
    return transpose(image, [1, 0, 2] if _rank(image) == 3 else [0, 2, 1, 3])


# -- colours ---------------------------------------------------------------------------------------------
def convert_image_dtype(image: Any, dtype: Any, saturate: bool = False, name: str | None = None) -> Tensor:
    """The image in another dtype: floats from 0 to 1 are integers from 0 to their greatest.

    saturate: what does not fit an integer becomes the nearest that does; without it what it is cast to.
    """
    image, dtype = convert_to_tensor(image), as_dtype(dtype)
    had = image.dtype
    if had == dtype:
        return image
    if had.is_integer and dtype.is_integer:
        most, wants = np.iinfo(had.numpy).max, np.iinfo(dtype.numpy).max
        if most > wants:
            return cast(image // ((most + 1) // (wants + 1)), dtype)
        return cast(image, dtype) * ((wants + 1) // (most + 1))
    if had.is_floating and dtype.is_floating:
        return cast(image, dtype)
    if had.is_integer:
        return cast(image, dtype) * (1.0 / np.iinfo(had.numpy).max)
    scaled = image * (np.iinfo(dtype.numpy).max + 0.5)
    if saturate:
        scaled = clip_by_value(scaled, float(np.iinfo(dtype.numpy).min), float(np.iinfo(dtype.numpy).max))
    return cast(scaled, dtype)


def _as_floats(image: Any, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The image changed as floats, in its own dtype again."""
    image = convert_to_tensor(image)
    if image.dtype.is_floating:
        return change(image)
    return convert_image_dtype(change(convert_image_dtype(image, float32)), image.dtype, saturate=True)


def adjust_brightness(image: Any, delta: Any) -> Tensor:
    """image + delta, where images of integers count from 0 to 1."""
    return _as_floats(image, lambda x: x + cast(convert_to_tensor(delta), x.dtype))


def random_brightness(image: Any, max_delta: float, seed: int | None = None) -> Tensor:
    """adjust_brightness by a number in [-max_delta, max_delta)."""
    return adjust_brightness(image, random_uniform([], -max_delta, max_delta, seed=seed))


def adjust_contrast(images: Any, contrast_factor: Any) -> Tensor:
    """(x - mean) * contrast_factor + mean, with the mean of each channel of an image."""

    def change(x: Tensor) -> Tensor:
        at = _height_axis(x)
        mean = reduce_mean(x, [at, at + 1], keepdims=True)
        return (x - mean) * cast(convert_to_tensor(contrast_factor), x.dtype) + mean

    return _as_floats(images, change)


def random_contrast(image: Any, lower: float, upper: float, seed: int | None = None) -> Tensor:
    """adjust_contrast by a number in [lower, upper)."""
    return adjust_contrast(image, random_uniform([], lower, upper, seed=seed))


def adjust_gamma(image: Any, gamma: Any = 1, gain: Any = 1) -> Tensor:
    """gain * image ** gamma, of images from 0 to 1, or of integers by their greatest."""
    image = convert_to_tensor(image)
    if image.dtype.is_floating:
        return image**gamma * gain
    most = float(np.iinfo(image.dtype.numpy).max)
    changed = (cast(image, float32) / most) ** float(gamma) * most * gain
    return cast(clip_by_value(changed, 0.0, most), image.dtype)


def rgb_to_grayscale(images: Any, name: str | None = None) -> Tensor:
    """One channel: 0.2989 of red, 0.587 of green and 0.114 of blue."""
    images = convert_to_tensor(images)
    floats = convert_image_dtype(images, float32)
    gray = reduce_sum(floats * np.array([0.2989, 0.5870, 0.1140], np.float32), -1, keepdims=True)
    return convert_image_dtype(gray, images.dtype)


def grayscale_to_rgb(images: Any, name: str | None = None) -> Tensor:
    """The one channel three times."""
    images = convert_to_tensor(images)
    return tile(images, [1] * (_rank(images) - 1) + [3])


def rgb_to_hsv(images: Any, name: str | None = None) -> Tensor:
    """Hue, saturation and value, from 0 to 1, of red, green and blue from 0 to 1."""
    images = convert_to_tensor(images)
    red, green, blue = unstack(images, 3, axis=-1)
    value, least = reduce_max(images, -1), reduce_min(images, -1)
    spread = value - least
    some = math.greater(spread, 0.0)
    over = 1.0 / (6.0 * where(some, spread, spread * 0.0 + 1.0))
    hue = where(
        math.equal(red, value),
        over * (green - blue),
        where(
            math.equal(green, value),
            over * (blue - red) + 2.0 / 6.0,
            over * (red - green) + 4.0 / 6.0,
        ),
    )
    hue = where(some, hue, hue * 0.0)
    hue = where(math.less(hue, 0.0), hue + 1.0, hue)
    lit = math.greater(value, 0.0)
    saturation = where(lit, spread / where(lit, value, value * 0.0 + 1.0), value * 0.0)
    return stack([hue, saturation, value], axis=-1)


def hsv_to_rgb(images: Any, name: str | None = None) -> Tensor:
    """Red, green and blue of hue, saturation and value."""
    hue, saturation, value = unstack(convert_to_tensor(images), 3, axis=-1)
    sixth = hue * 6.0
    parts = [abs(sixth - 3.0) - 1.0, 2.0 - abs(sixth - 2.0), 2.0 - abs(sixth - 4.0)]
    channels = [(clip_by_value(p, 0.0, 1.0) - 1.0) * saturation + 1.0 for p in parts]
    return stack([channel * value for channel in channels], axis=-1)


def adjust_saturation(image: Any, saturation_factor: Any, name: str | None = None) -> Tensor:
    """The saturation times a factor, as far as 1."""

    def change(x: Tensor) -> Tensor:
        hue, saturation, value = unstack(rgb_to_hsv(x), 3, axis=-1)
        changed = clip_by_value(saturation * cast(convert_to_tensor(saturation_factor), x.dtype), 0.0, 1.0)
        return hsv_to_rgb(stack([hue, changed, value], axis=-1))

    return _as_floats(image, change)


def adjust_hue(image: Any, delta: Any, name: str | None = None) -> Tensor:
    """The hue turned by delta, a share of the circle."""

    def change(x: Tensor) -> Tensor:
        hue, saturation, value = unstack(rgb_to_hsv(x), 3, axis=-1)
        turned = hue + (cast(convert_to_tensor(delta), x.dtype) + 1.0)
        return hsv_to_rgb(stack([turned - floor(turned), saturation, value], axis=-1))

    return _as_floats(image, change)


def random_saturation(image: Any, lower: float, upper: float, seed: int | None = None) -> Tensor:
    """adjust_saturation by a number in [lower, upper)."""
    return adjust_saturation(image, random_uniform([], lower, upper, seed=seed))


def random_hue(image: Any, max_delta: float, seed: int | None = None) -> Tensor:
    """adjust_hue by a number in [-max_delta, max_delta)."""
    return adjust_hue(image, random_uniform([], -max_delta, max_delta, seed=seed))


def per_image_standardization(image: Any) -> Tensor:
    """(x - mean) / max(standard deviation, 1 / sqrt(numbers)) of each image, as float32."""
    image = cast(convert_to_tensor(image), float32)
    at = _height_axis(image)
    axes = [at, at + 1, at + 2]
    count = cast(reduce_prod(shape_of(image)[at:]), float32)
    mean = reduce_mean(image, axes, keepdims=True)
    variance = relu(reduce_mean(math.square(image), axes, keepdims=True) - math.square(mean))
    return (image - mean) / maximum(math.sqrt(variance), math.rsqrt(count))


per_image_whitening = per_image_standardization


# -- files -----------------------------------------------------------------------------------------------
def decode_jpeg(
    contents: Any,
    channels: int = 0,
    ratio: int = 1,
    fancy_upscaling: bool = True,
    try_recover_truncated: bool = False,
    acceptable_fraction: float = 1,
    dct_method: str = "",
    name: str | None = None,
) -> Tensor:
    """The uint8 pixels [height, width, channels] of a file's bytes, by Pillow.

    channels: 1, 3, or 0 for those of the file. ratio, which shrinks, has to be 1.
    """
    if ratio != 1:
        raise GraphError("decode_jpeg: ratio has to be 1: resize_images makes an image smaller.")
    return _decoded(contents, channels, uint8, name or "DecodeJpeg")


def decode_png(contents: Any, channels: int = 0, dtype: Any = uint8, name: str | None = None) -> Tensor:
    """decode_jpeg of a PNG, which may have 4 channels; dtype is uint8."""
    if as_dtype(dtype) != uint8:
        raise GraphError("decode_png: dtype has to be uint8.")
    return _decoded(contents, channels, uint8, name or "DecodePng")


def decode_image(
    contents: Any, channels: int | None = None, dtype: Any = uint8, name: str | None = None
) -> Tensor:
    """decode_jpeg of any file that Pillow knows, in a dtype as of convert_image_dtype."""
    return convert_image_dtype(_decoded(contents, channels or 0, uint8, name or "DecodeImage"), dtype)


def encode_png(image: Any, compression: int = -1, name: str | None = None) -> Tensor:
    """The bytes of a PNG of uint8 pixels, by Pillow."""
    return in_python(lambda x: _bytes_of(x, "PNG"), [image], [string], [[]], name or "EncodePng")[0]


def encode_jpeg(image: Any, format: str = "", quality: int = 95, name: str | None = None) -> Tensor:
    """The bytes of a JPEG of uint8 pixels, by Pillow."""
    return in_python(
        lambda x: _bytes_of(x, "JPEG", quality=quality), [image], [string], [[]], name or "EncodeJpeg"
    )[0]


def _decoded(contents: Any, channels: int, dtype: Any, name: str) -> Tensor:
    modes = {0: None, 1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise GraphError(f"{name}: channels is {channels}; it has to be 0, 1, 3 or 4.")

    def decode(data: bytes) -> np.ndarray:
        images = _pillow()
        try:
            with images.open(io.BytesIO(data)) as image:
                mode = modes[channels] or (image.mode if image.mode in ("L", "RGB", "RGBA") else "RGB")
                pixels = np.asarray(image.convert(mode), np.uint8)
        except OSError as error:
            raise DataError(f"{name}: {error}") from None
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    return in_python(decode, [contents], [dtype], [[None, None, channels or None]], name)[0]


def _bytes_of(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    shown = pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels
    _pillow().fromarray(shown).save(file, kind, **options)
    return file.getvalue()


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise EnvironmentProblem(
            "tf.image decodes and encodes images with Pillow, which is not installed: pip install pillow"
        ) from None
    return Image


# -- helpers ---------------------------------------------------------------------------------------------
def _rank(image: Tensor) -> int:
    shape = image.spec.shape
    if shape is None:
        return 3  # as of a decoded image
    if len(shape) not in (3, 4):
        raise GraphError(f"{image!r} is no image: it has to have 3 axes, or 4 for a batch of images.")
    return len(shape)


def _height_axis(image: Tensor) -> int:
    return _rank(image) - 3


def _size(image: Tensor, axis: int) -> Any:
    """A size as an int where it is known, else as a tensor."""
    known = None if image.spec.shape is None else image.spec.shape[axis]
    return shape_of(image)[axis] if known is None else known
