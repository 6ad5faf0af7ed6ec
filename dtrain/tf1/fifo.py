"""tf.FIFOQueue and tf.RandomShuffleQueue: elements that runs put in and others take out.

No threads fill them: where a run finds too few elements, the enqueue operations of the queue's QueueRunners
are run by it. So the order is the same on every rank, and each time.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dtrain.errors import InvalidArgumentError, OutOfRangeError, UsageError
from dtrain.graph.dtypes import int32
from dtrain.graph.graph import Operation, Tensor, get_default_graph
from dtrain.graph.shape import as_dims
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.sources import add_source, put, start, taken
from dtrain.tf1.iterator import as_string_too
from dtrain.tf1.rows import stacked

__all__ = ["FIFOQueue", "QueueRunner", "RandomShuffleQueue", "add_queue_runner"]


class _Held:
    """What a session has in a queue."""

    def __init__(self) -> None:
        self.elements: list[list[Any]] = []
        self.closed = False
        self.fills = False  # by a run that needs more


class FIFOQueue:
    """A queue of at most `capacity` elements, a tensor of each dtype each: the first in is the first out.

    A run that finds too few elements, or no room, and cannot change that, ends in an error: TensorFlow waits.
    """

    def __init__(
        self,
        capacity: int,
        dtypes: Any,
        shapes: Any = None,
        names: None = None,
        shared_name: str | None = None,
        name: str = "fifo_queue",
    ) -> None:
        if names is not None:
            raise UsageError("a queue's elements are lists of tensors: leave names out.")
        self.dtypes = [as_string_too(d) for d in (dtypes if isinstance(dtypes, list | tuple) else [dtypes])]
        if shapes is None:
            self.shapes: list[Any] = [None] * len(self.dtypes)
        else:
            nested = isinstance(shapes, list | tuple) and shapes and not isinstance(shapes[0], int)
            self.shapes = [as_dims(s) for s in (shapes if nested else [shapes])]
        if len(self.shapes) != len(self.dtypes):
            raise UsageError(f"a queue of {len(self.dtypes)} dtypes has {len(self.shapes)} shapes.")
        self.capacity, self.runners = int(capacity), list[Operation]()
        self._held: weakref.WeakKeyDictionary[Any, _Held] = weakref.WeakKeyDictionary()
        self._graph = get_default_graph()
        self.name = self._name = add_source(name, self)

    # -- operations --------------------------------------------------------------------------------------
    def enqueue(self, vals: Any, name: str | None = None) -> Operation:
        """An operation that puts an element in: a tensor, or a list of them."""
        return put(self._name, self._tensors(vals), name or f"{self._name}_enqueue", False)

    def enqueue_many(self, vals: Any, name: str | None = None) -> Operation:
        """An operation that puts in the rows of tensors, one after another."""
        return put(self._name, self._tensors(vals), name or f"{self._name}_EnqueueMany", True)

    def dequeue(self, name: str | None = None) -> Any:
        """The element that each run takes out: a tensor, or a list of them."""
        return self._taken(self.shapes, name or f"{self._name}_Dequeue", None)

    def dequeue_many(self, n: int, name: str | None = None) -> Any:
        """n elements in one tensor [n, ...], or a list of such."""
        shapes = [None if s is None else (int(n), *s) for s in self.shapes]
        return self._taken(shapes, name or f"{self._name}_DequeueMany", int(n))

    def size(self, name: str | None = None) -> Tensor:
        """How many elements there are before a run."""
        return taken(self._name, [()], [int32], name or f"{self._name}_Size", "size")[0]

    def close(self, cancel_pending_enqueues: bool = False, name: str | None = None) -> Operation:
        """An operation after which nothing is put in; what is left may be taken out."""
        return start(self._name, name or f"{self._name}_Close")

    def _tensors(self, vals: Any) -> list[Tensor]:
        given = list(vals) if isinstance(vals, list | tuple) else [vals]
        if len(given) != len(self.dtypes):
            raise UsageError(
                f"{self._name}: an element has {len(self.dtypes)} parts, and {len(given)} are given."
            )
        return [convert_to_tensor(value, dtype) for value, dtype in zip(given, self.dtypes, strict=True)]

    def _taken(self, shapes: Sequence[Any], name: str, argument: Any) -> Any:
        tensors = taken(self._name, shapes, self.dtypes, name, argument)
        return tensors[0] if len(tensors) == 1 else tensors

    # -- as a source of a session (ops/sources.py) -------------------------------------------------------
    def start(self, session: Any, feeds: Mapping[Tensor, Any], argument: Any) -> None:
        self._of(session).closed = True

    def take(self, session: Any, feeds: Mapping[Tensor, Any], argument: Any) -> Sequence[Any]:
        held = self._of(session)
        if argument == "size":
            return [np.int32(len(held.elements))]
        wanted = 1 if argument is None else argument
        self._fill(session, held, wanted)
        rows = [self._next(session, held.elements) for _ in range(wanted)]
        return rows[0] if argument is None else [stacked(column) for column in zip(*rows, strict=True)]

    def put(self, session: Any, values: Sequence[Any], argument: Any) -> None:
        held = self._of(session)
        if held.closed:
            raise InvalidArgumentError(f"{self._name} is closed: nothing is put in any more.")
        rows = [list(row) for row in zip(*values, strict=True)] if argument else [list(values)]
        # many rows of a QueueRunner may be more: in TensorFlow they wait
        if not held.fills and len(held.elements) + len(rows) > self.capacity:
            raise InvalidArgumentError(
                f"{self._name} has no room for {len(rows)} more: it has {len(held.elements)} elements of "
                f"{self.capacity}. Take some out first, or give it a larger capacity."
            )
        held.elements += rows

    def _of(self, session: Any) -> _Held:
        return self._held.setdefault(session, _Held())

    def _least(self) -> int:
        """How many elements stay in while it is filled."""
        return 0

    def _fill(self, session: Any, held: _Held, wanted: int) -> None:
        """Run the runners until there are as many elements as wanted."""
        runners = itertools.cycle(self.runners)
        while not held.closed and len(held.elements) < wanted + self._least() and self.runners:
            before = len(held.elements)
            held.fills = True
            try:
                session.run(next(runners))
            except OutOfRangeError:
                held.closed = True
            finally:
                held.fills = False
            if not held.closed and len(held.elements) <= before:
                break
        if len(held.elements) < wanted:
            if held.closed:
                error = OutOfRangeError(
                    f"{self._name} is closed and has insufficient elements (requested {wanted}, current size "
                    f"{len(held.elements)})."
                )
                error.agreed = True
                raise error
            raise InvalidArgumentError(
                f"{self._name} has {len(held.elements)} elements, {wanted} are to be taken out, and there is "
                "no QueueRunner to fill it: run its enqueue operation first."
            )

    def _next(self, session: Any, elements: list[list[Any]]) -> list[Any]:
        return elements.pop(0)


class RandomShuffleQueue(FIFOQueue):
    """A queue of which any element may come out next; min_after_dequeue stay in while more are to come."""

    def __init__(
        self,
        capacity: int,
        min_after_dequeue: int,
        dtypes: Any,
        shapes: Any = None,
        names: None = None,
        seed: int | None = None,
        shared_name: str | None = None,
        name: str = "random_shuffle_queue",
    ) -> None:
        super().__init__(capacity, dtypes, shapes, names, shared_name, name)
        self._stays = int(min_after_dequeue)
        self._seed = self._graph.op_seed() if seed is None else int(seed)

    def _least(self) -> int:
        return self._stays

    def _next(self, session: Any, elements: list[list[Any]]) -> list[Any]:
        random = session.draws.stream(self._name, self._seed)()
        return elements.pop(int(random.integers(len(elements))))


class QueueRunner:
    """Enqueue operations that fill a queue where a run finds too few elements in it."""

    def __init__(
        self,
        queue: Any = None,
        enqueue_ops: Sequence[Any] | None = None,
        close_op: Any = None,
        cancel_op: Any = None,
        queue_closed_exception_types: Any = None,
    ) -> None:
        if not isinstance(queue, FIFOQueue) or not enqueue_ops:
            raise UsageError(
                "QueueRunner: give a FIFOQueue or RandomShuffleQueue, and its enqueue operations."
            )
        self.queue, self.enqueue_ops = queue, list(enqueue_ops)
        queue.runners += dict.fromkeys(self.enqueue_ops)

    @property
    def name(self) -> str:
        """The queue's name."""
        return self.queue.name

    def create_threads(
        self, sess: Any, coord: Any = None, daemon: bool = False, start: bool = False
    ) -> list[Any]:
        """[]: there are no threads; the queue is filled when something is taken out of it."""
        return []


def add_queue_runner(qr: QueueRunner, collection: str = "queue_runners") -> None:
    """Collect a QueueRunner, which works without it."""
    get_default_graph().add_to_collection(collection, qr)
