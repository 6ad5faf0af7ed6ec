from __future__ import annotations

import numpy as np
import pytest

from dtrain.data.synthetic import BLOCK, GLYPHS, POINTS, _glyphs, generate
from dtrain.errors import UsageError


def test_shapes_and_pixels() -> None:
    images, labels = generate(0, range(BLOCK))
    assert images.shape == (BLOCK, 28, 28) and images.dtype == np.uint8 and images.flags.c_contiguous
    assert labels.shape == (BLOCK,) and labels.dtype == np.uint8
    assert images.min() == 0 and images.max() == 255
    ink = (images > 127).sum(axis=(1, 2))
    assert ink.min() >= 8 and ink.max() < 28 * 28 / 2, "a digit is neither a speck nor a blot"
    assert 0.1 < (images > 0).mean() < 0.4
    edges = np.concatenate([images[:, [0, -1], :].ravel(), images[:, :, [0, -1]].ravel()])
    assert (edges > 0).mean() < 0.02, "digits lie inside the frame"


def test_deterministic_and_independent_of_the_part_asked_for() -> None:
    images, labels = generate(7, range(3 * BLOCK))
    for part in (range(1500, 2500), range(0), range(BLOCK, BLOCK), range(2999, 3000), range(3 * BLOCK)):
        some_images, some_labels = generate(7, part)
        assert np.array_equal(some_images, images[part.start : part.stop])
        assert np.array_equal(some_labels, labels[part.start : part.stop])


def test_seeds_and_blocks_differ() -> None:
    images, labels = generate(1, range(2 * BLOCK))
    assert not np.array_equal(images[:BLOCK], images[BLOCK:])
    assert not np.array_equal(labels[:BLOCK], labels[BLOCK:])
    assert not np.array_equal(images[:BLOCK], generate(2, range(BLOCK))[0])
    assert len({image.tobytes() for image in images}) == 2 * BLOCK


def test_classes_are_balanced() -> None:
    _, labels = generate(0, range(10 * BLOCK))
    counts = np.bincount(labels, minlength=10)
    assert counts.size == 10
    assert abs(counts - BLOCK).max() < 150  # five standard deviations of a random draw


def test_sums_of_ink_are_exact() -> None:
    assert POINTS * 255**2 < 2**24


def test_ink_follows_the_strokes() -> None:
    points, spacing, first, ways = _glyphs()
    assert points.shape == (sum(map(len, GLYPHS)), POINTS, 2)
    assert list(ways) == [len(glyphs) for glyphs in GLYPHS]
    assert first[-1] + ways[-1] == len(points)
    steps = np.hypot(*np.moveaxis(np.diff(points, axis=1), -1, 0))
    lifts = [glyph.count("/") for glyphs in GLYPHS for glyph in glyphs]
    jumps = (steps > 1.5 * spacing[:, None]).sum(axis=1)
    assert (jumps <= lifts).all(), "points are evenly spaced but where the pen is lifted"


def test_as_hard_as_it_should_be_for_the_nearest_mean() -> None:
    """A cheap classifier does far better than chance and far from perfectly: the labels mean something."""
    images, labels = generate(3, range(6 * BLOCK))
    pixels = images.reshape(len(images), -1).astype(np.float32)
    train, test = slice(0, 5 * BLOCK), slice(5 * BLOCK, None)
    means = np.stack([pixels[train][labels[train] == digit].mean(axis=0) for digit in range(10)])
    distance = (means**2).sum(axis=1) - 2 * pixels[test] @ means.T
    accuracy = (distance.argmin(axis=1) == labels[test]).mean()
    assert 0.5 < accuracy < 0.95


@pytest.mark.parametrize(("seed", "indices"), [(-1, range(10)), (0, range(-5, 10)), (0, range(0, 10, 2))])
def test_refuses_what_cannot_be_meant(seed: int, indices: range) -> None:
    with pytest.raises(UsageError, match="numbered from 0"):
        generate(seed, indices)
