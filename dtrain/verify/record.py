"""What `dtrain verify` starts under mpirun: steps of a training, and digests of what came out of each."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import dtrain as dt
from dtrain import comm as communicators
from dtrain import info
from dtrain.comm.base import Communicator
from dtrain.config import TrainConfig, resolve
from dtrain.data.order import order_of
from dtrain.files import write_atomically
from dtrain.graph.graph import Operation, Tensor
from dtrain.native.code import vectors
from dtrain.ops.array import SumLike
from dtrain.ops.base import MATRIX, Const, Placeholder, apply
from dtrain.ops.join import reverse
from dtrain.ops.reduce import Sum, _Reduction
from dtrain.ops.state import VariableOp
from dtrain.passes.step import predecessors
from dtrain.runtime.feeds import Shard, Window
from dtrain.task.network import TRAINING, evaluate
from dtrain.task.trainer import Made, begin, made, make_devices, prepared
from dtrain.train.batches import windows


@dataclass(frozen=True)
class Asked:
    """What a record is of.

    to: the file that gets it; arrays go into files beside it, named after the step. steps: how many.
    keep: the steps after which the parameters' values are kept. dump: the step whose operations' values are,
    and the variables' after it; 0 for none. turned: whether one sum is added up from its end, as a control.
    test: whether the test examples are evaluated at the end.
    """

    to: str
    steps: int
    keep: list[int] = field(default_factory=list)
    dump: int = 0
    turned: bool = False
    test: bool = True


def digest(value: Any) -> str:
    """A short digest of an array's bits."""
    array = np.ascontiguousarray(value)
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:16]


def exact(value: Any) -> str:
    """A number, to the bit."""
    return float(value).hex() if np.ndim(value) == 0 else digest(value)


