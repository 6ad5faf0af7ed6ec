"""Layers that make examples ready, and those that change images at random while training.

What is drawn for an image follows from the seed, the step and its place in the global batch, so a run is the
same on any number of ranks, and resumed. In a test images stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Any, ClassVar

import numpy as np

from dtrain.errors import GraphError, UsageError
from dtrain.graph.graph import Tensor, get_default_graph
from dtrain.graph.shape import as_static
from dtrain.keras.layers.base import Layer, Sizes, positive
from dtrain.ops.array import zeros_like
from dtrain.ops.base import apply, constant, convert_to_tensor
from dtrain.ops.functions import cos, floor, sin
from dtrain.ops.join import stack
from dtrain.ops.logic import where
from dtrain.ops.math import cast, greater, less
from dtrain.ops.random import RowUniform
from dtrain.ops.state import is_learned
from dtrain.ops.warp import FILLS, Warp

__all__ = [
    "CenterCrop",
    "Normalization",
    "RandomCrop",
    "RandomFlip",
    "RandomRotation",
    "RandomTranslation",
    "RandomZoom",
    "Rescaling",
]

_IMAGES = "images [batch, height, width, channels]"
_HINT = "put Reshape((height, width, channels)) in front."


# -- the same in training and in a test --------------------------------------------------------------------
class Rescaling(Layer):
    """x * scale + offset: Rescaling(1 / 255) maps pixels to 0..1.

    Args:
        scale: a number.
        offset: a number.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("scale", "offset")

    def __init__(self, scale: float, offset: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.scale, self.offset = float(scale), float(offset)

    def call(self, x: Tensor) -> Tensor:
        return x * self.scale + self.offset


class Normalization(Layer):
    """(x - mean) / sqrt(variance), for each feature or for all together.

    Args:
        axis: -1 for each feature along the last axis, None for all together.
        mean, variance: numbers, or one for each feature; or adapt(x) computes them.
        invert: whether to compute x * sqrt(variance) + mean instead.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("axis", "mean", "variance", "invert")

    def __init__(
        self,
        axis: int | None = -1,
        mean: Any = None,
        variance: Any = None,
        invert: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if (mean is None) != (variance is None):
            raise UsageError(f"{self.name}: give both mean and variance, or call adapt(examples).")
        self.axis, self.invert = axis, bool(invert)
        self.mean = None if mean is None else np.array(mean, np.float32)
        self.variance = None if variance is None else np.array(variance, np.float32)

    def adapt(self, data: Any) -> None:
        """Take mean and variance of examples [n, ...], an array that all ranks have whole.

        Raises:
            UsageError: the layer is part of a graph already, which has the old ones.
        """
        if self.built:
            raise UsageError(f"{self.name}.adapt: call it before the model is built, by fit or summary().")
        x = np.asarray(data)
        axes = tuple(range(x.ndim if self.axis is None else x.ndim - 1))
        self.mean = x.mean(axes, np.float64).astype(np.float32)
        self.variance = x.var(axes, np.float64).astype(np.float32)

    def build(self, input_shape: Sizes) -> None:
        if self.axis not in (None, -1, len(input_shape) - 1):
            raise GraphError(f"axis={self.axis} is not supported: features lie along the last axis, -1")
        if self.mean is None or self.variance is None:
            raise GraphError("it has no mean and variance: call adapt(examples) first, or give them")
        for name, value in (("mean", self.mean), ("variance", self.variance)):
            if value.shape not in ((), input_shape[-1:]):
                raise GraphError(f"its {name} has shape {value.shape}, and an example {input_shape[1:]}")

    def call(self, x: Tensor) -> Tensor:
        deviation = np.maximum(np.sqrt(self.variance), np.float32(1e-7))  # type: ignore[arg-type]  # build has seen to it
        if self.invert:
            return x * deviation + self.mean
        return (x - self.mean) / deviation


class CenterCrop(Layer):
    """The middle of images [batch, height, width, channels].

    Args:
        height: rows of the result.
        width: columns of the result.
        data_format: only 'channels_last'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("height", "width", "data_format")

    def __init__(self, height: int, width: int, data_format: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.height = positive(height, f"{self.name}: height")
        self.width = positive(width, f"{self.name}: width")
        self.data_format = _lies(data_format, self.name)

    def build(self, input_shape: Sizes) -> None:
        self.fits(input_shape, 3, _IMAGES, _HINT)
        _refuse_small(input_shape, self.height, self.width)

    def call(self, x: Tensor) -> Tensor:
        return _middle(x, self.height, self.width)


def _lies(data_format: Any, name: str) -> str:
    """The only layout of images that there is; raises UsageError for the other."""
    if data_format not in (None, "channels_last"):
        raise UsageError(
            f"{name}: data_format={data_format!r} is not supported: images are [height, width, channels]; "
            "x.transpose(0, 2, 3, 1) makes them so."
        )
    return "channels_last"


def _refuse_small(shape: Sizes, height: int, width: int) -> None:
    _, rows, columns, _ = shape
    if rows < height or columns < width:  # Layer has seen to it that they are known
        raise GraphError(f"it crops to {height} x {width}, and images are {rows} x {columns}")


def _middle(x: Tensor, height: int, width: int) -> Tensor:
    rows, columns = as_static((x.spec.shape or ())[1:3])
    top, left = (rows - height) // 2, (columns - width) // 2
    return x[:, top : top + height, left : left + width]


# -- at random, while training -----------------------------------------------------------------------------
class _Drawn(Layer):
    """A layer that sees each image through other places (see ops/warp.py) while training.

    seed: makes what is drawn other than in other layers; by default the layer's place in the model does.
    """

    #: Random numbers that an image takes.
    draws: ClassVar[int] = 1
    fill_mode, interpolation, fill_value = "constant", "nearest", 0.0

    def __init__(self, seed: int | None, data_format: Any, **options: Any) -> None:
        super().__init__(**options)
        self.seed, self.data_format = seed, _lies(data_format, self.name)

    def fills(self, fill_mode: str, interpolation: str, fill_value: float) -> None:
        """Keep what lies beside an image, and how a place between pixels is read."""
        if fill_mode not in FILLS:
            raise UsageError(f"{self.name}: fill_mode={fill_mode!r}: give one of {', '.join(FILLS)}.")
        if interpolation not in ("bilinear", "nearest"):
            raise UsageError(f"{self.name}: interpolation={interpolation!r}: give bilinear or nearest.")
        self.fill_mode, self.interpolation, self.fill_value = fill_mode, interpolation, float(fill_value)

    def build(self, input_shape: Sizes) -> None:
        self.fits(input_shape, 3, _IMAGES, _HINT)

    def call(self, x: Tensor, training: Any = False) -> Tensor:
        if training is False:
            return x
        height, width = as_static((x.spec.shape or ())[1:3])
        return self.warped(x, training, x, (height, width))

    def warped(self, x: Tensor, training: Any, kept: Tensor, size: tuple[int, int]) -> Tensor:
        """What images of a size become; kept: in a test, where training is a tensor."""
        if is_learned(x):
            raise GraphError("no gradient flows through it: put it in front of the layers that have weights")
        active = constant(1.0) if training is True else convert_to_tensor(training)
        seed = get_default_graph().op_seed() if self.seed is None else int(self.seed)
        u = apply(RowUniform(self.draws, seed), x, active)
        height, width = as_static((x.spec.shape or ())[1:3])
        zero = zeros_like(u[:, 0])
        places = self.places([u[:, i] for i in range(self.draws)], active, height, width)
        warp = Warp(self.fill_mode, self.interpolation == "bilinear", size, self.fill_value)
        y = apply(warp, x, stack([place + zero for place in places], 1))
        return y if training is True else where(greater(active, 0), y, kept)

    def places(self, u: list[Tensor], active: Tensor, height: int, width: int) -> Sequence[Any]:
        """The six numbers of Warp, each [batch] or a number, of random ones in [0, 1).

        Where active is 0 and not 1 they leave an image as it is, which costs a copy.
        """
        raise NotImplementedError


def _range(value: Any, what: str) -> tuple[float, float]:
    """The least and the most of a factor: (-f, f), or as they are given."""
    low, high = value if isinstance(value, list | tuple) and len(value) == 2 else (-value, value)
    if not -1 <= low <= high:
        raise UsageError(f"{what}={value!r}: give a share f for -f to f, or (least, most), from -1 up.")
    return float(low), float(high)


class RandomTranslation(_Drawn):
    """Each image moved down and to the right, in training.

    Args:
        height_factor, width_factor: fractions of height and width: f for -f to f, or (least, most); negative
            moves up or left.
        fill_mode: what fills the border: reflect (the mirror image), constant (fill_value), nearest or wrap.
        interpolation: bilinear or nearest.
        seed: makes the numbers different from those of other layers.
        fill_value: for fill_mode constant.
        data_format: only 'channels_last'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = (
        *("height_factor", "width_factor", "fill_mode", "interpolation", "seed", "fill_value", "data_format"),
    )
    draws = 2

    def __init__(
        self,
        height_factor: Any,
        width_factor: Any,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(seed, data_format, **options)
        self.height_factor, self.width_factor = height_factor, width_factor
        self._down = _range(height_factor, f"{self.name}: height_factor")
        self._across = _range(width_factor, f"{self.name}: width_factor")
        self.fills(fill_mode, interpolation, fill_value)

    def places(self, u: list[Tensor], active: Tensor, height: int, width: int) -> Sequence[Any]:
        down = _between(u[0], self._down) * (active * height)
        across = _between(u[1], self._across) * (active * width)
        return 1, 0, -across, 0, 1, -down


class RandomFlip(_Drawn):
    """Each image flipped or not, at random, in training.

    Args:
        mode: horizontal (left and right are exchanged), vertical, or horizontal_and_vertical.
        seed: makes the choice different from that of other layers.
        data_format: only 'channels_last'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("mode", "seed", "data_format")
    draws = 2

    def __init__(
        self,
        mode: str = "horizontal_and_vertical",
        seed: int | None = None,
        data_format: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(seed, data_format, **options)
        if mode not in ("horizontal", "vertical", "horizontal_and_vertical"):
            raise UsageError(
                f"{self.name}: mode={mode!r}: give horizontal, vertical or horizontal_and_vertical."
            )
        self.mode = mode

    def places(self, u: list[Tensor], active: Tensor, height: int, width: int) -> Sequence[Any]:
        down, across = ("vertical" in self.mode), ("horizontal" in self.mode)
        d = cast(less(u[0], 0.5), "float32") * (active * down)
        a = cast(less(u[1], 0.5), "float32") * (active * across)
        return 1 - 2 * a, 0, a * (width - 1), 0, 1 - 2 * d, d * (height - 1)


class RandomCrop(_Drawn):
    """A part of each image at a random place in training, the middle in a test.

    Args:
        height: rows of the result.
        width: columns of the result.
        seed: makes the places different from those of other layers.
        data_format: only 'channels_last'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("height", "width", "seed", "data_format")
    draws = 2

    def __init__(
        self, height: int, width: int, seed: int | None = None, data_format: Any = None, **options: Any
    ) -> None:
        super().__init__(seed, data_format, **options)
        self.height = positive(height, f"{self.name}: height")
        self.width = positive(width, f"{self.name}: width")

    def build(self, input_shape: Sizes) -> None:
        super().build(input_shape)
        _refuse_small(input_shape, self.height, self.width)

    def call(self, x: Tensor, training: Any = False) -> Tensor:
        size = self.height, self.width
        kept = _middle(x, *size)
        return kept if training is False else self.warped(x, training, kept, size)

    def places(self, u: list[Tensor], active: Tensor, height: int, width: int) -> Sequence[Any]:
        top, left = (
            floor(share * (room + 1)) * active + room // 2 * (1 - active)
            for share, room in zip(u, (height - self.height, width - self.width), strict=True)
        )
        return 1, 0, left, 0, 1, top


class RandomRotation(_Drawn):
    """Each image rotated about its center, in training.

    Args:
        factor: fraction of a full turn, counterclockwise if positive: f for -f to f, or (least, most).
        fill_mode: what fills the border: reflect (the mirror image), constant (fill_value), nearest or wrap.
        interpolation: bilinear or nearest.
        seed: makes the numbers different from those of other layers.
        fill_value: for fill_mode constant.
        data_format: only 'channels_last'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("factor", "fill_mode", "interpolation", "seed", "fill_value", "data_format")

    def __init__(
        self,
        factor: Any,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(seed, data_format, **options)
        self.factor, self._turn = factor, _range(factor, f"{self.name}: factor")
        self.fills(fill_mode, interpolation, fill_value)

    def places(self, u: list[Tensor], active: Tensor, height: int, width: int) -> Sequence[Any]:
        angle = _between(u[0], self._turn) * (active * 2 * pi)
        c, s, y, x = cos(angle), sin(angle), (height - 1) / 2, (width - 1) / 2
        return c, -s, x - (c * x - s * y), s, c, y - (s * x + c * y)


class RandomZoom(_Drawn):
    """Each image zoomed about its center, in training: out by a positive factor, in by a negative one.

    Args:
        height_factor: f for -f to f, or (least, most).
        width_factor: by default the same number as for the height.
        fill_mode: what fills the border: reflect (the mirror image), constant (fill_value), nearest or wrap.
        interpolation: bilinear or nearest.
        seed: makes the numbers different from those of other layers.
        fill_value: for fill_mode constant.
        data_format: only 'channels_last'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = (
        *("height_factor", "width_factor", "fill_mode", "interpolation", "seed", "fill_value", "data_format"),
    )
    draws = 2

    def __init__(
        self,
        height_factor: Any,
        width_factor: Any = None,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        seed: int | None = None,
        fill_value: float = 0.0,
        data_format: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(seed, data_format, **options)
        self.height_factor, self.width_factor = height_factor, width_factor
        self._down = _range(height_factor, f"{self.name}: height_factor")
        self._across = None if width_factor is None else _range(width_factor, f"{self.name}: width_factor")
        self.fills(fill_mode, interpolation, fill_value)

    def places(self, u: list[Tensor], active: Tensor, height: int, width: int) -> Sequence[Any]:
        down = _between(u[0], self._down) * active
        across = down if self._across is None else _between(u[1], self._across) * active
        return 1 + across, 0, across * (-(width - 1) / 2), 0, 1 + down, down * (-(height - 1) / 2)


def _between(u: Tensor, bounds: tuple[float, float]) -> Tensor:
    """What lies between the least and the most as u does between 0 and 1."""
    return u * (bounds[1] - bounds[0]) + bounds[0]
