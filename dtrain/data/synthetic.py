"""Generated handwritten-like digits: a stand-in of MNIST's shape for machines without MNIST.

A digit is a path of points under a random hand: bent, slanted, turned, stretched and moved. Each point
leaves a round spot of ink. A round Gaussian spot is a column profile times a row profile, so all the ink of
an image is one matrix product, [28, points] x [points, 28], and both factors are rows of a small table.

The table holds whole numbers, so the products and sums are exact in float32: the images do not depend on
the BLAS, its number of threads or the order in which it adds.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from dtrain.data.readers.source import Column
from dtrain.errors import UsageError

BLOCK = 1_000  # examples made together; each block is a pure function of (seed, block number)
SIDE = 28  # pixels, rows and columns
CLASSES = 10

# Ways to write each digit. A stroke is a row of points, each given by two digits: x (0 left .. 9 right) and
# y (0 top .. 9 bottom). The pen runs smoothly through them; a point given twice is a corner.
GLYPHS: tuple[tuple[str, ...], ...] = (
    (
        "50 21 04 06 28 59 78 96 94 71 50",
        "61 40 12 05 18 49 78 95 92 70 40 31",
    ),
    (
        "50 59",
        "23 23 50 50 59",
        "23 23 50 50 59 59 / 29 29 79 79",
        "61 43 45 59",
    ),
    (
        "12 30 60 82 74 46 09 09 99 99",
        "02 20 60 82 74 37 18 07 16 37 69 98",
        "11 50 92 74 09 09 48 99",
    ),
    (
        "11 30 60 82 64 44 44 64 86 88 69 39 08",
        "00 00 80 80 43 43 74 87 69 39 08",
        "02 20 71 72 54 34 34 75 77 49 18",
    ),
    (
        "20 20 05 05 95 95 / 70 70 79 79",
        "70 70 05 05 95 95 / 70 70 69 69",
        "10 13 35 65 94 / 90 90 69 69",
        "10 10 04 15 85 85 / 80 80 79",
    ),
    (
        "80 80 20 20 14 14 43 74 86 78 49 18",
        "20 20 14 14 53 85 87 59 08 / 20 20 90 90",
        "91 50 20 13 24 54 75 77 49 08",
        "81 60 31 13 24 55 76 78 49 18",
    ),
    (
        "70 31 05 17 39 69 87 75 45 16",
        "50 23 06 18 49 88 86 65 36 18",
        "80 42 16 18 39 68 66 45 26 17",
    ),
    (
        "01 01 90 90 49 49",
        "01 01 90 90 49 49 / 25 25 85 85",
        "03 00 00 90 90 65 49",
        "02 20 50 91 91 65 39",
    ),
    (
        "81 50 20 12 34 65 87 79 39 17 25 54 73 81",
        "50 21 23 44 63 71 50 / 44 16 18 39 69 88 86 64 44",
        "90 50 21 24 75 88 59 28 26 53 82 90",
    ),
    (
        "82 50 21 13 34 64 82 82 79 79",
        "82 50 21 13 34 63 82 82 86 68 49 28",
        "71 40 12 14 35 64 71 75 59 59",
    ),
)

# How far one hand may be from another: each is the bound, or the range, of a uniform draw per example.
HAND = 0.11  # unsteadiness along the path, in half digits
BEND = 0.17  # bending of the paper under it, in half digits
WIDE = (4.5, 8.0)  # half a digit's width, pixels
TALL = (7.5, 10.0)  # half a digit's height, pixels
SLANT = 0.4  # pixels sideways for each pixel of height
TURN = 0.35  # radians
SHIFT = 1.5  # pixels
GAIN = (1.2, 2.4)  # soft to hard edges
FLOOR = 0.25  # ink that leaves no mark, as a share of the ink in the middle of a line
RADII = np.linspace(0.75, 1.45, 12)  # standard deviation of one spot of ink, pixels: thin to thick pens

POINTS = 56  # spots of ink in each digit
MARGIN = 4  # pixels beyond the frame that a point may lie at
FINE = 8  # positions in the table of profiles to each pixel
POSITIONS = (SIDE + 2 * MARGIN) * FINE
PEAK = 255  # height of a profile: POINTS * PEAK**2 < 2**24 keeps float32 sums of whole numbers exact


class Digits:
    """So many examples to train and to test on, as a store has them (see store.Examples)."""

    def __init__(self, seed: int, train: int, test: int) -> None:
        self.seed, self.parts = seed, {"train": train, "test": test}
        self.columns = {"x": Column("uint8", (SIDE, SIDE)), "y": Column("uint8", ())}

    def made_of(self) -> str:
        return f"synthetic {self.seed} {self.parts}"

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        first = 0
        for count in self.parts.values():
            for at in range(first, first + count, BLOCK):
                yield generate(self.seed, range(at, min(at + BLOCK, first + count)))
            first += count

    def about(self) -> dict[str, Any]:
        classes = tuple(map(str, range(CLASSES)))
        return {
            "name": "synthetic",
            "kind": "classes",
            "classes": classes,
            "source": "generated",
            "unused": [],
        }


def generate(seed: int, indices: range) -> tuple[np.ndarray, np.ndarray]:
    """Examples `indices` of the endless data set `seed`.

    Returns (images uint8 [len(indices), 28, 28], 0 paper .. 255 ink, labels uint8 [len(indices)]). An example
    depends on the seed and its own index only, so any rank can make any part. Whole blocks of BLOCK examples
    are made even where a part is asked for. Raises UsageError for a negative seed or index, or a step.
    """
    if seed < 0 or indices.step != 1 or indices.start < 0:
        raise UsageError(
            f"generate(seed={seed}, indices={indices}): examples are numbered from 0, one after another, and "
            "the seed is 0 or more. Pass for example generate(0, range(1000))."
        )
    images = np.empty((len(indices), SIDE, SIDE), np.uint8)
    labels = np.empty(len(indices), np.uint8)
    for number in range(indices.start // BLOCK, -(-indices.stop // BLOCK)):
        first = number * BLOCK
        wanted = range(max(indices.start, first), min(indices.stop, first + BLOCK))
        source = slice(wanted.start - first, wanted.stop - first)
        target = slice(wanted.start - indices.start, wanted.stop - indices.start)
        block_images, block_labels = _block(seed, number)
        images[target], labels[target] = block_images[source], block_labels[source]
    return images, labels


def _block(seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, number])

    def draw(low: float, high: float) -> np.ndarray:
        return low + (high - low) * rng.random((BLOCK, 1))

    def wave(size: float, phase: np.ndarray) -> np.ndarray:
        return draw(-size, size) * np.sin(phase + draw(0, 2 * np.pi))

    labels = rng.integers(CLASSES, size=BLOCK)
    points, spacing, first, ways = _glyphs()
    glyph = rng.integers(first[labels], first[labels] + ways[labels])
    x, y = points[glyph, :, 0], points[glyph, :, 1]

    # Elastic distortion, twice over: waves along the path (the hand) and across the plane (the paper).
    along = np.linspace(0, 1, POINTS)
    for _ in range(2):
        dx = wave(HAND, draw(2, 9) * along) + wave(BEND, draw(-3, 3) * x + draw(-3, 3) * y)
        dy = wave(HAND, draw(2, 9) * along) + wave(BEND, draw(-3, 3) * x + draw(-3, 3) * y)
        x, y = x + dx, y + dy

    # Affine: from here on in pixels, first from the digit's centre, then from the middle of pixel 0.
    x, y = x * draw(*WIDE), y * draw(*TALL)
    x, turn = x + draw(-SLANT, SLANT) * y, draw(-TURN, TURN)
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    centre = (SIDE - 1) / 2
    x, y = x + centre + draw(-SHIFT, SHIFT), y + centre + draw(-SHIFT, SHIFT)

    pen = rng.integers(len(RADII), size=(BLOCK, 1))
    ink = np.matmul(_spots(pen, y).transpose(0, 2, 1), _spots(pen, x))

    # `full` is what adds up in the middle of a straight line in a digit of usual size (half of it: 9 pixels).
    full = PEAK**2 * RADII[pen] * np.sqrt(2 * np.pi) / (9 * spacing[glyph, None])
    gain = 255 * draw(*GAIN)
    ink *= (gain / full).astype(np.float32)[:, :, None]
    ink -= (gain * FLOOR).astype(np.float32)[:, :, None]
    return np.clip(ink, 0, 255, out=ink).astype(np.uint8), labels.astype(np.uint8)


def _spots(pen: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Profiles of spots of ink at positions [examples, POINTS]: float32 [examples, POINTS, SIDE]."""
    fine = np.rint((position + MARGIN) * FINE).astype(np.intp)
    return _profiles().take(pen * POSITIONS + np.clip(fine, 0, POSITIONS - 1), axis=0)