def turn_one_sum() -> None:
    """Let the first sum over the rows of a matrix be added up from the last to the first in this process."""
    chosen: list[Any] = []

    def lower(self: Sum, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        (x,), kind = inputs, self
        shape = x.spec.shape or ()
        if kind.axes != (0,) or len(shape) != 2 or x.op.name.endswith("turned"):
            return None
        chosen.append((shape[1], kind))
        if (shape[1], kind) != chosen[0]:
            return None
        return apply(kind, reverse(x, [0], name="turned"), name=node.name)

    Sum.lower = lower  # type: ignore[assignment, method-assign]  # a fault, on purpose


def operations(one: Made) -> list[Operation]:
    """What a step computes before it writes anything, in the graph's order."""
    needed: set[Operation] = set()
    step = one.trained.step
    stack = [one.network.loss.op, step if isinstance(step, Operation) else step.op]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack += [*(t.op for t in node.inputs), *node.control_inputs]
    late: set[Operation] = set()
    found = []
    for node in sorted(needed, key=lambda n: n.id):
        if node.kind.writes or not late.isdisjoint(predecessors(node)):
            late.add(node)
            continue
        plain = not any(t.dtype.is_string for t in node.outputs)
        if plain and not isinstance(node.kind, VariableOp | Const | Placeholder):
            found.append(node)
    return found


def summed(node: Operation) -> str:
    """Which sum an operation is, in words; '' where it is none."""
    shapes = [t.spec.shape for t in node.inputs]
    if isinstance(node.kind, SumLike):
        return f"a sum of {shapes[0]} to {node.outputs[0].spec.shape}"
    if isinstance(node.kind, _Reduction):
        axes = "all axes" if node.kind.axes is None else f"axes {', '.join(map(str, node.kind.axes))}"
        return f"a sum over {axes} of {shapes[0]}"
    if node.kind.category == MATRIX:
        return f"sums of products of {' and '.join(map(str, shapes[:2]))}"
    return ""


def record(config: TrainConfig, asked: Asked, comm: Communicator) -> dict[str, Any]:
    """Take the steps; what came out, on every rank. Collective."""
    backend, _ = make_devices(config, comm)
    task, data = prepared(config, comm)
    one = made(config, comm, backend, task, data)
    session, network = one.session, one.network
    begin(session, one.initialize)
    with session.graph.as_default():
        variables = dt.global_variables()
    nodes = operations(one)
    outputs = [t for node in nodes for t in node.outputs]
    rate = [] if one.trained.rate is None else [one.trained.rate]
    look = session.make_callable(outputs, [network.indices, network.training, *rate])
    ops: list[list[str]] = []
    taken: list[dict[str, Any]] = []
    replicas: dict[str, Any] = {}
    vote = Shard(np.zeros(1, np.float32), comm.size)
    for number, window in enumerate(_windows(config, asked, one, data, comm), 1):
        if number in (1, asked.dump):
            state = session.random_state
            rates = [] if one.trained.keras is None else [one.trained.keras.rate]
            values = look(window.feed(0), TRAINING, *rates)
            session.random_state = state
            if number == 1:
                ops = [[t.name, t.op.type, digest(v)] for t, v in zip(outputs, values, strict=True)]
            if number == asked.dump:
                _keep(asked, comm, "ops", dict(zip((t.name for t in outputs), values, strict=True)))
        ((loss, sums, _),) = one.steps.step(window, vote)
        after = session.snapshot(variables)
        digests = {name: digest(value) for name, value in after.items()}
        whole = comm.gather_text(digest(np.frombuffer(json.dumps(digests).encode(), np.uint8)))
        if len({*whole}) > 1 and not replicas:
            replicas = {"step": number, "rank": next(r for r, text in enumerate(whole) if text != whole[0])}
        taken.append({"loss": exact(loss), "sums": [*map(exact, sums)], "variables": digests})
        if number == asked.dump:
            _keep(asked, comm, "variables", after)
        if number in asked.keep:
            _keep(asked, comm, f"step-{number}", {v.op.name: after[v.op.name] for v in network.parameters})
    tested: dict[str, float] = {}
    if asked.test and (part := data.part("test") or data.part("validation")):
        tested = evaluate(session, network, part, comm)
    return {
        "ranks": comm.size,
        "environment": {
            **info.environment(),
            "dtrain": info.__version__,
            "kernels": session.kernels,
            "vectors": vectors(),
            "mpi": comm.library,
            "averaging": comm.averaging,
            "nodes": comm.nodes,
            "data": data.digest,
        },
        "ops": ops,
        "sums": {t.name: summed(t.op) for t in outputs if summed(t.op)},
        "steps": taken,
        "tested": {name: exact(value) for name, value in tested.items()},
        "replicas": replicas,
    }


def _windows(config: TrainConfig, asked: Asked, one: Made, data: Any, comm: Communicator) -> Iterator[Window]:
    """The batches of the steps asked for, as `dtrain train` takes them, one at a time."""
    left, epoch = asked.steps, 0
    while left > 0:
        epoch += 1
        if one.network.augment:
            one.network.augment.draw(one.session, config.seed, epoch)
        order = order_of(config.seed, epoch, data.part("train"))
        for window in windows(order, config.batch_size, comm, lambda: 1):
            yield window
            left -= 1
            if not left:
                return


def _keep(asked: Asked, comm: Communicator, name: str, arrays: dict[str, Any]) -> None:
    if comm.rank == 0:
        np.savez(
            f"{asked.to}.{name}.npz",
            names=np.array([*arrays]),
            **{str(i): np.asarray(v) for i, v in enumerate(arrays.values())},  # type: ignore[arg-type]
        )


def main(words: list[str]) -> None:
    """words: a file of options as of --config, and what is asked for as JSON."""
    config, asked = resolve({}, {}, words[0]), Asked(**json.loads(words[1]))
    if asked.turned:
        turn_one_sum()
    comm = communicators.world(config.average, overlap=config.overlap)
    found = record(config, asked, comm)
    if comm.rank == 0:
        write_atomically(Path(asked.to), json.dumps(found).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
