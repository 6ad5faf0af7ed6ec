"""Examples in a terminal: images by half blocks in colour, or by characters; series by their curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

#: From dark to bright, and from low to high.
SHADES = " .:-=+*#%@"
BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.,-~=^*"
MOST_COLUMNS, MOST_ROWS = 32, 32  # pixels of an image that are drawn, at most
MOST_NUMBERS, MOST_CHANNELS, CURVE = 8, 4, 60


def drawn(x: np.ndarray, colour: bool = False, blocks: bool = True) -> list[str]:
    """Lines that show one example.

    colour: whether the terminal knows ANSI's colours. blocks: whether it has characters beyond ASCII.
    """
    if is_image(x.dtype.name, x.shape):
        return _image(x, colour and blocks)
    if x.ndim <= 1 and x.size <= MOST_NUMBERS:
        return [" ".join(f"{v:.4g}" for v in x.reshape(-1))]
    channels = x.reshape(len(x), -1).T
    lines = [f"{_curve(c, blocks)}  {c.min():.4g} to {c.max():.4g}" for c in channels[:MOST_CHANNELS]]
    if len(channels) > MOST_CHANNELS:
        lines.append(f"and {len(channels) - MOST_CHANNELS} more")
    return lines


def is_image(dtype: str, shape: Sequence[int]) -> bool:
    """Whether examples are pictures: [height, width], or with 1, 3 or 4 channels as the last axis."""
    if len(shape) == 3:
        return shape[2] in (1, 3, 4)
    return len(shape) == 2 and (dtype == "uint8" or shape[0] == shape[1])


def beside(blocks: Sequence[Sequence[str]], width: int, gap: str = "   ") -> list[str]:
    """Blocks of lines, each so wide on the screen, next to one another."""
    high = max(map(len, blocks), default=0)
    rows = [[block[i] if i < len(block) else None for block in blocks] for i in range(high)]
    return [gap.join(" " * width if line is None else line for line in row).rstrip() for row in rows]


def width_of(shape: Sequence[int]) -> int:
    """Columns on the screen that an image takes."""
    return -(-shape[1] // _step(shape))


def _step(shape: Sequence[int]) -> int:
    return max(1, math.ceil(shape[1] / MOST_COLUMNS), math.ceil(shape[0] / MOST_ROWS))


def _image(x: np.ndarray, colour: bool) -> list[str]:
    pixels = x.reshape(*x.shape[:2], -1).astype(np.float64)
    if x.dtype != np.uint8:
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) * (255 / (high - low) if high > low else 0)
    if pixels.shape[2] == 4:
        pixels = pixels[:, :, :3] * (pixels[:, :, 3:] / 255)
    step = _step(x.shape)
    rows, columns = -(-len(pixels) // step), -(-pixels.shape[1] // step)
    small = np.empty((rows + rows % 2, columns, pixels.shape[2]))
    small[-1] = 0
    for i in range(rows):
        for j in range(columns):
            block = pixels[i * step : (i + 1) * step, j * step : (j + 1) * step]
            small[i, j] = block.reshape(-1, pixels.shape[2]).mean(0)
    pairs = zip(small[::2], small[1::2], strict=True)
    if colour:
        return ["".join(map(_halves, upper, lower)) + "\x1b[0m" for upper, lower in pairs]
    levels = [((upper + lower).mean(1) / 2 / 256 * len(SHADES)).astype(int) for upper, lower in pairs]
    return ["".join(SHADES[level] for level in row) for row in levels]


def _halves(upper: np.ndarray, lower: np.ndarray) -> str:
    """One character, whose upper half has a colour of its own."""

    def code(pixel: np.ndarray) -> str:
        return ";".join(str(int(v)) for v in (pixel if len(pixel) == 3 else pixel.repeat(3)))

    return f"\x1b[38;2;{code(upper)};48;2;{code(lower)}m▀"


def _curve(values: np.ndarray, blocks: bool) -> str:
    marks = BARS if blocks else PLAIN_BARS
    edges = np.linspace(0, len(values), min(CURVE, len(values)) + 1).astype(int)
    means = np.array([values[a:b].mean() for a, b in pairwise(edges)])
    low, high = means.min(), means.max()
    at = (means - low) / (high - low) * (len(marks) - 1) if high > low else np.zeros(len(means))
    return "".join(marks[round(float(v))] for v in at)
