"""The board: where each rank of a node is, in memory that others read even when the rank is stopped.

A step is a known list of kernels, so a rank's place is an index into it: the loop that runs them keeps that
index here, and collectives count arrivals. That costs a store each; the monitor (comm/monitor.py) does the
reading. The memory is a file without a name, so nothing is left over whenever a rank is killed.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np

from dtrain.comm import launcher, monitor

#: Seconds that a rank waits for others to come, so that it can say where they are.
PATIENCE = 0.5
#: Bits of what a barrier is for; a rank's counter of barriers has them after its count (see comm/shared.py).
TAG_BITS = 20
#: The folder of the package, whose own lines are not the program's.
HERE = os.path.dirname(os.path.dirname(__file__)) + os.sep
#: Bytes of names of kernels that a node's ranks put on the board, at most; later plans stay without.
MOST_NAMES = 4 << 20


class Board:
    """This rank's row, and the header of its node. Without memory it is this rank's alone.

    position, arrivals, waits, number (of the step): int64[1] each, in the row (see monitor.py): kernels in C
    write them, too.
    """

    def __init__(self, rows: int = 1, row: int = 0, file: int = -1) -> None:
        self._file = file
        size = monitor.HEADER + rows * monitor.ROW
        self.memory = memoryview(bytearray(size) if file < 0 else mmap.mmap(file, monitor.NBYTES))
        words = self.memory.cast("q")
        starts = [(monitor.HEADER + i * monitor.ROW) // 8 for i in range(rows)]
        self.header = words[: monitor.HOST[0] // 8]
        self.rows = [words[at : at + monitor.WORDS] for at in starts]
        self.row = self.rows[row]
        mine = np.frombuffer(self.memory[8 * starts[row] : 8 * (starts[row] + monitor.WORDS)], np.int64)
        words_in_c = (monitor.POSITION, monitor.ARRIVALS, monitor.WAITS, monitor.STEP)
        self.position, self.arrivals, self.waits, self.number = (mine[word : word + 1] for word in words_in_c)
        at = monitor.HEADER + row * monitor.ROW
        self._doing = at + monitor.DOING[0], at + monitor.DOING[1]
        self.row[monitor.POSITION] = self.row[monitor.STEP] = -1
        self.tag = mine[monitor.TAG : monitor.TAG + 1]
        self._texts: dict[int, tuple[str, list[str]]] = {}  # by the numbers of calls and plans
        self._numbers: dict[str, int] = {}  # of calls
        self._compiled = 0  # how often
        self._apart = False  # this rank ends by that, and stays where it is for the others to see

    # -- what a rank says of itself ----------------------------------------------------------------------
    def enter(self, kind: int = 0) -> None:
        """This rank comes to a collective: an index of monitor.KINDS; 0 for a barrier of a node's ranks."""
        row = self.row
        row[monitor.KIND] = kind
        row[monitor.ARRIVALS] += 1
        row[monitor.WAITS] = 1

    def leave(self) -> None:
        """This rank has left the collective."""
        self.row[monitor.WAITS] = 0

    def step(self, number: int) -> None:
        """The step of training that is in work."""
        self.row[monitor.STEP] = number

    def doing(self, what: str) -> None:
        """What this rank does from now on, in a word or two."""
        self._write(what, *self._doing)

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """This rank waits for a compiler, which uses processor time in a process of its own."""
        self._compiled += 1
        self.row[monitor.COMPILES] = self._compiled
        try:
            yield
        finally:
            self.row[monitor.COMPILES] = 0

    def run_dir(self, path: str, resume: str = "") -> None:
        """The folder of the run, and what resumes it, so that a message can say how; '' for no run."""
        self._write(f"{path}\n{resume}", *monitor.RUN_DIR)

    def state(self, state: int) -> None:
        self.row[monitor.STATE] = state

    def limits(self, warn: float, abort: float) -> None:
        """Seconds after which a rank that others wait for is named, and after which all end; 0: never."""
        self.header[monitor.WARN_MS], self.header[monitor.ABORT_MS] = int(warn * 1000), int(abort * 1000)

    def elastic(self) -> None:
        """From here on the others continue when a rank is lost."""
        self.header[monitor.ELASTIC] = 1

    def describe(self, call: str, names: Sequence[str] = ()) -> int:
        """Say what a call is, and of a new plan's the names of its kernels; returns its number, from 1."""
        number = len(self._texts) + 1
        self._texts[number] = call, list(names)
        if self._file >= 0 and os.fstat(self._file).st_size < monitor.NBYTES + MOST_NAMES:
            line = json.dumps([self.row[monitor.RANK], number, *self._texts[number]]) + "\n"
            os.write(self._file, line.encode())
        return number

    @contextmanager
    def call(self, what: str) -> Iterator[None]:
        """This rank is in a call that every rank has to make: the ranks compare what it is where they meet.

        Of a call within another both count. A message also says where the program calls.
        """
        row = self.row
        outer, tag = row[monitor.CALL], row[monitor.TAG]
        text = f"{self._texts[outer][0]}, in it {what}" if outer else f"{what}{caller()}"
        if text not in self._numbers:
            self._numbers[text] = self.describe(text)
        row[monitor.CALL], row[monitor.TAG] = self._numbers[text], tag_of(what, tag)
        try:
            yield
        finally:
            if not self._apart:
                row[monitor.CALL], row[monitor.TAG] = outer, tag

    def begin(self, plan: int, tag: int) -> None:
        """This rank runs a plan from now on, whose barriers have this tag on all ranks."""
        row = self.row
        row[monitor.TAG] ^= tag
        row[monitor.CALL] = row[monitor.CALL] or plan  # the program knows the outer call

    def end(self, plan: int, tag: int) -> None:
        row = self.row
        if not self._apart:
            row[monitor.TAG] ^= tag
            row[monitor.CALL] *= row[monitor.CALL] != plan

    def _write(self, text: str, start: int, stop: int) -> None:
        data = text.encode()[: stop - start - 1]
        self.memory[start:stop] = data + bytes(stop - start - len(data))

    # -- what others read --------------------------------------------------------------------------------
    @property
    def lost(self) -> list[int]:
        """The ranks of this node that are gone without having said so, as soon as the monitor has seen it."""
        return [row[monitor.RANK] for row in self.rows if row[monitor.STATE] == monitor.LOST_STATE]

    def place(self) -> str:
        """Where this rank is, for a message."""
        row, names = self._own()
        return row.place(names)

    def call_or_place(self) -> str:
        row, names = self._own()
        return row.call_or_place(names)

    def _own(self) -> tuple[monitor.Row, monitor.Names]:
        names = {(self.row[monitor.RANK], number): text for number, text in self._texts.items()}
        return monitor.Row._make((*self.row, monitor.text_at(self.memory, *self._doing))), names

    def different_calls(self) -> str:
        """What is to be said of ranks that have come to different calls, this one among them."""
        self._apart = True
        come, patience = self.row[monitor.ARRIVALS], time.monotonic() + PATIENCE
        while any(r[monitor.ARRIVALS] < come for r in self.rows) and time.monotonic() < patience:
            time.sleep(0.01)
        names = monitor.names_in(self._file) if self._file >= 0 else {}
        rows = [monitor.Row._make((*row, "")) for row in self.rows if row[monitor.ARRIVALS] >= come]
        return monitor.different_calls((row.rank, row.call_or_place(names)) for row in rows)

    def how_to_resume(self, message: str = "") -> str:
        """The line after a message that says how to continue; '' where it is of the run's folder itself."""
        said = monitor.text_at(self.memory, *monitor.RUN_DIR)
        run_dir = said.partition("\n")[0]
        return "" if run_dir and run_dir in message else monitor.how_to_resume(said)


