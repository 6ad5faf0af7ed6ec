"""Faults that make a training depend on the number of ranks: does `dtrain verify` find and name each?

    python tests/faults/bitwise.py            all, about two minutes
    python tests/faults/bitwise.py rate mask  some
    python tests/faults/bitwise.py --one NAME OPTIONS ASKED   what is started on each rank

Each fault is put into the ranks' processes where there are several, and not into a rank that trains alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.comm import launcher
from dtrain.config import TrainConfig, resolve
from dtrain.errors import ChecksFailed
from dtrain.ops import collective, dropout, reduce, update
from dtrain.ops.array import CountLike
from dtrain.ops.base import apply
from dtrain.runtime import draws
from dtrain.runtime.feeds import Window
from dtrain.runtime.session import Session
from dtrain.verify import record
from dtrain.verify.run import verify

#: The model of a user's own that is trained: batch normalization, dropout, Adam.
TASK = """
import numpy as np
import dtrain as dt

layers = dt.keras.layers


def model(x, training):
    h = layers.Dense(40, activation="relu")(x)
    h = layers.BatchNormalization()(h, training=training)
    h = layers.Dropout(0.3)(h, training=training)
    return layers.Dense(5)(h)


def task():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 24)).astype(np.float32)
    y = (x[:, :5].argmax(1)).astype(np.int32)
    loss = dt.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return dt.Task(data=(x, y), model=model, loss=loss, metrics=["accuracy"], optimizer="OPTIMIZER")
"""

#: By name: what is wrong, what verify has to name, and what puts it there; options besides.
FAULTS: dict[str, tuple[str, str, Callable[[], None], dict[str, str]]] = {}


def fault(name: str, what: str, named: str, **options: str) -> Callable[[Callable[[], None]], None]:
    def keep(inject: Callable[[], None]) -> None:
        FAULTS[name] = (what, named, inject, options)

    return keep


def patched(kind: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Put a function of (what was there, its arguments) in the place of a method."""

    def put(made: Callable[..., Any]) -> None:
        before = getattr(kind, name)
        setattr(kind, name, lambda *args, **kwargs: made(before, *args, **kwargs))

    return put


def last() -> bool:
    return launcher.rank() == launcher.size() - 1


@fault("row", "the last rank reads another row in place of its last", "LentRows")
def _() -> None:
    @patched(record, "_windows")
    def windows(before: Any, *args: Any) -> Any:
        for window in before(*args):
            rows = np.array(window.rows)
            if last() and rows.shape[1] > 1:
                rows[:, -1] = rows[:, -2]
            yield Window(rows, window.total)


@fault("order of rows", "each rank takes its rows from its last to its first", "LentRows")
def _() -> None:
    @patched(record, "_windows")
    def windows(before: Any, *args: Any) -> Any:
        for window in before(*args):
            yield Window(window.rows[:, ::-1], window.total)


@fault("scale", "the gradient of a step is doubled in the update", "the update", OPTIMIZER="adam")
def _() -> None:
    @patched(update.ApplyAdam, "rule")
    def rule(before: Any, self: Any, p: Any, g: Any, *rest: Any) -> Any:
        return before(self, p, g + g, *rest)


@fault("rate", "the learning rate is multiplied by the number of ranks", "the update", OPTIMIZER="sgd")
def _() -> None:
    @patched(update.ApplyGradientDescent, "rule")
    def rule(before: Any, self: Any, p: Any, g: Any, rate: Any) -> Any:
        return before(self, p, g, rate * launcher.size())


@fault("count", "a mean is divided by the rows of one rank", "Mean")
def _() -> None:
    @patched(reduce.Mean, "lower")
    def lower(before: Any, self: Any, node: Any, inputs: Any) -> Any:
        x = inputs[0]
        count = apply(CountLike(reduce._axes(self, x)), x)
        return apply(reduce.Sum(self.axes, self.keepdims), x) / (count / launcher.size())


@fault("order", "one sum is added up from its end", "a sum over")
def _() -> None:
    record.turn_one_sum()


@fault("terms", "each rank sums over its rows, and the terms are added up", "in the step as a whole|sum")
def _() -> None:
    Session.bitwise = property(lambda self: False)  # type: ignore[assignment]


