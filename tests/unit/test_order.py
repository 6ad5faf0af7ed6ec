"""The order of an epoch: each example once, the same on any number of ranks, from any place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.comm.single import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.data import ahead, load, order
from dtrain.data.dataset import Dataset, Split
from dtrain.data.order import Blocks, Permutation, as_they_lie, epoch_order, order_of
from dtrain.errors import SavedAndStopped
from dtrain.keras import data as keras_data
from dtrain.keras import sources
from dtrain.keras.layers import Dense
from dtrain.task import trainer
from dtrain.train.batches import windows
from dtrain.train.preempt import StopRequest

N = 1_003


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 8 examples, 3 of them a window, for a set of more than 100 examples."""
    for name, value in (("WHOLE_ROWS", 100), ("BLOCK_ROWS", 8), ("LEAST_BLOCKS", 3), ("MOST_BLOCKS", 3)):
        monkeypatch.setattr(order, name, value)


def examples(count: int, x: Any = None) -> Dataset:
    x = np.zeros((count, 2), np.float32) if x is None else x
    return Dataset("some", "here", "", x, np.zeros(count, np.uint8), range(count), classes=("a", "b"))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 65, 1000, 4097])
def test_any_place_of_a_permutation_is_known_alone(count: int) -> None:
    for seed, epoch in ((0, 1), (0, 2), (2**62 - 1, 7)):
        permutation = Permutation(count, seed, epoch)
        whole = permutation(np.arange(count))
        assert sorted(whole.tolist()) == list(range(count))
        assert permutation.inverse(whole).tolist() == list(range(count))
        assert permutation(np.array([count - 1]))[0] == whole[-1]
    if count > 100:
        other = Permutation(count, 0, 3)(np.arange(count))
        assert (other != Permutation(count, 0, 4)(np.arange(count))).mean() > 0.9


def test_a_permutation_of_many_needs_no_memory_and_is_even() -> None:
    count = 1 << 45
    found = Permutation(count, 1, 1)(np.arange(10_000, dtype=np.int64))
    assert len(set(found.tolist())) == 10_000 and found.min() >= 0 and found.max() < count
    # of 10,000 in 16 equal parts each has 625, give or take 24
    assert np.abs(np.bincount(found >> 41, minlength=16) - 625).max() < 120


@pytest.mark.parametrize("count", [101, 104, 120, 121, 239, 240, 241, N])
def test_by_blocks_each_is_used_once(small: None, count: int) -> None:
    for epoch in range(1, 6):
        found = order_of(3, epoch, examples(count).part("train"))
        assert isinstance(found, Blocks) and len(found) == count
        whole = found[:]
        assert whole.dtype == np.int32 and sorted(whole.tolist()) == list(range(count))
        for low, high in ((0, 1), (5, 50), (count - 30, count), (24, 48), (count, count)):
            again = order_of(3, epoch, examples(count).part("train"))
            assert np.array_equal(again[low:high], whole[low:high])


