"""Images seen through other places: each moved, turned or zoomed in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import uint8
from dtrain.graph.graph import Operation, Spec
from dtrain.ops.base import Array, Env, Example, Kernel, Op, Placed, place_rows, register
from dtrain.ops.placement import Placement
from dtrain.ops.window import images

#: What lies beside an image: its mirror, the edge's pixel, the image again, or one value.
FILLS = ("constant", "reflect", "nearest", "wrap")
#: Places beyond this are all the same.
FAR = 1e9


@register
class Warp(Op):
    """Each pixel of the result is the image at another place. Inputs: images, and six numbers for each.

    Pixel (row, column) is what lies at column a column + b row + c and row d column + e row + f, which is
    between four pixels: the nearest of them, or (smooth) their mean by how near they are. fill: what lies
    beside the image (see FILLS), value where that is constant. size: rows and columns of the result.
    """

    fill: str
    smooth: bool
    size: tuple[int, int]
    value: float = 0.0
    no_gradient = "images are warped before anything is learned of them; do it in front of the first weights"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        x, places = specs
        n, _, _, channels = images(x.shape, "the images")
        count, numbers = (None, 6) if places.shape is None else (*places.shape, 0, 0)[:2]
        if not (x.dtype.is_floating or x.dtype == uint8):
            raise GraphError(f"it is not defined on {x.dtype.name}; cast it to float32")
        if not places.dtype.is_floating or numbers not in (6, None) or len(places.shape or (0, 0)) != 2:
            raise GraphError(f"it takes six numbers for each image, [n, 6], not {places}")
        if None not in (n, count) and n != count:
            raise GraphError(f"there are {n} images, and places for {count}")
        return [Spec((n, *self.size, channels), x.dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, (x, places), out = env.xp, ins, outs[0]
        height, width = x.shape[1:3]
        row, column = xp.arange(self.size[0])[:, None], xp.arange(self.size[1])
        row, column = row.astype(places.dtype), column.astype(places.dtype)
        example = xp.arange(len(x))[:, None, None]

        def pick(y: Array, k: Array) -> Array:
            """The pixels at whole numbers of rows and columns, [n, rows, columns, channels]."""
            rows, columns = self._inside(xp, y, height), self._inside(xp, k, width)
            found = x[example, xp.maximum(rows, 0), xp.maximum(columns, 0)]
            outside = (rows < 0) | (columns < 0)
            return xp.where(outside[..., None], x.dtype.type(self.value), found)

        def kernel() -> None:
            a, b, c, d, e, f = (places[:, i, None, None] for i in range(6))
            found = a * column + b * row + c, d * column + e * row + f
            across, down = (xp.clip(xp.nan_to_num(v), -FAR, FAR) for v in found)
            if not self.smooth:
                out[...] = pick(*(xp.floor(v + v.dtype.type(0.5)).astype(np.int64) for v in (down, across)))
                return
            top, left = xp.floor(down), xp.floor(across)
            v, h = (down - top)[..., None], (across - left)[..., None]
            y, k = top.astype(np.int64), left.astype(np.int64)
            p, q, r, s = (pick(y + i, k + j).astype(places.dtype) for i in (0, 1) for j in (0, 1))
            one = v.dtype.type(1)
            mean = (p * (one - h) + q * h) * (one - v) + (r * (one - h) + s * h) * v
            out[...] = xp.floor(mean + one / 2) if x.dtype == np.uint8 else mean

        return kernel

    def _inside(self, xp: Any, i: Array, n: int) -> Array:
        """Where in 0 .. n - 1 what lies at i is; -1: nowhere."""
        if self.fill == "constant":
            return xp.where((i < 0) | (i >= n), -1, i)
        if self.fill == "nearest":
            return xp.clip(i, 0, n - 1)
        if self.fill == "wrap":
            return i % n
        i = i % (2 * n)
        return xp.where(i < n, i, 2 * n - 1 - i)

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        (x, places), out = ins, outs[0]
        if places.dtype != (np.float64 if x.dtype == np.float64 else np.float32):
            return None
        sizes = (*x.shape, *self.size)
        how = FILLS.index(self.fill), int(self.smooth), float(self.value)
        return code.kernel("warp", x.dtype, out.size, x, places, *sizes, *how, out)

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        return place_rows(placements, node)

    @classmethod
    def examples(cls) -> list[Example]:
        turned = np.array([[0.8, 0.6, -1, -0.6, 0.8, 1.25], [-1, 0, 3, 0, 1, -2], [1.5, 0, 2.5, 0, 0.5, -7]])
        turned = turned.astype(np.float32)
        moved = np.array([[1, 0, 1, 0, 1, -2], [-1, 0, 3, 0, 1, 0]], np.float32)
        pixels = np.arange(2 * 3 * 4).reshape(2, 3, 4, 1).astype(np.uint8)
        return [
            *(Example(cls(fill, True, (4, 5), 0.5), (3, 3, 4, 2), turned) for fill in FILLS),
            *(Example(cls(fill, False, (4, 5), 0.5), (3, 3, 4, 2), turned) for fill in FILLS),
            Example(cls("constant", False, (3, 4)), pixels, moved),
            Example(cls("reflect", True, (2, 2)), pixels, turned[:2]),
        ]
