"""Convolution and pooling in C: calls of the kernels in convolution.c and pooling.c."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

from dtrain.native import compiler

#: The functions of convolution.c, each with one that says how much room it needs.
SYMBOLS = ("convolve", "convolve_back", "sum_windows")
POOLING = ("max_pool", "max_pool_grad", "avg_pool", "avg_pool_grad")
#: Bytes within which 32 bits count where a number lies.
COUNTABLE = 1 << 31
#: More images than are taken at once.
MANY = 1 << 20


@cache
def library() -> ctypes.CDLL:
    """convolution.c, compiled."""
    return loaded((compiler.HERE / "convolution.c").read_text())


def loaded(source: str) -> ctypes.CDLL:
    """A source that has its functions."""
    made = compiler.load(source, compiler.CONTRACTED)
    for symbol in SYMBOLS:
        room = getattr(made, f"{symbol}_room")
        room.restype, room.argtypes = ctypes.c_int64, (ctypes.c_void_p, ctypes.c_int64)
    return made


@cache
def pooling() -> ctypes.CDLL:
    """pooling.c, compiled."""
    return compiler.load((compiler.HERE / "pooling.c").read_text())


class Windows:
    """Windows over images [n, height, width, channels] of float32.

    images: their shape; down, across: how windows lie along height and width (see ops/window.py's Axis).
    """

    def __init__(self, code: Any, images: tuple[int, ...], down: Any, across: Any) -> None:
        self._code, self._images, self._down, self._across = code, images, down, across

    def convolve(self, x: Any, f: Any, y: Any) -> Any:
        """y [n, rows, columns, out] of the images and the filter [height, width, channels, out]."""
        return self._call("convolve", self._shape(f.shape[3]), x, len(x), f, 0, y)

    def to_images(self, dy: Any, f: Any, dx: Any) -> Any:
        """dx, the gradient to the images, of the gradient to the results and the filter."""
        if (self._down.stride, self._across.stride) != (1, 1):
            return self._call("convolve_back", self._shape(f.shape[3]), dy, len(dy), f, dx)
        _, height, width, channels = self._images
        turned = Windows(self._code, dy.shape, self._down.turned(height), self._across.turned(width))
        return turned._call("convolve", turned._shape(channels), dy, len(dy), f, 1, dx)

    def to_filter(self, x: Any, dy: Any, df: Any) -> Any:
        """df, the gradient to the filter, of the images and the gradient to the results."""
        return self._call("sum_windows", self._shape(df.shape[3]), x, dy, len(x), df)

    def pool(self, symbol: str, x: Any, out: Any, *positions: Any) -> Any:
        """The kernel of this name, which makes out of x; positions: in the windows, read or written too."""
        arrays = (x, out, *positions)
        fits = all(a.size and a.flags.c_contiguous for a in arrays)
        if symbol not in POOLING or not fits or any(p.itemsize > 1 for p in positions):
            return None
        return self._code.call(symbol, *arrays, len(x), self._shape(self._images[3]))

    def _shape(self, outputs: int) -> np.ndarray:
        """The words of `shape` in windows.h; windows that are the images' entries are one row of them."""
        (_, height, width, channels), down, across = self._images, self._down, self._across
        itself = (1, 1, 0, 0)  # size, stride, padding
        if all((a.size, a.stride, a.before, a.after) == itself for a in (down, across)):
            height, width = 1, height * width
            down, across = down._replace(count=1), across._replace(count=width)
        sizes = [height, width, channels, down.count, across.count, outputs]
        for name in ("size", "stride", "dilation", "before"):
            sizes += [getattr(down, name), getattr(across, name)]
        return np.array(sizes, np.int64)

    def _call(self, symbol: str, shape: np.ndarray, *words: Any) -> Any:
        """None where it has nothing to do, or too much for 32 bits."""
        arrays = [w for w in words if isinstance(w, np.ndarray)]
        if not all(a.size and a.flags.c_contiguous for a in arrays):
            return None
        n = next(w for w in words if not isinstance(w, np.ndarray))
        needs = getattr(library(), f"{symbol}_room")
        # where bits are not to depend on how many images a rank has, the choice does not either
        most = needs(shape.ctypes.data, MANY if self._code.bitwise is not None else n)
        if most >= COUNTABLE:
            return None
        return self._code.call(symbol, *words, shape, self._code.room(needs(shape.ctypes.data, n)))
