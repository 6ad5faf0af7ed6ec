"""MNIST as programs take it: keras.datasets, read_data_sets and next_batch; batches in sessions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dtrain.examples.tutorials.mnist import input_data

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.data.order import epoch_order
from dtrain.errors import InvalidArgumentError, UsageError
from dtrain.runtime.batch import Batch, checksum
from dtrain.tf1.examples.tutorials.mnist.sets import DataSet

SMALL = 10


def small_set(n: int = SMALL, **changes: Any) -> DataSet:
    """n images of 2 x 3 pixels, the i-th filled with i, its label i % 10."""
    pixels = np.repeat(np.arange(n, dtype=np.uint8), 6).reshape(n, 2, 3)
    options: dict[str, Any] = {"one_hot": False, "dtype": "uint8", "reshape": True, "seed": 5} | changes
    return DataSet(pixels, (np.arange(n) % 10).astype(np.uint8), **options)


def write_set(folder: Path) -> Path:
    """30 training and 7 test examples in MNIST's format."""
    folder.mkdir()
    sums = ""
    for stem, count in (("train", 30), ("t10k", 7)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.repeat(np.arange(count, dtype=np.uint8), 784).reshape(count, 28, 28)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{stem}-{kind}-ubyte").write_bytes(header + array.tobytes())
            digest = hashlib.sha256(header + array.tobytes()).hexdigest()
            sums += f"{digest}  {stem}-{kind}-ubyte\n"
    (folder / "SHA256SUMS").write_text(sums)
    return folder


# -- whole data sets -------------------------------------------------------------------------------------
def test_keras_mnist(mnist_dir: Path) -> None:
    (x_train, y_train), (x_test, y_test) = dt.keras.datasets.mnist.load_data()
    assert [a.shape for a in (x_train, y_train, x_test, y_test)] == [
        (60000, 28, 28),
        (60000,),
        (10000, 28, 28),
        (10000,),
    ]
    assert {a.dtype for a in (x_train, y_train, x_test, y_test)} == {np.dtype(np.uint8)}
    assert y_train[:5].tolist() == [5, 0, 4, 1, 9] and y_test[:5].tolist() == [7, 2, 1, 0, 4]
    x_train[0] = 0  # the arrays are the caller's
    assert (x_train / 255.0).max() == 1.0
    assert dt.keras.datasets.mnist.load_data("mnist2.npz")[0][0].shape == (60000, 28, 28)  # a name in a cache


def test_read_data_sets(mnist_dir: Path, tmp_path: Path) -> None:
    mnist = input_data.read_data_sets(str(tmp_path / "none"), one_hot=True)
    sizes = [part.num_examples for part in (mnist.train, mnist.validation, mnist.test)]
    assert sizes == [55000, 5000, 10000]
    assert mnist.test.images.shape == (10000, 784) and mnist.test.images.dtype == np.float32
    assert mnist.test.images.min() == 0 and mnist.test.images.max() == 1
    assert mnist.test.labels.shape == (10000, 10) and mnist.test.labels.dtype == np.float64
    assert mnist.test.labels[0].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert mnist.test.images is mnist.test.images, "the images are converted once"
    images, labels = mnist.train.next_batch(3)
    assert (images.shape, images.dtype, labels.shape) == ((3, 784), np.float32, (3, 10))
    validation = np.argmax(mnist.validation.labels[:5], 1)
    assert validation.tolist() == [5, 0, 4, 1, 9], "validation is the first of the training examples"


def test_a_folder_with_all_files_comes_first(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "other")
    data = input_data.read_data_sets(
        str(folder), dtype=dt.uint8, reshape=False, validation_size=10, seed=1, comm=None
    )
    assert [part.num_examples for part in data] == [20, 10, 7]
    assert data.train.images.shape == (20, 28, 28, 1) and data.train.images.dtype == np.uint8
    assert data.train.images[0].max() == 10 and data.train.labels[:3].tolist() == [0, 1, 2]
    assert data.train.labels.dtype == np.uint8
    with pytest.raises(UsageError, match="0 to 30"):
        input_data.read_data_sets(str(folder), validation_size=31)


@pytest.mark.parametrize(
    "change", [{"fake_data": True}, {"source_url": "x"}, {"dtype": dt.float64}, {"seed": -1}]
)
def test_what_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="read_data_sets"):
        input_data.read_data_sets(str(write_set(tmp_path / "set")), **{"validation_size": 3} | change)