def tag_of(what: str, within: int = 0) -> int:
    """A number for what ranks meet for, such as a call within another: not 0, and equal where that is."""
    return zlib.crc32(what.encode(), within) % (1 << TAG_BITS) or 1


def caller() -> str:
    """' (train.py:12)': the line of the program that has called this package; '' where there is none."""
    frame, _ = _program()
    return f" ({os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno})" if frame is not None else ""


def stacklevel() -> int:
    """That of warnings.warn for the program's line, in the function that calls this."""
    return _program()[1]


def _program() -> tuple[FrameType | None, int]:
    """The first frame that is not of this package, and how far it is from the caller's caller, from 1."""
    frame: FrameType | None
    frame, level = sys._getframe(2), 1
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((HERE, "<frozen")) and not file.endswith("contextlib.py"):
            return frame, level
        frame, level = frame.f_back, level + 1
    return None, 1


def stall_limits() -> tuple[float, float]:
    """Seconds after which a late rank is named, and then ends the job: the environment's, or 10 and 60."""

    def seconds(name: str, default: float) -> float:
        try:
            return max(0.0, float(os.environ.get(name, default)))
        except ValueError:
            return default

    return seconds("DTRAIN_STALL_WARN", 10.0), seconds("DTRAIN_STALL_ABORT", 60.0)


