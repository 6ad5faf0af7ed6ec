"""fit, evaluate and predict of batches: a generator's, an iterable's, a Sequence's; and steps_per_epoch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator, SingleCommunicator
from dtrain.errors import CheckpointError, SavedAndStopped, UsageError
from dtrain.keras import Sequential, callbacks
from dtrain.keras.layers import Dense, Dropout
from dtrain.keras.sources import Batches
from dtrain.train import preempt

RANDOM = np.random.default_rng(5)
N, CLASSES, SIZE = 23, 3, 7  # batches of 7, 7, 7 and 2: fewer than 3 ranks
X = RANDOM.normal(size=(N, 5)).astype(np.float32)
Y = (np.arange(N) % CLASSES).astype(np.int64)
WEIGHTS = RANDOM.uniform(0.1, 2, N).astype(np.float32)
CUTS = [slice(at, at + SIZE) for at in range(0, N, SIZE)]


def model(comm: Any = None, drop: float = 0.3) -> Sequential:
    dt.reset_default_graph()
    dt.set_random_seed(3)
    made = Sequential(
        [Dense(4, "relu", input_shape=(5,)), Dropout(drop), Dense(CLASSES, "softmax")], comm=comm
    )
    made.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return made


def batches(repeat: int = 1) -> Iterator[tuple[np.ndarray, ...]]:
    for cut in CUTS * repeat:
        yield X[cut], Y[cut], WEIGHTS[cut]


class Anew:
    """Iterated anew for each pass; of no known length."""

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        return batches()


class Numbered(dt.keras.utils.Sequence):
    """A keras.utils.Sequence, whose order changes after each epoch."""

    def __init__(self) -> None:
        self.order, self.events = list(range(len(CUTS))), list[Any]()

    def __len__(self) -> int:
        return len(CUTS)

    def __getitem__(self, number: int) -> tuple[np.ndarray, ...]:
        self.events.append(number)
        cut = CUTS[self.order[number]]
        return X[cut], Y[cut], WEIGHTS[cut]

    def on_epoch_end(self) -> None:
        self.events.append("end")


class Turning(Numbered):
    def on_epoch_end(self) -> None:
        self.order = self.order[1:] + self.order[:1]


WHATS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "generator": (lambda: batches(3), {"steps_per_epoch": 4}),
    "list": (lambda: list(batches()), {}),
    "iterable": (Anew, {}),
    "iterable, steps": (Anew, {"steps_per_epoch": 4}),
    "Sequence": (Numbered, {}),
    "Sequence, steps": (Numbered, {"steps_per_epoch": 4}),
}


def close(found: Any, expected: Any) -> None:
    """The same to rounding: histories, and arrays of weights or outputs."""
    history, *arrays = found
    for name, values in expected[0].items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4, err_msg=name)
    for a, b in zip(chain(*arrays), chain(*expected[1:]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


# -- what is trained -------------------------------------------------------------------------------------
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("kind", WHATS)
def test_batches_train_as_the_arrays_do_that_they_are_cut_from(
    kind: str, ranks: int, on_threads: Callable[..., list[Any]]
) -> None:
    arguments = {"epochs": 3, "shuffle": False, "verbose": 0, "class_weight": {1: 2.5}}
    weighted = (X, Y, WEIGHTS)

    def body(comm: Any, batched: bool = True) -> Any:
        made = model(comm)
        if not batched:
            history = made.fit(
                X, Y, SIZE, sample_weight=WEIGHTS, validation_data=weighted, validation_freq=2, **arguments
            )
            return history.history, made.get_weights(), [made.predict(X), made.evaluate(*weighted[:2])]
        make, more = WHATS[kind]
        tested = {"validation_data": make(), "validation_freq": 2}
        tested |= {"validation_steps": 4} if more else {}
        history = made.fit(make(), **arguments, **more, **tested)
        assert history.epoch == [0, 1, 2]
        plain = ((x, y) for x, y, _ in batches())
        return history.history, made.get_weights(), [made.predict(batches()), made.evaluate(plain)]

    expected = body(None, batched=False)
    for found in on_threads(ranks, body):
        close(found, expected)
        if ranks == 1:
            assert found[0]["loss"] == expected[0]["loss"]


class Steps(callbacks.Callback):
    def on_train_begin(self, logs: Any = None) -> None:
        self.counts: list[int] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.counts.append(0)

    def on_batch_end(self, batch: int, logs: Any = None) -> None:
        self.counts[-1] += 1


#: What is given, of 4 batches a pass; options; steps of each epoch; whether there is a warning. Of arrays and
#: of the Sequence as Keras 3.15 has it.
ENDS: list[tuple[Any, dict[str, Any], list[int], bool]] = [
    ("arrays", {"epochs": 3, "steps_per_epoch": 2}, [2, 2, 2], False),
    ("arrays", {"epochs": 4, "steps_per_epoch": 3}, [3, 1, 3, 1], True),
    ("arrays", {"epochs": 2, "steps_per_epoch": 7}, [4, 4], True),
    ("arrays", {"epochs": 3, "steps_per_epoch": 3, "initial_epoch": 1}, [3, 1], True),
    (Numbered, {"epochs": 3, "steps_per_epoch": 3}, [3, 1, 3], True),
    (Numbered, {"epochs": 2, "steps_per_epoch": 6}, [4, 4], True),
    (Anew, {"epochs": 3, "steps_per_epoch": 3}, [3, 1, 3], True),
    (batches, {"epochs": 1}, [4], False),
    (batches, {"epochs": 3}, [4], True),
    (batches, {"epochs": 3, "steps_per_epoch": 3}, [3, 1], True),
    (batches, {"epochs": 3, "steps_per_epoch": 2}, [2, 2], True),
    (lambda: batches(2), {"epochs": 4, "steps_per_epoch": 3, "initial_epoch": 1}, [3, 3, 2], True),
]


@pytest.mark.parametrize(("make", "options", "steps", "warned"), ENDS)
def test_an_epoch_is_so_many_steps_and_what_has_no_more_ends_it(
    make: Any, options: dict[str, Any], steps: list[int], warned: bool
) -> None:
    given = (X, Y, SIZE) if make == "arrays" else (make(),)
    counts = Steps()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model().fit(*given, verbose=0, callbacks=[counts], **options)
    assert counts.counts == steps and len(history.epoch) == len(steps)
    assert ["ran out of data" in str(w.message) for w in caught] == [True] * warned


def test_a_pass_over_arrays_goes_on_in_the_next_epoch() -> None:
    first, half = model(), model()
    first.fit(X, Y, SIZE, epochs=1, verbose=0)
    half.fit(X, Y, SIZE, epochs=2, steps_per_epoch=2, verbose=0)
    for a, b in zip(half.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_sequence_is_asked_by_number_and_told_of_each_epochs_end() -> None:
    source = Numbered()
    model().fit(source, epochs=2, shuffle=False, verbose=0)
    assert source.events == [0, 0, 1, 2, 3, "end", 0, 1, 2, 3, "end"]
    source = Numbered()
    model().fit(source, epochs=3, verbose=0)
    asked = [e for e in source.events[1:] if e != "end"]
    epochs = [asked[at : at + 4] for at in (0, 4, 8)]
    assert all(sorted(e) == [0, 1, 2, 3] for e in epochs) and len({tuple(e) for e in epochs}) > 1


# -- tests -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ranks", [1, 3])
def test_steps_of_a_test(ranks: int, on_threads: Callable[..., list[Any]]) -> None:
    def body(comm: Any) -> None:
        made = model(comm)
        first = made.evaluate(X[:10], Y[:10], verbose=0)
        assert made.evaluate(X, Y, batch_size=5, steps=2, verbose=0) == pytest.approx(first, rel=1e-5)
        pairs = ((X[at : at + 5], Y[at : at + 5]) for at in range(0, N, 5))
        assert made.evaluate_generator(pairs, steps=2) == pytest.approx(first, rel=1e-5)
        rest = made.evaluate(pairs, verbose=0)  # it goes on where it was left
        assert rest == pytest.approx(made.evaluate(X[10:], Y[10:], verbose=0), rel=1e-5)
        np.testing.assert_allclose(made.predict(X, batch_size=5, steps=2), made.predict(X[:10]), rtol=1e-5)
        alone = (x for x, *_ in batches())
        np.testing.assert_allclose(made.predict_generator(alone, 4), made.predict(X), rtol=1e-5)
        halves = [(X[:4], Y[:4]), (X[4:10], Y[4:10])]
        still = {"epochs": 2, "verbose": 0, "batch_size": 5}
        made.optimizer.learning_rate = 0.0
        for tested, more in (
            ((X, Y), {"validation_steps": 2}),
            ((X, Y), {"validation_steps": 1, "validation_batch_size": 10}),
            (iter(halves * 2), {"validation_steps": 2}),
            ([*halves, (X, Y)], {"validation_steps": 2}),
        ):
            found = made.fit(X, Y, validation_data=tested, **still, **more).history
            assert found["val_loss"] == pytest.approx([first[0]] * 2, rel=1e-5)

    on_threads(ranks, body)


# -- ranks -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("give", "words"),
    [
        (lambda rank: ((x + rank, y) for x, y, _ in batches()), "fit: x is not the same on rank 1"),
        (lambda rank: list(batches())[: 4 - rank], "fit: the number of batches is not the same on rank 1"),
        (lambda rank: iter([(X, Y), (X, Y[rank:])]), "rank 1 .*fit: x has 23 examples and y has 22"),
        (lambda rank: X if rank else batches(), "(y is missing|fit: x is not the same on rank 1)"),
    ],
)
def test_batches_that_differ_among_ranks(
    give: Callable[[int], Any], words: str, on_threads: Callable[..., list[Any]]
) -> None:
    def body(comm: Any) -> None:
        with pytest.raises(UsageError, match=words) as caught:
            model(comm).fit(give(comm.rank), verbose=0)
        assert caught.value.agreed

    on_threads(2, body)


def test_a_batch_that_is_drawn_and_not_used_comes_again() -> None:
    """As where ranks die over it."""
    for make in (batches, Anew, Numbered):
        source = Batches(model(), "fit", make())
        source.first(1)
        begun = [e.arrays["x"].tolist() for _, e in zip(range(3), source.epoch(1), strict=False)]
        rest = [e.arrays["x"].tolist() for e in source.epoch(1, 2)]
        assert [*begun[:2], *rest] == [X[cut].tolist() for cut in CUTS]


# -- a run -----------------------------------------------------------------------------------------------
RUNS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "generator": (lambda: batches(3), {"steps_per_epoch": 3}),
    "iterable": (Anew, {}),
    "Sequence": (Turning, {}),
    "Sequence, steps": (Turning, {"steps_per_epoch": 3}),
    "arrays, steps": (lambda: X, {"y": Y, "batch_size": SIZE, "steps_per_epoch": 3}),
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(("kind", "ranks"), [*((kind, 1) for kind in RUNS), ("generator", 2)])
def test_a_run_of_batches_is_resumed_bit_for_bit(
    kind: str, ranks: int, tmp_path: Path, on_threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, options = RUNS[kind]
    calls: dict[int, int] = {}
    real = preempt.StopRequest.vote

    def vote(self: preempt.StopRequest) -> Any:
        calls[self._comm.rank] = calls.get(self._comm.rank, 0) + 1
        if calls[self._comm.rank] == 5:
            self.name = "SIGTERM"
        return real(self)

    monkeypatch.setattr(preempt.StopRequest, "vote", vote)

    def fit(comm: Communicator, run: Path | None, resume: bool = False) -> Any:
        made = model(comm)
        tested = {"validation_data": ((X[c], Y[c]) for c in CUTS), "validation_steps": 1}
        history = made.fit(
            make(), epochs=3, verbose=0, run_dir=run, resume=resume, checkpoint_every=2, **options, **tested
        )
        return history.history, [w.tolist() for w in made.get_weights()]

    def stopped(comm: Communicator) -> None:
        with pytest.raises(SavedAndStopped):
            fit(comm, tmp_path)

    whole = on_threads(ranks, lambda comm: fit(comm, None))
    on_threads(ranks, stopped)
    for found in on_threads(ranks, lambda comm: fit(comm, tmp_path, resume=True)):
        assert found == whole[0]


def test_what_is_not_the_run_is_not_resumed(tmp_path: Path) -> None:
    def fit(source: Iterable[Any], steps: int = 2, **more: Any) -> Any:
        made = model(SingleCommunicator())
        return made.fit(source, epochs=3, steps_per_epoch=steps, verbose=0, run_dir=tmp_path, **more)

    three = list(batches(3))
    with pytest.warns(UserWarning, match="ran out"):
        fit(iter(three[:4]))
    with pytest.raises(CheckpointError, match="steps_per_epoch=2, not 4"):
        fit(iter(three), 4, resume=True)
    with pytest.raises(CheckpointError, match="trained on other data"):
        fit(iter(three[1:]), resume=True)
    assert fit(iter(three), resume=True).epoch == [0, 1, 2]
