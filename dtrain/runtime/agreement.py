"""What the ranks compare so that none goes its own way: the step before it runs, and their variables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.errors import EnvironmentProblem, ReplicaError
from dtrain.graph.fingerprint import fingerprint, lines
from dtrain.graph.graph import Graph, Operation, built
from dtrain.ops.base import Feed
from dtrain.ops.fused import Fused, Joined
from dtrain.ops.state import VariableOp
from dtrain.runtime.backend import Backend

#: So an array that is fed begins in a message.
FED = "an array of shape"


def agree_on_devices(comm: Communicator, backend: Backend) -> None:
    """Raise on every rank unless all compute on CPUs, or all on GPUs. Collective.

    Raises:
        EnvironmentProblem: names a rank of each kind.
    """
    kinds = comm.gather_text("cpu" if backend.on_host else "gpu") if comm.size > 1 else []
    if len(set(kinds)) > 1:
        on_cpu, on_gpu = (comm.name(kinds.index(kind)) for kind in ("cpu", "gpu"))
        raise EnvironmentProblem(
            f"{on_cpu} computes on its CPU and {on_gpu} on a GPU, so their replicas would drift apart: give "
            "every rank a GPU, or none (--device cpu, DTRAIN_DEVICE=cpu)."
        ).on_every_rank()


def agree_on_step(comm: Communicator, graph: Graph, nodes: Sequence[Operation]) -> str:
    """Raise on every rank unless all have made the same plan, of a graph with the same variables. Collective.

    Returns a digest of both.

    Raises:
        EnvironmentProblem: names the first op that differs, or the first variable.
    """
    variables = [
        f"{n.name} {n.kind.group} {n.outputs[0].spec}"
        for n in graph.operations
        if isinstance(n.kind, VariableOp)
    ]
    digest = f"{fingerprint(nodes)} {hashlib.sha256(repr(variables).encode()).hexdigest()[:16]}"
    digests = comm.gather_text(digest)
    strays = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if not strays:
        return digest
    rows: list[tuple[str, str]] = []  # how each op is called in a message; all that counts of it
    for node, line in zip(nodes, lines(nodes), strict=True):
        loop = node.kind.then if isinstance(node.kind, Joined) else node.kind
        if isinstance(loop, Fused):
            for (op, args), name in zip(loop.body, loop.names, strict=True):
                rows.append((f"{type(op).__name__} '{name}'{built(node)}", repr((op, args))))
        what = f"{FED} {node.outputs[0].spec.shape} for" if isinstance(node.kind, Feed) else node.type
        rows.append((f"{what} '{node.name}'{built(node)}", line))
    rows += [(f"the variable {v}", v) for v in variables]
    everyones = comm.gather_text(json.dumps([*zip(*rows, strict=True)]))
    (here, own), (there, other) = (json.loads(everyones[rank]) for rank in (0, strays[0]))
    at = next(i for i, (a, b) in enumerate(zip_longest(own, other, fillvalue="")) if a != b)
    first, second = (said[at] if at < len(said) else "nothing" for said in (here, there))
    if first == second:  # they differ in attributes, such as a constant's value
        first, second = f"{first}: {_around(own[at], other[at])}", _around(other[at], own[at])
    more = f" ({len(strays)} ranks differ)" if len(strays) > 1 else ""
    # constants that each rank drew by NumPy for itself are the usual cause
    hint, advice = " (give np.random.default_rng a seed)", "Start the same program with the same options on"
    if first.startswith(FED) and second.startswith(FED):
        hint, advice = "", "Feed the same array, or this rank's rows of it as dt.Shard(rows, total), on"
    raise EnvironmentProblem(
        f"the ranks do not agree on the step they are about to run{hint}: {comm.name(0)} has {first}; "
        f"{comm.name(strays[0])} has {second}{more}. {advice} every rank."
    ).on_every_rank()


def _around(line: str, other: str) -> str:
    """The part of a line around where it begins to differ from another."""
    same = next((i for i, (a, b) in enumerate(zip(line, other, strict=False)) if a != b), 0)
    start = max(0, same - 30)
    return f"{'...' if start else ''}{line[start : same + 50]}{'...' if same + 50 < len(line) else ''}"


def check_replicas(comm: Communicator, backend: Backend, graph: Graph, variables: Mapping[str, Any]) -> None:
    """Compare the ranks' copies of variables, by digests. Collective.

    variables: by operation name, those that have values. Memory that all ranks share is one copy: left out.

    Raises:
        ReplicaError: on every rank; names the first variable that differs, and the ranks whose value is not
            that of most.
    """
    one_node = comm.local_size == comm.size and backend.on_host
    own = {
        name: array
        for name, array in variables.items()
        if array.dtype != object and not (one_node and comm.is_shared(array))
    }
    if comm.size == 1 or not own:
        return
    digests = np.array([_digest(backend, a) for a in own.values()], np.int64)
    with np.errstate(over="ignore"):  # different weights, so that two changes do not cancel
        total = int((digests * np.arange(1, 2 * len(own), 2)).sum())
    extremes = comm.allreduce(np.array([total, ~total]), "max")
    if extremes[0] == ~extremes[1]:
        return
    table = comm.allgather(digests[None, :])
    column = int(np.argmax((table != table[0]).any(axis=0)))
    values, counts = np.unique(table[:, column], return_counts=True)
    usual = values[np.argmax(counts)] if counts.max() > 1 else table[0, column]
    ranks = [comm.name(rank) for rank in range(comm.size) if table[rank, column] != usual]
    node = graph.get_operation_by_name(list(own)[column])
    raise ReplicaError(
        f"the ranks' copies of the variable {node.name}{built(node)} are not the same any more: "
        f"{', '.join(ranks)} {'differs' if len(ranks) == 1 else 'differ'} from the others. A processor or "
        "memory that fails does this, or code that changes a variable on some ranks only. Resume from a "
        "checkpoint of before."
    ).on_every_rank()


def _digest(backend: Backend, array: Any) -> int:
    """A sum of an array's bits: one that flips changes it."""
    flat = backend.xp.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = flat.size // 8 * 8
    rest = int.from_bytes(backend.to_host(flat[whole:]).tobytes(), "little")
    total = int(backend.xp.add.reduce(flat[:whole].view(np.uint64))) + rest
    return (total + 2**63) % 2**64 - 2**63
