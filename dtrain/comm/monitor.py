"""The monitor: one small process a node that outlives its ranks, so that someone can say why they ended.

A launcher that notices a dead rank kills the others within milliseconds, and a rank that is stopped, or waits
inside MPI, runs no Python. So neither a thread nor a waiting loop of a rank can be relied on. The monitor
sleeps on the ranks' pids and looks twice a second at the board (comm/board.py), on which each rank keeps
where it is. It ends when they do.

What it sees it says on stderr, once; then it writes a verdict, an exit code, on the board. A thread of each
rank reads that and aborts the job; who is left seconds later is killed. Only the standard library is
imported, so that it starts in milliseconds: `python -ISs monitor.py FD PID` and what a Start holds.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import select
import shlex
import signal
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

# -- the layout of a board: a header, a row for each rank of the node, then a line of JSON for each plan -
HEADER, ROW, MOST_ROWS = 4096, 512, 1024
NBYTES = HEADER + MOST_ROWS * ROW
#: Words of the header, and where its texts are.
#: ELASTIC is 1 where the others continue when a rank is lost.
ROWS, SIZE, VERDICT, WARN_MS, ABORT_MS, ELASTIC = range(6)
HOST, OTHERS, RUN_DIR = (64, 320), (320, 1024), (1024, HEADER)
#: Words of a row. ARRIVALS counts the collectives that the rank has come to; WAITS is 1 while it is in one.
#: CALL is the number of the call that the rank is in, PLAN of the plan run last, TAG what barriers are for.
#: LIFE is the reading end of a pipe, whose other end closes as the rank dies; 0: it has none.
#: COMPILES is not 0 while the rank waits for the C compiler: another number each time.
RANK, PID, STATE, STEP, PLAN, POSITION, ARRIVALS, WAITS, KIND, CALL, TAG, LIFE, COMPILES = range(13)
WORDS = 13
#: What a rank is doing, in words, at these bytes of its row.
DOING = (128, ROW)
#: STATE: at work; at the end of its program; has said itself why it ends; gone.
RUNNING, FINISHED, SPOKEN, LOST_STATE = range(4)
#: KIND: the collective that a rank is in outside of a plan.
KINDS = ("", "allreduce", "broadcast", "allgather", "barrier", "sums by NCCL")
BY_NCCL = KINDS.index("sums by NCCL")

#: How MPICH's and Open MPI's names of files in /dev/shm begin.
SHARED_FILES = ("mpich_", "sm_segment.")
#: Exit codes of what only a monitor sees; errors.py has the table.
USAGE, LOST, STALLED = 2, 7, 8
#: The request for a pidfd's process, and of the answer the bit for how that ended.
GET_INFO, EXIT = 0xC040FF0B, 8
UNKNOWN = "killed, or ended by itself"
#: How those end that a launcher ends.
BY_LAUNCHERS = ("killed by SIGKILL", "killed by SIGTERM", UNKNOWN)
#: Seconds that deaths are gathered before one is said to have caused the others; and those for one that dies.
WINDOW, DYING = 0.15, 2.0
#: Seconds between two looks, and those that a verdict leaves the ranks to end by themselves.
LOOK, GRACE = 0.5, 3.0
#: Seconds for which a rank has to be missing at the start: a launcher starts one after the other.
PATIENCE = 1.5
#: Seconds by which a node that waits for another lets that one name its own rank first.
OTHERS_FIRST = 2.0
#: How much slower time runs for a rank that uses its processor: it may be slow, and is not stopped.
BUSY = 10
#: Seconds that a compiler has before a rank that waits for it is said to be late.
COMPILER = 30.0


class Process(NamedTuple):
    """One that the launcher has started, and its rank."""

    pid: int
    rank: int


class Start(NamedTuple):
    """What the launcher has said: names of its variables for local rank and rank, how many there are."""

    local_rank: str
    rank: str
    local_size: int
    size: int
    abort: float  # seconds for which a rank may be stopped; 0: for ever

    def who(self, process: Process) -> str:
        return f"rank {process.rank} of {self.size} on {os.uname().nodename}, pid {process.pid}"


#: By rank and number: what a call is, and the names of its plan's kernels if it runs one.
Names = dict[tuple[int, int], tuple[str, list[str]]]


class Row(NamedTuple):
    """A rank's row, as it was at one moment."""

    rank: int
    pid: int
    state: int
    step: int
    plan: int
    position: int
    arrivals: int
    waits: int
    kind: int
    called: int
    tag: int
    life: int
    compiles: int
    doing: str

    def call(self, names: Names) -> str:
        """'Sequential.fit (train.py:12)': the call of the program's that the rank is in; '' where in none."""
        return names.get((self.rank, self.called), ("", []))[0]

    def call_or_place(self, names: Names) -> str:
        return self.call(names) or self.place(names)

    def place(self, names: Names) -> str:
        """'step 120, training, #17 AllReduce(hidden_1/kernel)': where the rank is."""
        parts = [f"step {self.step}"] if self.step >= 0 else []
        if self.doing or self.call(names):
            parts.append(self.doing or self.call(names))
        if self.compiles:
            parts.append("compiling kernels")
        elif self.position >= 0:
            known = names.get((self.rank, self.plan), ("", []))[1]
            parts.append(" ".join([f"#{self.position}", *known[self.position : self.position + 1]]))
        elif self.waits:
            parts.append(f"{KINDS[self.kind]} between ranks" if self.kind else "a barrier of ranks")
        return ", ".join(parts) or ("its program" if self.arrivals else "its beginning")


