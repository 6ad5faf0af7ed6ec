"""--augment: images that change from epoch to epoch, each as its number, the epoch and the seed say.

So neither the number of ranks, nor the batch, nor a resume enters. What is drawn for an epoch lies in a table
with a row for each example, from which a step takes its rows as it takes the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import dtrain as dt
from dtrain.config import Augmentation
from dtrain.data.dataset import Dataset
from dtrain.errors import UsageError
from dtrain.ops.base import apply
from dtrain.ops.lend import LentRows, Table
from dtrain.ops.logic import gate
from dtrain.ops.warp import Warp

#: Random numbers that each kind takes, and what comes in where it moves an image.
DRAWS = {"shift": 2, "flip": 1, "crop": 2, "cutout": 2}
FILLS = {"shift": "constant", "flip": None, "crop": "reflect"}
#: Numbers are drawn in so many steps from 0 to 1, and under another key than the order of an epoch.
STEPS, KEY = 1 << 24, 1 << 63


class Augment:
    """What becomes of images in training, in this order; raises UsageError where examples are none.

    table: where the graph finds what is drawn.
    """

    def __init__(self, steps: Sequence[Augmentation], data: Dataset) -> None:
        shape = None if isinstance(data.x, dict) else data.x.shape[1:]
        if shape is None or len(shape) not in (2, 3) or data.x.dtype not in (np.uint8, np.float32):
            raise UsageError(
                f"--augment changes images, [h, w] or [h, w, channels], and {data.name} has others."
            )
        self._steps, self._shape, self._rows = steps, (*shape, 1)[:3], len(data.x)
        self.table = Table("augment", (sum(DRAWS[name] for name, _ in steps),), dt.int32)

    def draw(self, session: dt.Session, seed: int, epoch: int) -> None:
        """Let the steps from here on be of an epoch."""
        key = np.array([seed, epoch + KEY], np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        drawn = generator.integers(0, STEPS, (self._rows, *self.table.row), np.int32)
        self.table.rows = session.backend.from_host(drawn)

    def __call__(self, x: dt.Tensor, indices: dt.Tensor, training: dt.Tensor) -> dt.Tensor:
        """The images x of these rows of the set, changed where training is 1."""
        height, width, _ = self._shape
        own = dt.minimum(indices, dt.constant(self._rows - 1, indices.dtype))  # of a test, others have none
        drawn = dt.cast(apply(LentRows(self.table), own, name="drawn"), "float32") * (1 / STEPS)
        images = y = dt.reshape(x, [-1, *self._shape])
        at = 0
        moved = _Moved(height, width)
        for name, amount in self._steps:
            u = [drawn[:, at + i] for i in range(DRAWS[name])]
            at += len(u)
            if name == "cutout":
                y = _cut_out(moved.warp(y), u, amount, self._shape)
                continue
            if FILLS[name] not in (None, moved.fill) and moved.fill is not None:
                y = moved.warp(y)
            moved.fill = moved.fill or FILLS[name]
            if name == "flip":
                moved.flip(dt.cast(dt.less(u[0], 0.5), "float32") * training)
            else:
                moved.shift(*((dt.floor(v * (2 * amount + 1)) - amount) * training for v in u))
        y = dt.where(dt.greater(training, 0), moved.warp(y), images)
        return dt.reshape(y, [-1, *x.shape.as_list()[1:]])


class _Moved:
    """Shifts and flips that follow one another: a pixel is what lies at across column + right, row + down."""

    def __init__(self, height: int, width: int) -> None:
        self._size, self.fill = (height, width), None  # type: tuple[int, int], str | None
        self._across: Any = 1.0
        self._right: Any = 0.0
        self._down: Any = 0.0

    def flip(self, flipped: dt.Tensor) -> None:
        """Left and right change places where it is 1."""
        turn = 1 - 2 * flipped
        self._right = self._across * (flipped * (self._size[1] - 1)) + self._right
        self._across = self._across * turn

    def shift(self, down: dt.Tensor, right: dt.Tensor) -> None:
        """By so many pixels."""
        self._right = self._right - self._across * right
        self._down = self._down - down

    def warp(self, x: dt.Tensor) -> dt.Tensor:
        """The images so moved; what comes after begins anew."""
        if isinstance(self._right, float):
            return x
        nothing = dt.zeros_like(self._right)
        places = [self._across, 0.0, self._right, 0.0, 1.0, self._down]
        y = apply(
            Warp(self.fill or "constant", False, self._size), x, dt.stack([p + nothing for p in places], 1)
        )
        self.__init__(*self._size)  # type: ignore[misc]  # of this very class
        return y


def _cut_out(x: dt.Tensor, u: Sequence[dt.Tensor], amount: int, shape: tuple[int, int, int]) -> dt.Tensor:
    """Images with a square of so many pixels, wherever its middle is, made 0."""
    height, width, channels = shape
    within = []
    # a row of pixels is one axis, so that loops over it are long
    for share, n, each in ((u[0], height, 1), (u[1], width, channels)):
        first = dt.expand_dims(dt.floor(share * n) - amount // 2, 1)
        places = np.repeat(np.arange(n, dtype=np.float32), each)
        within.append(dt.logical_and(dt.greater_equal(places, first), dt.less(places, first + amount)))
    gone = dt.logical_and(within[0][:, :, None], within[1][:, None, :])
    y = gate(dt.logical_not(gone), dt.reshape(x, [-1, height, width * channels]))
    return dt.reshape(y, [-1, *shape])