def test_a_window_has_rows_of_few_blocks_in_any_order(small: None) -> None:
    found = order_of(0, 1, examples(N).part("train"))
    first = found[: found.begin(1)]
    assert len(first) == 24 and len({row // 8 for row in first.tolist()}) == 3
    assert not np.array_equal(first, np.sort(first))
    whole = found[:]
    assert not np.array_equal(whole, order_of(0, 2, examples(N).part("train"))[:])
    assert not np.array_equal(whole, order_of(1, 1, examples(N).part("train"))[:])
    # a block lies anywhere: where its rows are says nothing of when they come
    assert abs(np.corrcoef(np.arange(N), whole)[0, 1]) < 0.1


def test_a_small_set_keeps_the_order_that_it_had() -> None:
    part = examples(60).part("train")
    assert np.array_equal(order_of(5, 2, part), epoch_order(5, 2, range(60)))
    generator = np.random.Generator(np.random.Philox(key=np.array([5, 2], np.uint64)))
    assert np.array_equal(order_of(5, 2, part), generator.permutation(60))


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_batches_are_the_same_on_any_number_of_ranks(
    small: None, size: int, on_threads: Callable[..., Any]
) -> None:
    def body(comm: Communicator) -> list[np.ndarray]:
        found = order_of(1, 4, examples(1_000).part("train"))
        return [row for window in windows(found, 50, comm, lambda: 3, 250) for row in window.rows]

    steps = [np.concatenate(shares) for shares in zip(*on_threads(size, body), strict=True)]
    assert np.array_equal(np.concatenate(steps), order_of(1, 4, examples(1_000).part("train"))[250:])


def test_more_than_2_31_rows_are_counted() -> None:
    count = (1 << 31) + 5
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (count, 1), (0, 0))
    y = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (count,), (0,))
    part = Dataset("huge", "here", "", x, y, range(count), classes=("a", "b")).part("train")
    found = order_of(0, 1, part)
    assert found[:10].dtype == np.int64 and as_they_lie(part)[count - 2 : count].tolist() == [
        count - 2,
        count - 1,
    ]
    assert found[count - 4000 :].max() > 1 << 24
    held = Split(count, count // 10)
    assert held.rows(np.array([count - 1]))[0] > 1 << 30


# -- reading ahead ---------------------------------------------------------------------------------------
def test_rows_are_asked_for_before_they_are_used_and_given_back(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", np.arange(2.0 * N, dtype=np.float32).reshape(N, 2))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    said: list[tuple[str, int]] = []
    names = {getattr(ahead.mmap, n): n for n in ("MADV_WILLNEED", "MADV_DONTNEED", "MADV_RANDOM")}

    def advise(array: np.ndarray, advice: int, low: int, high: int) -> None:
        said.extend((names[advice], row) for row in range(low, high))

    monkeypatch.setattr(ahead, "advise", advise)
    data = examples(N, x)
    for part in (data.part("train"), data.holding_back(100).part("train")):
        said.clear()
        found = order_of(0, 1, part)
        with ahead.Ahead(found) as reading:
            for place in range(0, len(found), 10):
                reading.at(place)
        asked = [row for name, row in said if name == "MADV_WILLNEED"]
        back = [row for name, row in said if name == "MADV_DONTNEED"]
        assert set(found[:].tolist()) <= set(asked) and set(asked) == set(back)
        assert len(asked) < 1.2 * len(found), "no row is asked for again and again"
        first = {row: i for i, (name, row) in enumerate(said) if name == "MADV_DONTNEED"}
        for i, (name, row) in enumerate(said):
            assert name != "MADV_WILLNEED" or i < first[row]


def test_only_pages_that_can_be_read_again_are_given_back(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(4096.0))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert ahead.mapped(x) and ahead.mapped(np.ascontiguousarray(x)[5:].view())
    own = np.load(tmp_path / "x.npy", mmap_mode="c")
    own[0] = 7
    assert not ahead.mapped(own) and not ahead.mapped(np.zeros(3))
    assert ahead.Ahead(Blocks(examples(4096, own.reshape(4096, 1)).part("train"), None))._maps == []
    ahead.advise(x, ahead.mmap.MADV_DONTNEED, 0, 4096)
    assert x[0] == 0 and x[4095] == 4095


# -- a program's own fit ---------------------------------------------------------------------------------
def fitted(comm: Communicator | None, x: Any, y: Any, **options: Any) -> tuple[Any, list[np.ndarray]]:
    dt.set_random_seed(1)
    model = dt.keras.models.Sequential([Dense(3, input_shape=(2,)), Dense(1)], comm=comm)
    model.compile("sgd", "mse")
    history = model.fit(x, y, batch_size=11, epochs=2, verbose=0, validation_split=0.2, **options)
    asked = [model.evaluate(x, y, verbose=0), *model.predict(x, batch_size=7)[:, 0]]
    return history.history, [*model.get_weights(), np.array(asked)]


@pytest.mark.parametrize("steps", [None, 30])
def test_fit_reads_a_large_map_by_blocks_and_ahead(
    steps: int | None,
    small: None,
    tmp_path: Path,
    on_threads: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of float64, converted as it is read; each example once a pass, on any ranks as of arrays in memory."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(N, 2)))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    y = (x.sum(1) + rng.normal(size=N)).astype(np.float32)
    in_memory = fitted(None, np.array(x, np.float32), y, steps_per_epoch=steps)
    used: list[int] = []
    asked: list[int] = []
    real = sources.windows

    def ledger(*args: Any) -> Iterator[Any]:
        for window in real(*args):
            used.extend(window.rows.reshape(-1).tolist())
            yield window

    def advise(array: np.ndarray, advice: int, low: int, high: int) -> None:
        if advice == ahead.mmap.MADV_WILLNEED:
            asked.extend(range(low, high))

    monkeypatch.setattr(keras_data, "WHOLE_BYTES", 100)
    for size in (1, 2, 3):
        used.clear()
        with monkeypatch.context() as watched:
            watched.setattr(sources, "windows", ledger)
            watched.setattr(ahead, "advise", advise)
            found = on_threads(size, lambda comm: fitted(comm, x, y, steps_per_epoch=steps))
        for history, weights in found:
            for name, values in in_memory[0].items():
                np.testing.assert_allclose(history[name], values, rtol=1e-5)
            for a, b in zip(weights, in_memory[1], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        counts = np.bincount(used, minlength=N)
        assert not counts[int(0.8 * N) :].any() and set(range(N)) <= set(asked)
        assert (counts[: int(0.8 * N)] == 2).all() if steps is None else counts.max() == 1


# -- stopped and gone on with ----------------------------------------------------------------------------
STOPS = 5


def test_each_example_once_over_stops_at_other_numbers_of_ranks(
    small: None,
    small_set: Path,
    tmp_path: Path,
    on_threads: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = TrainConfig(
        model="logistic",
        dataset=str(small_set),
        validation="91",
        epochs=2,
        batch_size=48,  # 19 steps an epoch, of 912 examples
        run_dir=str(tmp_path / "run"),
        tensorboard="off",
    )
    used: list[int] = []
    real, vote = trainer.windows, StopRequest.vote

    def ledger(*args: Any) -> Iterator[Any]:
        for window in real(*args):
            try:
                yield window
            finally:
                used.extend(window.rows.reshape(-1).tolist())

    def asked(self: StopRequest) -> Any:
        self.name = "SIGTERM" if self._comm.rank == self._comm.size - 1 else ""
        return vote(self)

    def stopped(comm: Communicator, config: TrainConfig) -> None:
        with pytest.raises(SavedAndStopped):
            trainer.train(config, comm)

    monkeypatch.setattr(trainer, "windows", ledger)
    monkeypatch.setattr(StopRequest, "vote", asked)
    for stop in range(STOPS):
        on_threads((1, 2, 3, 4)[stop % 4], lambda comm, config=config: stopped(comm, config))
        config = replace(config, resume=config.run_dir)
    monkeypatch.setattr(StopRequest, "vote", vote)
    on_threads(3, lambda comm: trainer.train(config, comm))
    data = load(str(small_set), SingleCommunicator(), validation="91")
    counts = np.bincount(used, minlength=1003)
    held = data.part("validation")[:]
    assert len(held) == 91 and not counts[held].any()
    assert (np.delete(counts, held) == 2).all() and counts.sum() == 2 * 912