def text_at(memory: mmap.mmap | memoryview, start: int, stop: int) -> str:
    """The text between two bytes of a board."""
    return bytes(memory[start:stop]).split(b"\0", 1)[0].decode(errors="replace")


def how_to_resume(said: str) -> str:
    """The line after a message that says how to resume; '' where there is no checkpoint yet.

    said: a line with the run's folder, and one with what resumes it.
    """
    run_dir, _, resume = said.partition("\n")
    try:
        saved = any(name.endswith(".json") for name in os.listdir(os.path.join(run_dir, "checkpoints")))
    except OSError:
        saved = False
    resume = resume or f"dtrain train --resume {shlex.quote(run_dir)}"
    return f"\n  resume it with: {resume}" if run_dir and saved else ""


def names_in(fd: int) -> Names:
    """What each rank's calls and plans are, and the names of their kernels."""
    found: Names = {}
    for line in os.pread(fd, max(0, os.fstat(fd).st_size - NBYTES), NBYTES).splitlines():
        try:
            rank, number, call, names = json.loads(line)
        except ValueError:  # cut off
            continue
        found[rank, number] = call, names
    return found


def different_calls(places: Iterable[tuple[int, str]]) -> str:
    """The sentence for ranks that wait for one another in different calls: each, and where it is."""
    found: dict[str, list[int]] = {}
    for rank, place in places:
        found.setdefault(place, []).append(rank)
    told = []
    for place, ranks in found.items():
        who = f"ranks {', '.join(map(str, ranks))} are" if len(ranks) > 1 else f"rank {ranks[0]} is"
        told.append(f"{who} in {place}")
    return (
        f"the ranks are in different calls and would wait for one another for ever: {'; '.join(told)}. Every "
        "rank has to make these calls, in the same order: take them out of `if rank == 0`, which may hold "
        "what prints or writes, and give loops the same number of steps on all ranks."
    )