def open_board(started: launcher.Launcher | None) -> int:
    """Make a board's file and start a monitor for it, before the ranks meet; returns the file, -1 for none.

    started: what says which local rank a process is.

    Where the system has no files without names (memfd) or no pidfd there is no monitor: errors still end all
    ranks, but a killed or stopped one is left to the launcher.
    """
    if not (hasattr(os, "memfd_create") and hasattr(os, "pidfd_open")):
        return -1
    try:
        file = os.memfd_create("dtrain-board")
        os.ftruncate(file, monitor.NBYTES)
        command = [sys.executable, "-ISs", monitor.__file__, file, os.getpid()]
        names = (started.local_rank or "-", started.rank) if started else ("-", "-")
        command += [*names, launcher.local_size(), launcher.size(), stall_limits()[1]]
        subprocess.Popen(
            [*map(str, command)],
            pass_fds=[file],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a launcher kills a rank's process group
        ).returncode = 0  # nobody waits for it
    except OSError:  # no more files or processes: training continues without
        return -1
    return file


def leave_board(file: int) -> None:
    """End the monitor of a board that no ranks will join: this process is alone, and says so itself."""
    if file >= 0:
        words = memoryview(mmap.mmap(file, monitor.NBYTES)).cast("q")
        words[monitor.ROWS] = -1


def join_board(node: Any, file: int, rank: int, hosts: Sequence[str]) -> Board:
    """The board of a node's ranks; collective over it. file: what open_board has returned here, or -1."""
    where = np.array([os.getpid() if file >= 0 else 0, file])
    node.Bcast(where)
    pid, number = where.tolist()
    try:
        # opened anew on every rank, so that what it writes goes to the end of the file
        mine = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC) if pid else -1
    except OSError:  # ranks in containers of their own
        mine = -1
    opened = np.empty(node.size, np.bool_)
    node.Allgather(np.array([mine >= 0 and node.size <= monitor.MOST_ROWS]), opened)
    if not opened.all():
        if mine >= 0:
            os.close(mine)
        mine = -1
    board = Board(node.size, node.rank, mine) if mine >= 0 else Board()
    board.row[monitor.RANK], board.row[monitor.PID] = rank, os.getpid()
    if mine >= 0:
        board.row[monitor.LIFE], _ = os.pipe()  # both ends stay open until this process ends
    if node.rank == 0:
        board.header[monitor.SIZE] = len(hosts)
        board._write(hosts[rank], *monitor.HOST)
        if len(hosts) > node.size:
            others = ", ".join(dict.fromkeys(h for h in hosts if h != hosts[rank]))
            board._write(others or "another node", *monitor.OTHERS)
        board.limits(*stall_limits())
    node.Barrier()
    if file >= 0:  # the first rank's monitor is to watch now; any other is not needed
        words = memoryview(mmap.mmap(file, monitor.NBYTES)).cast("q")
        words[monitor.ROWS] = node.size if node.rank == 0 and mine >= 0 else -1
        os.close(file)
    return board
