"""Images that change at random: the op against loops, and the layers; the same on any number of ranks."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import SingleCommunicator
from dtrain.config import TrainConfig, augmentations
from dtrain.data.dataset import Dataset
from dtrain.errors import CheckpointError, GraphError, UsageError
from dtrain.keras import layers
from dtrain.keras.layers import (
    CenterCrop,
    Dense,
    Flatten,
    Normalization,
    RandomCrop,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
    Rescaling,
)
from dtrain.keras.models import Sequential
from dtrain.ops.base import apply
from dtrain.ops.placement import shard_bounds
from dtrain.ops.random import RowUniform
from dtrain.ops.warp import FILLS, Warp
from dtrain.runtime.backend import Backend
from dtrain.task import trainer
from dtrain.task.network import build

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))
import keras_images

random = np.random.default_rng(5)


# -- the op ------------------------------------------------------------------------------------------------
def warp(op: Warp, x: np.ndarray, places: np.ndarray, kernels: str = "auto") -> np.ndarray:
    with dt.Graph().as_default() as graph:
        feeds = [dt.placeholder(a.dtype, a.shape) for a in (x, places)]
        y = apply(op, *feeds)
        session = dt.Session(graph=graph, comm=None, device=Backend(kernels))
        return session.run(y, dict(zip(feeds, (x, places), strict=True)))


def inside(i: int, n: int, fill: str) -> int | None:
    """Where on the line ... that each way of filling continues entry i is, one step at a time."""
    if fill == "constant":
        return i if 0 <= i < n else None
    if fill == "nearest":
        return min(max(i, 0), n - 1)
    line = [*range(n)] if fill == "wrap" else [*range(n), *reversed(range(n))]
    return line[i % len(line)]


def by_loops(op: Warp, x: np.ndarray, places: np.ndarray) -> np.ndarray:
    n, height, width, channels = x.shape
    out = np.empty((n, *op.size, channels))
    for e in range(n):
        a, b, c, d, f, g = map(float, places[e])

        def pixel(y: int, k: int, channel: int, e: int = e) -> float:
            row, column = inside(y, height, op.fill), inside(k, width, op.fill)
            return op.value if row is None or column is None else float(x[e, row, column, channel])

        for i, j, channel in np.ndindex(*op.size, channels):
            across, down = a * j + b * i + c, d * j + f * i + g
            if not op.smooth:
                out[e, i, j, channel] = pixel(math.floor(down + 0.5), math.floor(across + 0.5), channel)
                continue
            top, left = math.floor(down), math.floor(across)
            s, t = across - left, down - top
            out[e, i, j, channel] = sum(
                pixel(top + p, left + q, channel) * (t if p else 1 - t) * (s if q else 1 - s)
                for p in (0, 1)
                for q in (0, 1)
            )
    return np.floor(out + 0.5) if x.dtype == np.uint8 and op.smooth else out


@pytest.mark.parametrize("kernels", ["c", "numpy"])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("fill", FILLS)
def test_pixels_come_from_where_the_numbers_say(fill: str, smooth: bool, kernels: str) -> None:
    # quarters, so that float32 has no rounding and no tie is decided otherwise
    places = np.round(random.uniform(-3, 3, (6, 6)) * 4) / 4
    op = Warp(fill, smooth, (5, 3), 7.0)
    for x in (random.integers(0, 256, (6, 4, 7, 2), np.uint8), random.normal(size=(6, 4, 7, 2))):
        floating = np.float32 if x.dtype == np.uint8 else np.float64
        found = warp(op, x, places.astype(floating), kernels)
        np.testing.assert_allclose(found, by_loops(op, x, places), rtol=1e-6, atol=1e-6)
        assert found.dtype == x.dtype


@pytest.mark.parametrize("smooth", [False, True])
def test_c_has_numpys_bits(smooth: bool) -> None:
    places = random.normal(size=(40, 6)).astype(np.float32) * 20
    places[10:30, [1, 3]] = 0  # neither turned nor slanted
    places[28:34] = [1, 0, 0, 0, 1, 0]
    places[0], places[1, 2], places[2, 5] = np.nan, np.inf, -1e30
    for fill in FILLS:
        pixels, numbers = random.integers(0, 256, (40, 9, 8, 3), np.uint8), random.normal(size=(40, 9, 8, 1))
        for x in (pixels, numbers.astype(np.float32)):
            op = Warp(fill, smooth, (9, 8), 1.0)
            np.testing.assert_array_equal(warp(op, x, places, "c"), warp(op, x, places, "numpy"))


def test_what_does_not_fit_is_said() -> None:
    x, op = dt.placeholder("float32", [None, 4, 4, 1]), Warp("wrap", True, (4, 4))
    with pytest.raises(GraphError, match=r"six numbers for each image, \[n, 6\]"):
        apply(op, x, dt.zeros([3, 5]))
    with pytest.raises(GraphError, match="not defined on int32; cast it"):
        apply(op, dt.cast(x, "int32"), dt.zeros([3, 6]))
    with pytest.raises(GraphError, match="put it in front of the layers that have weights"):
        RandomFlip()(x * dt.Variable(1.0), True)


def test_rows_are_drawn_as_one_rank_draws_them(on_threads: Callable[..., list[Any]]) -> None:
    def drawn(comm: Any, rows: int) -> list[np.ndarray]:
        with dt.Graph().as_default() as graph:
            graph.seed = 3
            x, active = dt.placeholder("float32", [None, 2]), dt.placeholder("float32", [])
            u = apply(RowUniform(3, 11), x, active)
            session = dt.Session(graph=graph, comm=comm)
            low, high = shard_bounds(rows, comm.rank, comm.size)
            fed = dt.Shard(np.zeros((high - low, 2), np.float32), rows)
            return [session.run(u, {x: fed, active: a}) for a in (1.0, 0.0, 1.0)]

    for rows in (7, 2):
        alone = drawn(SingleCommunicator(), rows)
        assert (alone[0] != alone[2]).all() and not alone[1].any()
        assert ((alone[0] >= 0) & (alone[0] < 1)).all()
        for ranks in (2, 3):
            for found in on_threads(ranks, lambda comm, rows=rows: drawn(comm, rows)):
                np.testing.assert_array_equal(found, alone)


# -- the layers --------------------------------------------------------------------------------------------
def through(layer: Any, x: np.ndarray, training: Any = True, seed: int = 1) -> np.ndarray:
    with dt.Graph().as_default() as graph:
        graph.seed = seed
        given = dt.placeholder("float32", [None, *x.shape[1:]])
        y = layer(given, dt.constant(training) if isinstance(training, float) else training)
        return dt.Session(graph=graph, comm=None).run(y, {given: x})


IMAGES = random.normal(size=(50, 6, 5, 2)).astype(np.float32)


def test_what_is_the_same_in_training_and_in_a_test() -> None:
    x = IMAGES
    np.testing.assert_allclose(through(Rescaling(0.5, 2), x), x * 0.5 + 2, rtol=1e-6)
    np.testing.assert_array_equal(through(CenterCrop(3, 2), x), x[:, 1:4, 1:3])
    given = Normalization(mean=[1.0, 2.0], variance=[4.0, 0.0])
    np.testing.assert_allclose(through(given, x), (x - [1, 2]) / [2, 1e-7], rtol=1e-5)
    found = Normalization()
    found.adapt(x)
    y = through(found, x)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, rtol=1e-5)
    whole = Normalization(axis=None)
    whole.adapt(x)
    np.testing.assert_allclose(through(whole, x), (x - x.mean()) / x.std(), rtol=1e-4, atol=1e-5)
    back = Normalization(mean=found.mean, variance=found.variance, invert=True)
    np.testing.assert_allclose(through(back, y), x, rtol=1e-4, atol=1e-5)


DRAWN = {
    "translation": RandomTranslation(0.4, (-0.2, 0.3), seed=1),
    "flip": RandomFlip(seed=1),
    "rotation": RandomRotation(0.2, seed=1),
    "zoom": RandomZoom((-0.5, 0.5), seed=1),
    "crop": RandomCrop(4, 3, seed=1),
}


@pytest.mark.parametrize("name", DRAWN)
def test_images_change_in_training_alone(name: str) -> None:
    layer = DRAWN[name]
    config = layer.get_config()
    changed = through(type(layer).from_config(config), IMAGES)
    kept = IMAGES[:, 1:5, 1:4] if name == "crop" else IMAGES
    np.testing.assert_array_equal(through(type(layer).from_config(config), IMAGES, False), kept)
    np.testing.assert_array_equal(through(type(layer).from_config(config), IMAGES, 0.0), kept)
    np.testing.assert_array_equal(through(type(layer).from_config(config), IMAGES, 1.0), changed)
    assert sum(not np.array_equal(a, b) for a, b in zip(changed, kept, strict=True)) > 30
    assert not np.array_equal(through(type(layer).from_config(config), IMAGES, seed=2), changed)


def test_a_flip_is_one_of_its_kinds() -> None:
    for mode, kinds in (("horizontal", [(1, -1)]), ("vertical", [(-1, 1)])):
        found = through(RandomFlip(mode), IMAGES)
        seen = [
            next(k for k in [(1, 1), *kinds] if np.array_equal(y, x[:: k[0], :: k[1]]))
            for x, y in zip(IMAGES, found, strict=True)
        ]
        assert 10 < seen.count((1, 1)) < 40
    found = through(RandomFlip(), IMAGES)
    kinds = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    seen = [
        next(k for k in kinds if np.array_equal(y, x[:: k[0], :: k[1]]))
        for x, y in zip(IMAGES, found, strict=True)
    ]
    assert {*seen} == {*kinds}


def test_a_crop_is_from_every_place() -> None:
    found = through(RandomCrop(5, 4), IMAGES)
    places = [
        next((i, j) for i in (0, 1) for j in (0, 1) if np.array_equal(y, x[i : i + 5, j : j + 4]))
        for x, y in zip(IMAGES, found, strict=True)
    ]
    assert {*places} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_directions_are_those_of_keras() -> None:
    x = IMAGES
    moved = through(RandomTranslation((1 / 3, 1 / 3), (-0.2, -0.2), "constant", fill_value=9), x)
    np.testing.assert_allclose(moved[:, 2:, :4], x[:, :4, 1:], rtol=1e-5, atol=1e-5)  # down, and to the left
    np.testing.assert_allclose(moved[:, :2], 9, atol=1e-4)
    np.testing.assert_allclose(moved[:, :, 4:], 9, atol=1e-4)
    square = x[:, :5]
    turned = through(RandomRotation((0.25, 0.25)), square)
    np.testing.assert_allclose(turned, np.rot90(square, 1, (1, 2)), rtol=1e-4, atol=1e-4)
    zoomed = through(RandomZoom((1, 1), (0, 0), "constant", "nearest"), x[:, :5])  # twice as far away
    np.testing.assert_array_equal(zoomed[:, 1:4], x[:, [0, 2, 4]])
    assert not zoomed[:, [0, 4]].any()


@pytest.mark.parametrize("number", range(len(keras_images.CASES)))
def test_what_keras_gives(number: int) -> None:
    name, arguments = keras_images.CASES[number]
    shape, values = json.loads(keras_images.VALUES.read_text())["values"][number]
    found = through(getattr(layers, name)(**arguments), keras_images.IMAGES)
    assert list(found.shape) == shape
    np.testing.assert_allclose(found.ravel(), values, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_meant_is_said() -> None:
    with pytest.raises(UsageError, match="mode='sideways': give horizontal"):
        RandomFlip("sideways")
    with pytest.raises(UsageError, match="fill_mode='black': give one of constant"):
        RandomTranslation(0.1, 0.1, "black")
    with pytest.raises(UsageError, match=r"factor=\(0.2, 0.1\)"):
        RandomRotation((0.2, 0.1))
    with pytest.raises(UsageError, match="give both mean and variance"):
        Normalization(mean=1.0)
    with pytest.raises(GraphError, match="call adapt"):
        through(Normalization(), IMAGES)
    with pytest.raises(GraphError, match="crops to 7 x 5, and images are 6 x 5"):
        through(RandomCrop(7, 5), IMAGES)
    with pytest.raises(GraphError, match="it takes images"):
        through(RandomFlip(), IMAGES[:, 0])


def test_a_fit_is_the_same_on_any_number_of_ranks(on_threads: Callable[..., list[Any]]) -> None:
    labels = random.integers(0, 3, 50)

    def fitted(comm: Any) -> list[np.ndarray]:
        with dt.Graph().as_default():
            dt.set_random_seed(4)
            stack = [RandomTranslation(0.3, 0.3), RandomFlip("horizontal"), RandomRotation(0.1), Flatten()]
            model = Sequential([*stack, Dense(3, "softmax")], comm=comm)
            model.compile("sgd", "sparse_categorical_crossentropy")
            model.fit(IMAGES, labels, batch_size=8, epochs=2, verbose=0)
            return [*model.get_weights(), model.predict(IMAGES)]

    alone = fitted(SingleCommunicator())
    for ranks in (2, 3):
        for found in on_threads(ranks, fitted):
            for a, b in zip(found, alone, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# -- dtrain train --augment ----------------------------------------------------------------------------------
EVERYTHING = "shift:2,flip,crop:3,cutout:4"


def pictures(channels: int = 0, n: int = 40) -> Dataset:
    """Few images whose pixels are all different, and not 0."""
    shape = (n, 9, 8, channels) if channels else (n, 9, 8)
    x = (np.arange(np.prod(shape)) % 255 + 1).astype(np.uint8).reshape(shape)
    y = np.arange(n).astype(np.uint8) % 3
    return Dataset("few", "here", "0", x, y, range(n - 10), test=range(n - 10, n), classes=("a", "b", "c"))


def seen(
    augment: str,
    data: Dataset,
    rows: Any,
    comm: Any = None,
    epochs: Any = (1,),
    training: float = 1.0,
    seed: int = 7,
) -> list[np.ndarray]:
    """The images of some rows as the model gets them, pixels 0 to 255, in each epoch."""
    comm, given = comm or SingleCommunicator(), []

    def model(x: dt.Tensor, training: dt.Tensor) -> dt.Tensor:
        given.append(x)
        return Dense(3)(x)

    with dt.Graph().as_default() as graph:
        network = build(model, data, augment=augmentations(augment))
        session = dt.Session(graph=graph, comm=comm)
        network.lend(session)
        found = []
        low, high = shard_bounds(len(rows), comm.rank, comm.size)
        fed = dt.Shard(np.array(rows, np.int32)[low:high], len(rows))
        for epoch in epochs:
            if network.augment:
                network.augment.draw(session, seed, epoch)
            x = session.run(given[0], {network.indices: fed, network.training: training})
            found.append(np.rint(x * 255).astype(np.uint8).reshape(len(rows), *data.x.shape[1:]))
        return found


@pytest.mark.parametrize("channels", [0, 3])
def test_what_an_image_becomes_follows_from_its_number_and_the_epoch(
    channels: int, on_threads: Callable[..., list[Any]]
) -> None:
    data = pictures(channels)
    rows = [*range(30)]
    first, second, again = seen(EVERYTHING, data, rows, epochs=(1, 2, 1))
    np.testing.assert_array_equal(first, again)
    assert sum(not np.array_equal(a, b) for a, b in zip(first, second, strict=True)) > 25
    assert sum(not np.array_equal(a, b) for a, b in zip(first, data.x[:30], strict=True)) > 25
    some = [17, 3, 28, 4, 9]
    (found,) = seen(EVERYTHING, data, some)
    np.testing.assert_array_equal(found, first[some])
    assert not np.array_equal(seen(EVERYTHING, data, rows, seed=8)[0], first)
    for ranks in (2, 3):
        for (found,) in on_threads(ranks, lambda comm: seen(EVERYTHING, data, some, comm)):
            np.testing.assert_array_equal(found, first[some])
    (tested,) = seen(EVERYTHING, data, [*range(40)], training=0.0)
    np.testing.assert_array_equal(tested, data.x)


def test_each_word_does_what_it_says() -> None:
    data, rows = pictures(), [*range(30)]
    for x, y in zip(data.x, seen("shift:2", data, rows)[0], strict=False):
        padded = np.pad(x, 2)
        assert any(np.array_equal(y, padded[i : i + 9, j : j + 8]) for i in range(5) for j in range(5))
    kinds = [np.array_equal(y, x) for x, y in zip(data.x, seen("flip", data, rows)[0], strict=False)]
    turned = [
        np.array_equal(y, x[:, ::-1]) for x, y in zip(data.x, seen("flip", data, rows)[0], strict=False)
    ]
    assert all(a != b for a, b in zip(kinds, turned, strict=True)) and 5 < sum(kinds) < 25
    for x, y in zip(data.x, seen("crop:3", data, rows)[0], strict=False):
        padded = np.pad(x, 3, mode="symmetric")
        assert any(np.array_equal(y, padded[i : i + 9, j : j + 8]) for i in range(7) for j in range(7))
    for x, y in zip(data.x, seen("cutout:4", data, rows)[0], strict=False):
        gone = np.argwhere(y == 0)
        (top, left), (bottom, right) = gone.min(0), gone.max(0) + 1
        assert len(gone) == (bottom - top) * (right - left) and max(bottom - top, right - left) <= 4
        np.testing.assert_array_equal(y[y > 0], x[y > 0])


def test_words_follow_one_another() -> None:
    data, rows = pictures(), [*range(30)]
    for x, y in zip(data.x, seen("shift:1,flip", data, rows)[0], strict=False):
        padded = np.pad(x, 1)
        shifts = [padded[i : i + 9, j : j + 8] for i in range(3) for j in range(3)]
        assert any(np.array_equal(y, s) or np.array_equal(y, s[:, ::-1]) for s in shifts)
    # what a shift lets in is black, and a crop behind it mirrors that
    for x, y in zip(data.x, seen("shift:1,crop:2", data, rows)[0], strict=False):
        shifts = [np.pad(x, 1)[i : i + 9, j : j + 8] for i in range(3) for j in range(3)]
        wide = [np.pad(s, 2, mode="symmetric") for s in shifts]
        assert any(
            np.array_equal(y, w[i : i + 9, j : j + 8]) for w in wide for i in range(5) for j in range(5)
        )


def test_a_run_that_is_resumed_sees_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtrain.data.SYNTHETIC_TRAIN", 300)
    monkeypatch.setattr("dtrain.data.SYNTHETIC_TEST", 100)

    def run(name: str, epochs: int, resume: bool = False) -> dict[str, Any]:
        folder = str(tmp_path / name)
        config = TrainConfig(
            model="logistic", dataset="synthetic", augment=EVERYTHING, epochs=epochs, tensorboard="off",
            run_dir=folder, resume=folder if resume else "",
        )  # fmt: skip
        return trainer.train(config, SingleCommunicator())

    whole = run("whole", 4)
    run("parts", 2)
    parts = run("parts", 4, resume=True)
    assert parts["test_loss"] == whole["test_loss"]
    for other in ("", "shift:2"):
        with pytest.raises(CheckpointError, match="was trained with --augment"):
            folder = str(tmp_path / "parts")
            config = TrainConfig(
                model="logistic", dataset="synthetic", augment=other, run_dir=folder, resume=folder
            )
            trainer.train(config, SingleCommunicator())


def test_augment_says_what_it_does_not_take() -> None:
    with pytest.raises(UsageError, match="--augment spin: spin: choose one of shift, flip, crop, cutout"):
        TrainConfig(augment="spin")
    for text in ("shift", "shift:0", "shift:-1", "flip:2", "cutout:x", "crop:9999"):
        with pytest.raises(UsageError, match=f"--augment {text}: {text}: give"):
            TrainConfig(augment=text)
    data = pictures()
    vectors = replace(data, x=data.x.reshape(40, 72))
    with pytest.raises(UsageError, match="--augment changes images"):
        seen("flip", vectors, [0])