class Monitor:
    """What one node's monitor knows."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.memory = mmap.mmap(fd, NBYTES)
        self.words = memoryview(self.memory).cast("q")
        self.rows: list[Row] = []
        self.alive: set[int] = set()
        self.still: list[float] = []  # seconds for which each rank has not moved
        self.ticks: list[int] = []  # of processor time that each has used
        self.named: set[int] = set()  # who was said to be late; -1 are the other nodes
        self.looked = 0.0
        self.lost: list[tuple[Row, str]] = []  # and how each has ended: from the first on, until judged
        self.judged = 0.0  # when that is
        self.closed: list[int] = []  # ranks whose files are closed, in that order: they die
        self.deaths = select.epoll()  # of all processes that are watched: what came first comes first
        self.processes: dict[int, Process] = {}  # watched before the ranks had met, by pidfd
        self.by_term = False  # whether their launcher ends processes by SIGTERM, as Open MPI's does

    def row(self, i: int) -> Row:
        start = HEADER + i * ROW
        words = self.words[start // 8 : start // 8 + WORDS]
        return Row._make((*words, text_at(self.memory, start + DOING[0], start + DOING[1])))

    # -- its life ----------------------------------------------------------------------------------------
    def wait_for_ranks(self, parent: int, start: Start) -> bool:
        """Whether the ranks have met, and are its to watch; parent: the rank that has started it.

        MPI_Init waits for ever for a rank that has ended before it, which with 0 looks well to its
        launcher. So its processes on this node are watched, found by the variable that numbers them.
        """
        self.by_term = start.rank.startswith("OMPI_")
        try:
            own = os.pidfd_open(parent)
        except OSError:  # it died before this process had begun
            return self.words[ROWS] > 0
        child, launcher = _child(parent, start), 0
        if start.local_size > 1:
            launcher = int((_stat(child) or ["", "0"])[1])
        begun: dict[int, Process] = {}  # by local rank
        deaths, fds, missed, files = self.deaths, self.processes, 0.0, set[str]()
        fds[own] = Process(parent, int(_environ(parent).get(start.rank, "0")))
        deaths.register(own, select.EPOLLIN)
        stopped: dict[int, float] = {}  # seconds, by pid
        while not self.words[ROWS]:
            files |= shared_files(parent)
            for local, process in _processes(launcher, start) if len(begun) < start.local_size else ():
                if local not in begun:
                    try:
                        fds[fd := os.pidfd_open(process.pid)] = process
                    except OSError:  # it is gone
                        continue
                    begun[local] = process
                    deaths.register(fd, select.EPOLLIN)
            ends = [(fds[fd], _how(fds[fd].pid, fd)) for fd, _ in deaths.poll(LOOK / 4)]
            missed = missed + LOOK / 4 if len(begun) < start.local_size else 0.0
            for process in begun.values():
                seconds = stopped.get(process.pid, 0.0) + LOOK / 4
                stopped[process.pid] = seconds if _work(process.pid)[0] in "Tt" else 0.0
            still = next((p for p in begun.values() if 0 < start.abort <= stopped[p.pid]), None)
            if ends:
                # one that ended by an error has said it, and so will those that MPI has not joined with it
                spoke = all(
                    how.startswith("it ended by itself, with ") and how[-2:] != " 0" for _, how in ends
                )
                until = time.monotonic() + (PATIENCE if spoke else WINDOW)
                while not self.words[ROWS] and time.monotonic() < until:
                    time.sleep(WINDOW)
                ends += [(fds[fd], _how(fds[fd].pid, fd)) for fd, _ in deaths.poll(0)]
                process, how = to_blame(ends, self.by_term)
                what = f"{start.who(process)}, has ended ({how})"
                if absent(begun, start) and how in BY_LAUNCHERS:  # which ends all once one has died
                    what = f"{absent(begun, start)} has ended"
            elif still:
                what = f"{start.who(still)}, is stopped"
            elif missed >= PATIENCE and child in (p.pid for p in begun.values()):
                what = (
                    f"{absent(begun, start) or f'a rank of {start.size} on {os.uname().nodename}'} has ended"
                )
            else:
                continue
            if self.words[ROWS]:
                break
            if speaks_for(launcher):
                self.say(
                    f"error: {what} before it joined the others, which would wait for it for ever. Every "
                    "rank has to run the same program."
                )
            unlink(files)
            time.sleep(0.2)
            # in MPI_Init it hears nothing else; its launcher ends the rest
            for pid, number in ((parent, signal.SIGTERM), *([(still.pid, signal.SIGKILL)] if still else [])):
                try:
                    os.kill(pid, number)
                except OSError:
                    pass
            return False
        return self.words[ROWS] > 0

    def watch(self) -> None:
        """Return when no rank of the node is left."""
        count = self.words[ROWS]
        self.host, self.size = text_at(self.memory, *HOST), self.words[SIZE]
        self.rows = [self.row(i) for i in range(count)]
        self.still, self.ticks, self.alive = [0.0] * count, [0] * count, set(range(count))
        deaths = self.deaths
        pids: dict[int, int] = {}
        lives = self.watch_files(deaths)
        known = {process.pid: fd for fd, process in reversed(self.processes.items())}
        for i, row in enumerate(self.rows):
            fd = known.get(row.pid, -1)
            try:
                if fd < 0:
                    deaths.register(fd := os.pidfd_open(row.pid), select.EPOLLIN)
            except OSError:
                self.died(i)
                continue
            pids[fd] = i
        deadline = 0.0
        self.looked = time.monotonic()
        while pids or self.lost:
            for fd, _ in deaths.poll(WINDOW / 4 if self.lost else LOOK):
                deaths.unregister(fd)
                if fd in lives:
                    self.closed.append(lives.pop(fd))
                elif fd in pids:
                    self.died(pids.pop(fd), fd)
                os.close(fd)
            now = time.monotonic()
            dying = self.alive.intersection(self.closed) and now < self.judged + DYING
            if self.lost and now > self.judged and not dying:
                self.judge()
            if not self.words[VERDICT]:
                if now - self.looked >= LOOK / 2:
                    self.look(min(now - self.looked, 2 * LOOK))  # it may have been stopped itself
                    self.looked = now
            elif not deadline:
                deadline = now + GRACE
            elif now > deadline:
                for fd in pids:
                    _kill(fd)

    def watch_files(self, deaths: select.epoll) -> dict[int, int]:
        """Register a pipe of each rank, which closes with its other files; by descriptor the rank's row.

        A launcher kills the others as soon as a rank has closed its files: they may be dead before it is.
        """
        found = {}
        for i, row in enumerate(self.rows):
            try:
                fd = (
                    os.open(f"/proc/{row.pid}/fd/{row.life}", os.O_RDONLY | os.O_NONBLOCK) if row.life else -1
                )
            except OSError:  # it is gone, or in a container of its own
                continue
            if fd >= 0:
                found[fd] = i
                deaths.register(fd, select.EPOLLHUP)
        return found

    # -- speaking ----------------------------------------------------------------------------------------
    def who(self, row: Row) -> str:
        return f"rank {row.rank} of {self.size} on {self.host}, pid {row.pid}"

    def where(self, row: Row) -> str:
        return row.place(names_in(self.fd))

    def say(self, message: str) -> None:
        try:
            os.write(2, f"dtrain: {message}\n".encode())
        except OSError:  # nobody reads
            pass

    def end(self, message: str, code: int) -> None:
        """Say why the job ends, and have it end."""
        if not self.words[VERDICT]:  # else a rank was first, and says it itself
            self.words[VERDICT] = code
            if message:
                self.say(f"error: {message}{how_to_resume(text_at(self.memory, *RUN_DIR))}")

    # -- deaths ------------------------------------------------------------------------------------------
    def died(self, i: int, pidfd: int = -1) -> None:
        """A rank has ended: well, or with words of its own, or lost."""
        row = self.row(i)
        self.alive.discard(i)
        spoken = any(self.row(j).state == SPOKEN for j in range(len(self.rows)))
        if row.state == FINISHED or spoken or self.words[VERDICT]:
            return
        self.words[(HEADER + i * ROW) // 8 + STATE] = LOST_STATE
        if not self.words[ELASTIC]:
            self.judged = self.judged if self.lost else time.monotonic() + WINDOW
            self.lost.append((row, _how(row.pid, pidfd)))

    def judge(self) -> None:
        """Say which of the ranks that were lost has ended the others."""
        order = [self.rows[i].rank for i in self.closed]
        self.lost.sort(key=lambda end: order.index(end[0].rank) if end[0].rank in order else len(order))
        row, how = to_blame(self.lost, self.by_term)
        self.lost = []
        self.end(f"{self.who(row)}, was lost in {self.where(row)}: {how}", LOST)

    # -- in different calls ------------------------------------------------------------------------------
    def apart(self, rows: Sequence[Row]) -> bool:
        """Whether all ranks wait, and for different things: where no barrier has compared them."""
        if len(rows) < self.size or any(row.state != RUNNING or not row.waits for row in rows):
            return False
        return len({row.tag for row in rows}) > 1

    # -- standing still ----------------------------------------------------------------------------------
    def look(self, seconds: float) -> None:
        """Compare where the ranks are, so many seconds after the last look."""
        rows = [self.row(i) for i in range(len(self.rows))]
        stopped = set()
        for i in self.alive:
            state, ticks = _work(rows[i].pid)
            if state in "Tt":
                stopped.add(i)
            if rows[i] != self.rows[i]:
                self.still[i] = 0.0
                if i in self.named:
                    self.named.remove(i)
                    self.say(f"{self.who(rows[i])}, continues")
            else:
                busy = ticks > self.ticks[i] and not rows[i].waits and i not in stopped
                self.still[i] += seconds / BUSY if busy else seconds
            self.ticks[i] = ticks
        self.rows = rows
        working = {i for i in self.alive if rows[i].state == RUNNING}
        waiting = {i for i in working - stopped if rows[i].waits}
        if not waiting:
            return
        if not stopped and self.apart(rows) and min(self.still) >= 2 * LOOK:
            names = names_in(self.fd)
            return self.end(different_calls((row.rank, row.call_or_place(names)) for row in rows), USAGE)
        front = max(waiting, key=lambda i: (rows[i].arrivals, self.still[i]))
        for i in self.alive - working:
            if rows[i].arrivals < rows[front].arrivals and self.still[front] >= 2 * LOOK:
                self.end(
                    f"{self.who(rows[i])}, has ended (sys.exit, or the end of its program) while rank "
                    f"{rows[front].rank} waits for it in {self.where(rows[front])}. Every rank has to make "
                    "the same calls, and loops the same number of steps; `if rank == 0` may hold what prints "
                    "or writes.",
                    LOST,
                )
                return
        behind = {i for i in working - waiting if rows[i].arrivals < rows[front].arrivals} | stopped
        for i in sorted(behind):
            self.late(i, min(self.still[i], self.still[front]), rows[front], i in stopped)
        if not behind and waiting == working:
            self.all_wait(min(self.still[i] for i in waiting), rows[front])

    def late(self, i: int, seconds: float, front: Row, stopped: bool) -> None:
        """A rank has not moved for some seconds while another waits for it."""
        row = self.rows[i]
        warn, limit = self.words[WARN_MS] / 1000, self.words[ABORT_MS] / 1000
        if row.compiles and warn:
            warn = max(warn, COMPILER)
        if not (seconds >= limit > 0) and (i in self.named or not seconds >= warn > 0):
            return
        text = (
            f"{self.who(row)}, has not reached {self.where(front)}, {seconds:.0f} s behind rank {front.rank}"
        )
        text += f": it {'is stopped' if stopped else 'stands'} in {self.where(row)}"
        if seconds >= limit > 0:
            self.end(f"{text}. --stall-abort (DTRAIN_STALL_ABORT) sets how long is too long.", STALLED)
        else:
            self.named.add(i)
            self.say(f"WARNING: {text}")

    def all_wait(self, seconds: float, front: Row) -> None:
        """All ranks of this node wait: for one another, or for a node that may name its own rank first."""
        others = text_at(self.memory, *OTHERS)
        later = OTHERS_FIRST if others else 0.0
        warn, limit = self.words[WARN_MS] / 1000, self.words[ABORT_MS] / 1000
        speaks = not others or any(row.rank == 0 for row in self.rows)
        if seconds < 1:
            self.named.discard(-1)
        if others:
            text = f"the ranks on {self.host} have waited {seconds:.0f} s in {self.where(front)} for {others}"
        else:
            places = "; ".join(f"rank {self.rows[i].rank}: {self.where(self.rows[i])}" for i in self.alive)
            text = f"the ranks have waited {seconds:.0f} s for one another, in different places ({places})"
        if seconds >= limit + later and limit > 0:
            text += ". --stall-abort (DTRAIN_STALL_ABORT) sets how long is too long."
            self.end(text if speaks else "", STALLED)
        elif speaks and -1 not in self.named and seconds >= warn + later and warn > 0:
            self.named.add(-1)
            self.say(f"WARNING: {text}")


def shared_files(pid: int) -> set[str]:
    """Files of MPI libraries under the shared memory of a process."""
    try:
        with open(f"/proc/{pid}/maps") as maps:
            names = {line.split(maxsplit=5)[5].strip() for line in maps if "/dev/shm/" in line}
    except OSError:  # it is gone, or this is not Linux
        return set()
    return {n for n in names if os.path.basename(n).startswith(SHARED_FILES) and not n.endswith(" (deleted)")}


def unlink(files: set[str]) -> None:
    """Remove files, of which another process may have removed some; memory that is mapped stays as it is."""
    for name in files:
        try:
            os.unlink(name)
        except OSError:
            pass


def to_blame(ends: Sequence[tuple[Any, str]], by_term: bool = False) -> tuple[Any, str]:
    """Of processes that have ended, the first first, and how each did: the one that has ended the others.

    by_term: whether their launcher ends them by SIGTERM, at first.

    A launcher kills them as soon as a process has closed its files, which may be before that one counts as
    dead, and is not seen everywhere (see watch_files): where the first was killed, one that has failed by
    itself is meant.
    """
    failed = [end for end in ends if end[1].startswith("killed by") and end[1] not in BY_LAUNCHERS]
    if by_term and ends[0][1] == "killed by SIGTERM":
        failed += [end for end in ends if end[1] == "killed by SIGKILL"]
    return failed[0] if failed and ends[0][1] in BY_LAUNCHERS else ends[0]


def absent(begun: dict[int, Process], start: Start) -> str:
    """The first rank of which no process was found, in words: it had ended before; '' where there is none."""
    if len(begun) == start.local_size or start.local_size != start.size:
        return ""
    known = {process.rank for process in begun.values()}
    rank = next(rank for rank in range(start.size) if rank not in known)
    return f"rank {rank} of {start.size} on {os.uname().nodename}"


def _child(rank: int, start: Start) -> int:
    """The launcher's child that a rank is: itself, or a shell around it."""
    parent = int((_stat(rank) or ["", "0"])[1])
    return _child(parent, start) if start.local_rank in _environ(parent) else rank