def test_the_seed_is_the_graphs_unless_given(tmp_path: Path) -> None:
    folder = str(write_set(tmp_path / "set"))

    def first(seed: int | None) -> list[int]:
        data = input_data.read_data_sets(folder, validation_size=0, seed=seed)
        return data.train.next_batch(30)[0].max(axis=1).tolist()

    assert first(3) == first(3) != first(4)
    assert first(None) != first(None), "without any seed each time is another"
    dt.set_random_seed(3)
    assert first(None) == first(3)


# -- batches ---------------------------------------------------------------------------------------------
def numbers(batch: tuple[Batch, Batch]) -> list[int]:
    """Which examples of small_set a batch holds."""
    images, labels = batch
    found = images.max(axis=1).tolist()
    assert labels.tolist() == [i % 10 for i in found]
    return found


def test_each_example_comes_once_an_epoch_in_an_order_of_seed_and_epoch() -> None:
    data = small_set()
    for epoch in (1, 2, 3):
        order = [i for _ in range(5) for i in numbers(data.next_batch(2))]
        assert data.epochs_completed == epoch - 1
        assert order == epoch_order(5, epoch, range(SMALL)).tolist()


def test_a_batch_may_span_epochs() -> None:
    data = small_set()
    stream = [i for _ in range(5) for i in numbers(data.next_batch(4))]
    assert stream[:10] == epoch_order(5, 1, range(SMALL)).tolist()
    assert stream[10:] == epoch_order(5, 2, range(SMALL)).tolist()
    assert data.epochs_completed == 1
    assert len(numbers(data.next_batch(25))) == 25 and data.epochs_completed == 4


def test_without_shuffling_the_order_is_that_of_the_files() -> None:
    data = small_set()
    assert numbers(data.next_batch(SMALL, shuffle=False)) == list(range(SMALL))
    assert numbers(data.next_batch(SMALL)) == epoch_order(5, 2, range(SMALL)).tolist()


def test_images_and_labels_in_other_forms() -> None:
    data = small_set(one_hot=True, dtype="float32", reshape=False)
    images, labels = data.next_batch(3, shuffle=False)
    assert images.shape == (3, 2, 3, 1) and images.dtype == np.float32
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(3, dtype=np.float32) / np.float32(255))
    np.testing.assert_array_equal(labels, np.eye(10)[:3])
    np.testing.assert_array_equal(images, data.images[:3])
    with pytest.raises(UsageError, match="cannot take 0 of 10"):
        data.next_batch(0)
    with pytest.raises(UsageError, match="fake_data"):
        data.next_batch(2, True)


def test_a_batch_is_an_array_to_the_program() -> None:
    images, labels = small_set(dtype="float32").next_batch(4, shuffle=False)
    assert len(images) == 4 and images.shape == (4, 6)
    assert repr(labels) == "array([0, 1, 2, 3], dtype=uint8)" and str(labels) == "[0 1 2 3]"
    assert isinstance(images.mean(), np.floating) and isinstance(labels.sum(), np.integer)
    assert isinstance(labels[2], np.uint8) and isinstance(images[2, 3], np.floating)
    for still in (
        images * 2,
        images[:2],
        images[:, :3],
        images.reshape(4, 2, 3),
        -images,
        images.astype("f8"),
    ):
        assert isinstance(still, Batch)
    for picked in (images[2], images[2, :], np.asarray(images), np.array(images)):
        assert type(picked) is np.ndarray
    images /= 2
    assert isinstance(images, Batch)