@functools.cache
def _profiles() -> np.ndarray:
    """Ink of one spot along one axis, whole numbers: float32 [len(RADII) * POSITIONS, SIDE]."""
    position = np.arange(POSITIONS) / FINE - MARGIN
    distance = (np.arange(SIDE) - position[:, None]) / RADII[:, None, None]
    return np.rint(PEAK * np.exp(-(distance**2) / 2)).astype(np.float32).reshape(-1, SIDE)


@functools.cache
def _glyphs() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points [glyphs, POINTS, 2] and their spacing [glyphs]; for each class its first glyph and how many."""
    points, spacing = zip(*(_ink_path(way) for ways in GLYPHS for way in ways), strict=True)
    ways = np.array([len(ways) for ways in GLYPHS])
    return np.stack(points), np.array(spacing), np.cumsum(ways) - ways, ways


def _ink_path(glyph: str) -> tuple[np.ndarray, float]:
    """Points at even distances along all strokes of a glyph, float64 [POINTS, 2], and that distance."""
    strokes = [_smooth(stroke) for stroke in glyph.split("/")]
    path = np.vstack(strokes)
    step = np.hypot(*np.diff(path, axis=0).T)
    step[np.cumsum([len(stroke) for stroke in strokes[:-1]], dtype=int) - 1] = 0  # a lifted pen leaves no ink
    travelled = np.concatenate([[0], np.cumsum(step)])
    even = np.linspace(0, travelled[-1], POINTS)
    return np.stack([np.interp(even, travelled, axis) for axis in path.T], axis=1), even[1]


def _smooth(stroke: str) -> np.ndarray:
    """Catmull-Rom curve through the points of a stroke: float64 [samples, 2], x and y in -1 .. 1."""
    knots = np.array([[*map(int, point)] for point in stroke.split()]) / 4.5 - 1
    knots = np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]])
    a, b, c, d = (knots[k : len(knots) - 3 + k, None] for k in range(4))
    t = np.linspace(0, 1, 40)[:, None]
    curve = b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return curve.reshape(-1, 2)