def _processes(launcher: int, start: Start) -> Iterator[tuple[int, Process]]:
    """Those that a launcher has started on this node and that have not ended, by local rank."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        state, parent = (_stat(int(name)) or ["X", ""])[:2]
        if parent != str(launcher) or state in "ZX":
            continue
        values = _environ(int(name))
        local, rank = (values.get(variable, "") for variable in (start.local_rank, start.rank))
        if local.isdigit() and rank.isdigit():
            yield int(local), Process(int(name), int(rank))


def _environ(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            pairs = (entry.decode(errors="replace").partition("=") for entry in file.read().split(b"\0"))
            return {name: value for name, _, value in pairs}
    except OSError:
        return {}


def speaks_for(launcher: int) -> bool:
    """Whether this process is the first of a node's monitors to ask, by a name that only one can have."""
    import socket

    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0dtrain-{launcher}")
    except OSError:
        return False
    name.detach()  # held until this process ends
    return True


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _work(pid: int) -> tuple[str, int]:
    """A process's state, one letter, and the ticks of processor time that it has used."""
    fields = _stat(pid)
    return (fields[0], int(fields[11]) + int(fields[12])) if fields else ("X", 0)


def _how(pid: int, pidfd: int = -1) -> str:
    """How a process ended, as far as that can still be seen: Linux 6.15 keeps it for a pidfd."""
    fields = _stat(pid)
    status = int(fields[49]) if len(fields) > 49 and fields[0] == "Z" else -1
    info = bytearray(struct.pack("=Q", EXIT) + bytes(56))
    try:
        fcntl.ioctl(pidfd, GET_INFO, info)
        if struct.unpack_from("=Q", info)[0] & EXIT:
            status = struct.unpack_from("=i", info, 60)[0]
    except (OSError, ValueError):  # not known, or no pidfd
        pass
    if status > 0 and status & 127:
        try:
            return f"killed by {signal.Signals(status & 127).name}"
        except ValueError:
            return f"killed by signal {status & 127}"
    return f"it ended by itself, with {status >> 8}" if status >= 0 else UNKNOWN


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(
            number, signal.SIG_IGN
        )  # a scheduler sends them to all processes; it ends with the ranks
    own = Monitor(int(sys.argv[1]))
    begun = Start._make((*sys.argv[3:5], *map(int, sys.argv[5:7]), float(sys.argv[7])))
    if own.wait_for_ranks(int(sys.argv[2]), begun):
        own.watch()