# -- on several ranks ------------------------------------------------------------------------------------
def in_a_graph(comm: Communicator, body: Any) -> Any:
    graph = dt.Graph()
    with graph.as_default():
        return body(dt.Session(graph=graph, comm=comm))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_share_a_batch(size: int, on_threads: Any) -> None:
    """Every rank sees the whole batch, computes on its share, and fetches the whole again."""

    def rank(comm: Communicator) -> list[Any]:
        def body(session: dt.Session) -> list[Any]:
            x = dt.placeholder("float", [None, 6])
            y, total = x * 2, dt.reduce_mean(x)
            data, seen = small_set(dtype="float32"), []
            for k in (4, 4, 1, 7):
                images, _ = data.next_batch(k)
                seen.append((len(images), *session.run([y, total], {x: images})))
                plans = list(session.plans.values())
                local = [f.shape[0] for _, f in plans[-1]._feeds]
                assert local == [k * (comm.rank + 1) // size - k * comm.rank // size]
            return seen

        return in_a_graph(comm, body)

    results = on_threads(size, rank)
    data = small_set(dtype="float32")
    for step, k in enumerate((4, 4, 1, 7)):
        images = np.asarray(data.next_batch(k)[0])
        for result in results:
            length, doubled, mean = result[step]
            assert length == k
            np.testing.assert_array_equal(doubled, images * 2)
            np.testing.assert_allclose(mean, images.mean(), rtol=1e-6)


def test_a_session_of_one_rank_takes_a_batch_whole() -> None:
    x = dt.placeholder("float", [None, 6])
    images, _ = small_set(dtype="float32").next_batch(4)
    np.testing.assert_array_equal(dt.Session(comm=None).run(x + 1, {x: images}), np.asarray(images) + 1)


@pytest.mark.parametrize("mark", [False, True])
@pytest.mark.parametrize("differs_at", [1, 2, 4])
def test_a_value_that_differs_between_ranks_is_an_error_on_all(
    mark: bool, differs_at: int, on_threads: Any
) -> None:
    def rank(comm: Communicator) -> str:
        def body(session: dt.Session) -> str:
            x = dt.placeholder("float", [None], name="x")
            total = dt.reduce_sum(x)
            for run in range(1, 5):
                value = np.full(4, comm.rank if run == differs_at and comm.rank == 1 else 0, np.float32)
                try:
                    session.run(total, {x: value.view(Batch) if mark else value})
                except InvalidArgumentError as error:
                    assert error.agreed
                    return f"{run}: {error}"
            return ""

        return in_a_graph(comm, body)

    found = on_threads(3, rank)
    assert len(set(found)) == 1
    assert found[0].startswith(
        f"{differs_at}: the value fed for Tensor 'x:0' is not the same on rank 1 as on"
    )


def test_shards_are_not_compared(on_threads: Any) -> None:
    def rank(comm: Communicator) -> float:
        def body(session: dt.Session) -> float:
            x = dt.placeholder("float", [None])
            return float(session.run(dt.reduce_sum(x), {x: dt.Shard([comm.rank + 1.0], 2)}))

        return in_a_graph(comm, body)

    assert on_threads(2, rank) == [3, 3]


def test_checksums() -> None:
    values = [
        np.zeros(3),
        np.zeros(3, np.float32),
        np.zeros((3, 1)),
        np.array([0, 0, 1.0]),
        0,
        0.0,
        ["a"],
        ["b"],
    ]
    assert len({checksum(v) for v in values}) == len(values)
    strided = np.arange(6.0)[::2]
    assert checksum(strided) == checksum(strided.copy()) == checksum([0.0, 2.0, 4.0])
    assert checksum(np.zeros((0, 3))) != checksum(np.zeros((0, 4)))
