"""What every communicator offers. All methods but the properties are collective: every rank calls them."""

from __future__ import annotations

import json
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, TypeVar
from zlib import crc32

import numpy as np

from dtrain import errors
from dtrain.comm.board import Board
from dtrain.comm.link import Link
from dtrain.errors import DtrainError, RemoteError

#: Ranks that differ from rank 0 that a message names, at most.
MOST_TOLD = 4
#: Bytes that are sent with their number, in one message of 64: of more MPICH's take two ways over TCP.
SHORT = 56


F = TypeVar("F", bound=Callable[..., Any])


def every_rank(method: F) -> F:
    """A method that every rank has to call, of an object that has a `comm`: messages name it."""

    @wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.comm.call(f"{type(self).__name__}.{method.__name__}"):
            return method(self, *args, **kwargs)

    return called  # type: ignore[return-value]  # with the same arguments


class Communicator(ABC):
    """A group of ranks that take part in every step.

    rank, size: this rank and the number of ranks.
    local_rank, local_size: the same among the ranks on this node.
    node: the ranks of this node, in order; nodes: how many there are. MPI says so, not the host names.
    hosts: the host name of every rank, in rank order.
    library: name and version of the MPI, or '' without one.
    averaging: how gradients are summed, in a word or two for the report.
    overlap: whether sums may begin before all gradients are there: auto, on or off.
    far: whether a node's ranks run on cores without a common cache, so that what others have read is slow to
        write again.
    device_sums: how their GPUs sum (nccl.DeviceSums), once all ranks are known to have one.
    elastic: whether ranks may die: a collective then raises RanksLost on all others until shrink().
    seconds: time spent inside collectives since the start, waiting for the others included.
    board: where this rank is, which the others of its node can read.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    node: tuple[int, ...] = (0,)
    nodes = 1
    hosts: tuple[str, ...] = (socket.gethostname(),)
    library = ""
    averaging = "none"
    overlap = "off"
    far = False
    device_sums: Any = None
    elastic = False

    def __init__(self) -> None:
        self.clock = np.zeros(1)
        self.board = Board()

    @property
    def seconds(self) -> float:
        return float(self.clock[0])

    @seconds.setter
    def seconds(self, value: float) -> None:
        self.clock[0] = value

    # -- what a kind of communicator has to say -------------------------------------------------------
    @abstractmethod
    def _allreduce(self, array: np.ndarray, op: str) -> None: ...

    @abstractmethod
    def _broadcast(self, array: np.ndarray, root: int) -> None: ...

    @abstractmethod
    def _allgather(self, array: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def abort(self, exit_code: int) -> None:
        """End every rank now. Not collective: one rank is enough."""

    @property
    def is_its_thread(self) -> bool:
        """Whether this thread may call collectives; see check_thread."""
        return True

    def check_thread(self) -> None:
        """Raise UsageError on a thread that may not call collectives: of several ranks one alone does.

        It is the one that made the communicator, as under MPI_THREAD_FUNNELED. Threads take turns differently
        on each rank, so the call of one would meet that of another.
        """
        return

    def finish(self) -> None:
        """At the end of the program: return when the ranks of this node have all come to it."""
        return

    def shrink(self) -> list[str]:
        """After RanksLost: leave out the ranks that died, which it names. Collective over those that live.

        rank, size, hosts and what there is of this node change; the order of the ranks does not.
        """
        return []

    # -- what follows from it --------------------------------------------------------------------------
    def allreduce(self, array: np.ndarray, op: str = "sum") -> np.ndarray:
        """Combine a C-contiguous array element by element over all ranks, in place; op: sum, min or max."""
        begun = self._enter(1)
        self._allreduce(array, op)
        self._leave(begun)
        return array

    def broadcast(self, array: np.ndarray, root: int = 0) -> np.ndarray:
        """Give every rank root's values of a C-contiguous array, in place."""
        begun = self._enter(2)
        self._broadcast(array, root)
        self._leave(begun)
        return array

    def allgather(self, array: np.ndarray) -> np.ndarray:
        """Concatenate the ranks' arrays along axis 0 in rank order; lengths may differ, the rest may not."""
        begun = self._enter(3)
        gathered = self._allgather(np.ascontiguousarray(array))
        self._leave(begun)
        return gathered

    def _enter(self, kind: int) -> float:
        """Come to a collective, an index of monitor.KINDS, which the board says; returns when."""
        self.check_thread()
        begun = time.perf_counter()
        self._compare(kind)
        self.board.enter(kind)
        return begun

    def _compare(self, kind: int) -> None:
        """Raise UsageError where another rank has come to another collective, or is in another call."""
        return

    def call(self, what: str) -> AbstractContextManager[None]:
        """A block that is a call which every rank has to make, such as 'Sequential.fit', for messages."""
        # other threads do what needs no other rank
        return self.board.call(what) if self.size > 1 and self.is_its_thread else nullcontext()

    def _leave(self, begun: float) -> None:
        """Leave the collective come to then: its time counts."""
        self.board.leave()
        self.seconds += time.perf_counter() - begun

    def exchange(self, array: np.ndarray, into: np.ndarray, other: int) -> None:
        """Fill `into` with another rank's array while that gets this one's; a rank may name itself."""
        into[...] = self._allgather(array[np.newaxis])[other]

    def bucket(self, nbytes: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Memory to sum a bucket from and into, as bytes; None where any memory is as good."""
        return None

    def shared(self, nbytes: int) -> np.ndarray | None:
        """Bytes that are one memory for all ranks of a node; None where there is no such memory."""
        return None

    def give_back(self, memory: Sequence[np.ndarray]) -> None:
        """What bucket() and shared() gave is not used by this rank any more. Not collective."""
        return

    def is_shared(self, array: np.ndarray) -> bool:
        """Whether an array lies in memory from shared()."""
        return False

    def part(self, n: int, itemsize: int) -> tuple[int, int]:
        """Half-open range of n entries that this rank works on where the ranks of a node share the work."""
        return 0, n

    def shared_write(self, kernel: Callable[[], Any], parts: bool, before: bool = True) -> Callable[[], Any]:
        """kernel as a write to shared memory: when all have read what it overwrites, before any continues.

        parts: every rank runs it, each on its part(); if not, one rank of the node does.
        before: whether anything may still be reading.
        """
        return kernel

    #: The barrier of this node's ranks in memory that they share; None where there is none.
    node_barrier: Any = None

    #: Whether every rank's part of a bucket is in every other's reach. The same on all ranks.
    shares = False

    def terms(
        self, source: np.ndarray, shapes: Sequence[tuple[int, ...]] | None = None
    ) -> list[np.ndarray] | None:
        """What each rank has where this one has `source`, in a bucket; None if some is out of reach.

        shapes: each rank's, where they differ.
        """
        return None

    def reducer(self, source: np.ndarray, output: np.ndarray) -> Callable[[], Any]:
        """A call that sums source over all ranks into output.

        Both are flat: in the memory of one bucket at the same place, or one and the same array.
        """
        assert source.ctypes.data == output.ctypes.data
        return lambda: self.allreduce(output)

    #: When sums that began early ran beside other work, in ns of perf_counter_ns, and the bytes that this
    #: rank sent to sum; the latest of them.
    aside: Sequence[tuple[int, int, int]] = ()
    #: What sums take here, where some may begin early. The same on all ranks.
    link: Link | None = None

    def begun(
        self, sums: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """Two calls: one begins the sums of such pairs as reducer() takes, one returns when they are done.

        Every rank makes them in the same order; in between it works on what the sums do not touch.
        """
        reducers = [self.reducer(source, output) for source, output in sums]

        def end() -> None:
            for reduce in reducers:
                reduce()

        return (lambda: None), end

    def barrier(self) -> None:
        """Return when every rank has come here."""
        self.allreduce(np.zeros(1, np.int8))

    def broadcast_data(self, value: Any) -> Any:
        """Rank 0's plain data, on every rank, as JSON has it: tuples are lists."""
        return json.loads(self.broadcast_text(json.dumps(value) if self.rank == 0 else ""))

    def broadcast_text(self, text: str, root: int = 0) -> str:
        """Root's text, on every rank."""
        data = np.frombuffer(text.encode(), np.uint8)
        head = np.zeros(8 + SHORT, np.uint8)  # the length, and all of a short text
        head[:8].view(np.int64)[0] = data.size
        head[8 : 8 + min(data.size, SHORT)] = data[:SHORT]
        length = int(self.broadcast(head, root)[:8].view(np.int64)[0])
        if length <= SHORT:
            return head[8 : 8 + length].tobytes().decode()
        buffer = data.copy() if self.rank == root else np.empty(length, np.uint8)
        return self.broadcast(buffer, root).tobytes().decode()

    def node_text(self, text: str) -> str:
        """The text of this node's first rank, on all ranks of the node; every rank of the world calls it."""
        return self.gather_text(text)[self.node[0]]

    def gather_text(self, text: str) -> list[str]:
        """Every rank's text, in rank order, on every rank."""
        data = np.frombuffer(text.encode() + b"\xff", np.uint8)  # a byte that is in no UTF-8
        return [data.decode() for data in self.allgather(data).tobytes().split(b"\xff")[:-1]]

    def agree(self, error: DtrainError | None = None) -> None:
        """Raise on every rank if any rank brings an error: the lowest such rank's. Doubles as a barrier."""
        votes = self.allgather(np.array([error is not None], np.bool_))
        if not votes.any():
            return
        first = int(np.argmax(votes))
        text = f"{type(error).__name__}\n{error}" if self.rank == first else ""
        name, _, message = self.broadcast_text(text, first).partition("\n")
        if not votes.all():
            message = f"rank {first} on {self.hosts[first]}: {message}"
        kind = getattr(errors, name, RemoteError)
        raise kind(message).on_every_rank()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work that may fail on this rank alone: a DtrainError in the block is then raised on every rank."""
        error: DtrainError | None = None
        try:
            yield
        except DtrainError as problem:
            error = problem
        self.agree(error)

    def agree_on(self, what: str, value: str) -> None:
        """Raise on every rank unless all hold the same short text, naming those that differ from rank 0."""
        values = self.gather_text(value)
        strays = [rank for rank, other in enumerate(values) if other != values[0]]
        if strays:
            told = [f"{self.name(rank)} has {values[rank]}" for rank in (0, *strays[:MOST_TOLD])]
            more = f" (and {len(strays) - MOST_TOLD} more ranks differ)" if len(strays) > MOST_TOLD else ""
            raise errors.EnvironmentProblem(
                f"the ranks do not agree on {what}: {', '.join(told)}{more}. Start the same program, the "
                "same version of dtrain and the same options on every rank."
            ).on_every_rank()

    def agree_on_items(self, what: str, items: Mapping[str, Any]) -> None:
        """agree_on for several values at once: one message, and the first that differs is named."""
        texts = [str(value) for value in items.values()]
        digests = self.allgather(np.array([[crc32(text.encode()) for text in texts]], np.int64))
        for name, text, column in zip(items, texts, digests.T, strict=True):
            if (column != column[0]).any():
                self.agree_on(f"{what} {name}", text or "nothing")

    def name(self, rank: int) -> str:
        """A rank for messages: 'rank 1 on n2'."""
        return f"rank {rank} on {self.hosts[rank]}"

    def describe(self) -> str:
        """One phrase for messages: 'rank 1 of 4 on n2, pid 4711'."""
        where = f"on {self.hosts[self.rank]}, pid {os.getpid()}"
        return f"rank {self.rank} of {self.size} {where}" if self.size > 1 else where