@fault(
    "stale",
    "what is gathered keeps what the last step had in one rank's place",
    "Relu",
)
def _() -> None:
    collective.AllGather.native = lambda *args: None  # type: ignore[method-assign]

    @patched(collective.AllGather, "bind")
    def bind(before: Any, self: Any, env: Any, ins: Any, outs: Any) -> Any:
        kernel, old = before(self, env, ins, outs), [None]

        def stale() -> None:
            kernel()
            now = outs[0].copy()
            if old[0] is not None:
                outs[0][-1] = old[0][-1]
            old[0] = now

        return stale


@fault("draw", "a rank's dropout draws from a generator without a seed", "DropoutMask")
def _() -> None:
    @patched(draws.Draws, "stream")
    def stream(before: Any, self: Any, name: str, seed: int) -> Any:
        return np.random.default_rng if last() and "ropout" in name else before(self, name, seed)


@fault("mask", "each rank's dropout begins at the first row", "DropoutMask")
def _() -> None:
    dropout.DropoutMask._start = lambda self, comm, out: 0  # type: ignore[method-assign]


@fault("seed", "initial values follow from the number of ranks", "variable|MatMul")
def _() -> None:
    @patched(record, "made")
    def made(before: Any, config: TrainConfig, *args: Any) -> Any:
        return before(replace(config, seed=config.seed + launcher.size()), *args)


@fault("metric", "the accuracy leaves the last row out", "metric")
def _() -> None:
    @patched(record.Made, "__new__")
    def new(before: Any, kind: Any, session: Any, network: Any, trained: Any, steps: Any, *rest: Any) -> Any:
        take = steps.take
        steps.take = lambda *args, **kw: [
            [loss, stop, *(s - 1 for s in sums), done] for loss, stop, *sums, done in take(*args, **kw)
        ]
        return before(kind, session, network, trained, steps, *rest)


@fault(
    "bit",
    "one bit of a rank's own copy of the parameters flips after step 3",
    "holds other values",
    average="mpi",
)
def _() -> None:
    @patched(record.Made, "__new__")
    def new(before: Any, kind: Any, session: Any, network: Any, trained: Any, steps: Any, *rest: Any) -> Any:
        step, taken = steps.step, []

        def flipped(*args: Any) -> Any:
            found = step(*args)
            taken.append(found)
            if last() and len(taken) == 3:
                name = network.parameters[0].op.name
                session.variables.arrays[name].reshape(-1).view(np.int32)[7] ^= 1 << 3
            return found

        steps.step = flipped
        return before(kind, session, network, trained, steps, *rest)


@fault(
    "rows", "the last rank leaves out the update of its rows in step 2 and after", "variable", OPTIMIZER="sgd"
)
def _() -> None:
    @patched(update.ApplyGradientDescent, "native")
    def native(before: Any, self: Any, code: Any, specs: Any, ins: Any, outs: Any) -> Any:
        calls = before(self, code, specs, ins, outs)
        return calls[:-1] if last() else calls


def found(name: str, ranks: list[int], steps: int = 6) -> tuple[bool, str]:
    """Whether verify finds a fault and names it, and what it says."""
    _, named, _, options = FAULTS[name]
    with tempfile.TemporaryDirectory() as folder:
        task, to = Path(folder) / "own.py", Path(folder) / "verify.json"
        task.write_text(TASK.replace("OPTIMIZER", options.get("OPTIMIZER", "adam")))
        flags = {
            "task": str(task),
            "bitwise": "on",
            "batch_size": "40",
            "average": options.get("average", "auto"),
        }
        config, said = resolve(flags, {}), StringIO()
        try:
            with redirect_stdout(said):
                verify(config, ranks, steps, to, program=(__file__, "--one", name))
        except ChecksFailed:
            told = json.loads(to.read_text())["differences"][0]["told"]
            return any(word in told for word in named.split("|")), told
        return False, "not found"


def one(name: str, words: list[str]) -> None:
    if launcher.size() > 1 and name != "none":
        FAULTS[name][2]()
    record.main(words)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3:])
    else:
        names = sys.argv[1:] or [*FAULTS]
        good = 0
        for each in names:
            yes, told = found(each, [1, 3])
            good += yes
            print(f"{'found' if yes else 'MISSED':<7} {each}: {FAULTS[each][0]}\n        {told}", flush=True)
        print(f"{good} of {len(names)} found and named")
