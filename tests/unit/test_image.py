"""tf.image against what TensorFlow gave (tests/reference/tensorflow_image.py), and its random draws."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import DataError, GraphError

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tensorflow_image", REFERENCE / "tensorflow_image.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _agree(found: dict[str, Any], reference: ModuleType) -> None:
    right = json.loads(reference.FILE.read_text())
    assert found.keys() == right.keys()
    for name, value in right.items():
        assert found[name]["dtype"] == value["dtype"], name
        whole = value["dtype"] == "uint8"  # a half is rounded up here and down there
        np.testing.assert_allclose(
            found[name]["value"], value["value"], rtol=2e-5, atol=1 if whole else 3e-6, err_msg=name
        )


@pytest.mark.parametrize("known", [True, False])
def test_images_are_tensorflows(known: bool, reference: ModuleType) -> None:
    _agree(reference.values(dt, dt.Session, known), reference)


def test_in_a_data_sets_function_they_are_the_same(reference: ModuleType) -> None:
    given = reference.images()
    with dt.Graph().as_default():
        twice = [np.stack([image, image]) for image in given]
        images = dt.data.Dataset.from_tensor_slices(tuple(twice)).map(lambda *one: reference.calls(dt, *one))
        following = images.make_one_shot_iterator().get_next()
        with dt.Session() as session:
            session.run(following)
            found = session.run(following)
    as_text = {k: {"dtype": v.dtype.name, "value": v.astype(float).tolist()} for k, v in found.items()}
    _agree(as_text, reference)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_random_draws_are_alike_on_all_ranks(ranks: int, on_threads: Callable[..., list[Any]]) -> None:
    images = np.random.default_rng(0).random((40, 4, 5, 3)).astype(np.float32)

    def body(comm: Communicator) -> list[np.ndarray]:
        with dt.Graph().as_default():
            dt.set_random_seed(7)

            def change(x: Any) -> Any:
                return dt.image.random_flip_left_right(dt.image.random_flip_up_down(x))

            data = dt.data.Dataset.from_tensor_slices(images).map(change).batch(7)
            bright = data.map(lambda x: dt.image.random_brightness(x, 0.3))
            contrast = bright.map(lambda x: dt.image.random_contrast(x, 0.5, 1.5))
            ends = [d.make_one_shot_iterator().get_next() for d in (data, contrast)]
            ends.append(dt.image.random_flip_left_right(dt.constant(images)))
            with dt.Session(comm=comm) as session:
                return [session.run(end) for end in ends for _ in range(3)]

    (first, *others) = on_threads(ranks, body)
    for other in others:
        for one, two in zip(first, other, strict=True):
            np.testing.assert_array_equal(one, two)
    flipped = np.concatenate(first[:3])
    kinds = {
        next(i for i, x in enumerate((y, y[:, ::-1], y[::-1], y[::-1, ::-1])) if np.array_equal(x, z))
        for y, z in zip(images, flipped, strict=False)
    }
    assert kinds == {0, 1, 2, 3}, "of 21 images each is turned by itself"
    coins = [np.array_equal(x, y) for x, y in zip(images, first[6], strict=True)]
    assert 5 < sum(coins) < 35


def test_files_are_decoded_in_a_data_set(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="images are decoded by Pillow")
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    names = [str(tmp_path / f"{i}.png") for i in range(3)]
    for i, name in enumerate(names):
        Image.fromarray(pixels[: 3 + i]).save(name)

    def read(name: Any) -> tuple[Any, Any]:
        image = dt.image.decode_png(dt.read_file(name), channels=3)
        return image, dt.image.resize_images(image, [4, 4])

    with dt.Graph().as_default():
        files = dt.data.Dataset.from_tensor_slices(names).map(read)
        whole, small = files.make_one_shot_iterator().get_next()
        assert whole.shape.as_list() == [None, None, 3] and small.shape.as_list() == [4, 4, 3]
        at_once = dt.image.decode_png(dt.image.encode_png(pixels))
        with dt.Session() as session:
            for i in range(3):
                found, resized = session.run([whole, small])
                np.testing.assert_array_equal(found, pixels[: 3 + i])
                assert resized.shape == (4, 4, 3)
            np.testing.assert_array_equal(session.run(at_once), pixels)
        with pytest.raises(DataError, match="cannot identify image"):
            dt.image.decode_jpeg(b"no image")


def test_refusals() -> None:
    with dt.Graph().as_default():
        x = dt.placeholder("float32", [2, 3])
        with pytest.raises(GraphError, match="is no image"):
            dt.image.flip_left_right(x)
        with pytest.raises(GraphError, match="none of ResizeMethod"):
            dt.image.resize_images(dt.placeholder("float32", [4, 4, 3]), [2, 2], 4)
        with pytest.raises(GraphError, match="are to be known"):
            dt.image.resize_images(dt.placeholder("float32", [None, 4, 3]), [2, 2], 3)
