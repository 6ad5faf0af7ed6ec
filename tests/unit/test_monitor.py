"""Dying together: jobs in which a rank is killed, leaves or is stopped; what the monitor says of a board."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dtrain.comm import monitor
from dtrain.comm.board import Board

FAULTY = "tests.faults.faulty"
OPTIONS = ("--dataset", "synthetic", "--epochs", 2, "--no-tensorboard")

linux = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the monitor needs pidfd and memfd")


def said(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith("dtrain: ")]
    return [line for line in lines if "OPENBLAS_" not in line]  # what the tests' environment is warned of


def path_to(folder: Path) -> str:
    """PYTHONPATH for a program in a folder that imports this dtrain."""
    return os.pathsep.join([str(folder), str(Path(monitor.__file__).parents[2])])


@linux
@pytest.mark.parametrize(
    ("kind", "rank", "phase", "codes", "what"),
    [
        ("kill", 1, "allreduce", {7, 9, 137}, r"was lost in step \d+, training, #\d+ \w+\(.*: killed"),
        (
            "kill",
            0,
            "beside",
            {7, 9, 137},
            r"was lost in step 5, .*#\d+ BeginAllReduce\(.*: killed",
        ),
        ("exit", 0, "forward", {7}, r"in step 5, training, .*: sys\.exit\(0\) was called before the end"),
        ("exception", 1, "saving", {1}, r"in step 20, saving: stopped|in step 20, .* by RuntimeError"),
    ],
)
def test_one_message_names_the_rank_that_ends(
    mpirun: Callable[..., Any], kind: str, rank: int, phase: str, codes: set[int], what: str
) -> None:
    early = ("--average", "mpi", "--overlap") if phase == "beside" else ()
    run = mpirun(2, [kind, rank, phase, *OPTIONS, *early], module=FAULTY)
    at = re.search(r"fault at .* in pid (\d+)", run.stderr)
    assert at and run.rc in codes, run
    (message,) = said(run.stderr)
    assert f"rank {rank} of 2 on" in message and f"pid {at[1]}" in message
    assert re.search(what, message), message


@linux
@pytest.mark.parametrize("met", [0, 1])
def test_a_monitor_that_begins_behind_the_death_of_its_rank_watches_if_the_ranks_had_met(met: int) -> None:
    file = os.memfd_create("board")
    os.ftruncate(file, monitor.NBYTES)
    dead = subprocess.Popen(["true"])
    dead.wait()
    late = monitor.Monitor(file)
    late.words[monitor.ROWS] = met
    assert late.wait_for_ranks(dead.pid, monitor.Start("-", "-", 0, 2, 0)) == bool(met)
    os.close(file)


@linux
def test_a_stopped_rank_is_named_and_then_ends_all(mpirun: Callable[..., Any]) -> None:
    run = mpirun(2, ["stop", 1, "forward", *OPTIONS, "--stall-warn", 1, "--stall-abort", 2.5], module=FAULTY)
    assert run.rc == 8, run
    warning, error = said(run.stderr)
    assert re.match(
        r"dtrain: WARNING: rank 1 of 2 on \S+, pid \d+, has not reached step 5, training, #\d+", warning
    )
    assert re.match(r"dtrain: error: rank 1 of 2 on .* s behind rank 0: it is stopped in step 5", error)


@linux
def test_a_slow_rank_is_no_fault(mpirun: Callable[..., Any]) -> None:
    """Each kernel takes 10 ms longer: more than 20 times as long, and in all more than --stall-abort."""
    options = (
        "--dataset",
        "synthetic",
        "--epochs",
        1,
        "--batch-size",
        250,
        "--no-tensorboard",
        "--stall-warn",
        1,
        "--stall-abort",
        2,
    )
    run = mpirun(2, ["slow", 1, "0.01", *options], module=FAULTY, deadline=60)
    assert run.rc == 0 and not said(run.stderr) and run.seconds > 3, run


@linux
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_never_joins_is_told(mpirun: Callable[..., Any], tmp_path: Path, rank: int) -> None:
    """MPI_Init would wait for it for ever, or the launcher says so itself."""
    (tmp_path / "early.py").write_text(
        "import sys\nfrom dtrain import comm\n"
        "if comm.launcher.rank() == int(sys.argv[1]):\n    sys.exit(0)\ncomm.world()\n"
    )
    run = mpirun(2, [rank], module="early", env={"PYTHONPATH": path_to(tmp_path)})
    assert run.rc != 0 and ("before it joined" in run.stderr or "before exiting" in run.stderr), run


@linux
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "SIGSTOP"])
def test_a_rank_that_is_killed_or_stopped_before_it_joins_is_named(
    mpirun: Callable[..., Any], tmp_path: Path, how: str
) -> None:
    (tmp_path / "early.py").write_text(
        "import os, signal, sys, time\nfrom dtrain import comm\n"
        f"if comm.launcher.rank() == 1:\n    time.sleep(2.5); os.kill(os.getpid(), signal.{how})\n"
        "comm.world()\n"
    )
    run = mpirun(3, [], module="early", env={"PYTHONPATH": path_to(tmp_path), "DTRAIN_STALL_ABORT": "1"})
    (message,) = said(run.stderr)
    assert run.rc != 0 and re.search(r"rank 1 of 3 on \S+, pid \d+, (has ended|is stopped)", message), run


@linux
@pytest.mark.parametrize("thread", [False, True])
def test_os_exit_0_is_no_end_of_a_job(mpirun: Callable[..., Any], tmp_path: Path, thread: bool) -> None:
    (tmp_path / "early.py").write_text(
        "import os, threading\nimport numpy as np\nfrom dtrain import comm\nworld = comm.world()\n"
        "if world.rank == 1:\n"
        f"    threading.Thread(target=os._exit, args=(0,)).start() if {thread} else os._exit(0)\n"
        "while True: world.allreduce(np.ones(3))\n"
    )
    run = mpirun(2, [], module="early", env={"PYTHONPATH": path_to(tmp_path)})
    (message,) = said(run.stderr)
    assert run.rc == 7 and re.search(r"rank 1 of 2 on .*(has ended|os\._exit\(0\) was called)", message), run


@linux
def test_os_exit_with_a_code_is_said_by_the_rank_itself(mpirun: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(
        "import os\nimport numpy as np\nfrom dtrain import comm\nworld = comm.world()\n"
        "if world.rank == 1: os._exit(3)\nwhile True: world.allreduce(np.ones(3))\n"
    )
    run = mpirun(2, [], module="early", env={"PYTHONPATH": path_to(tmp_path)})
    (message,) = said(run.stderr)
    assert run.rc == 3 and re.search(r"error on rank 1 of 2 on .*: os\._exit\(3\) was called", message), run


def test_of_several_deaths_the_one_that_was_no_launchers_is_meant() -> None:
    killed, failed, left = "killed by SIGKILL", "killed by SIGSEGV", "it ended by itself, with 3"
    assert monitor.to_blame([(1, killed), (2, killed), (0, failed)]) == (0, failed)
    assert monitor.to_blame([(1, monitor.UNKNOWN), (0, failed)]) == (0, failed)
    assert monitor.to_blame([(1, killed), (2, left)]) == (1, killed)  # an MPI ends with a code of its own
    assert monitor.to_blame([(1, left), (2, failed)]) == (1, left)
    terminated = "killed by SIGTERM"  # so Open MPI's launcher ends the others
    assert monitor.to_blame([(0, terminated), (1, killed)], by_term=True) == (1, killed)
    assert monitor.to_blame([(0, terminated), (1, killed)]) == (0, terminated)
    assert monitor.to_blame([(0, terminated), (1, terminated)], by_term=True) == (0, terminated)


@linux
def test_a_rank_that_leaves_a_program_early_is_told(mpirun: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(
        "import sys\nimport numpy as np\nfrom dtrain import comm\nworld = comm.world()\n"
        "if world.rank == 1: sys.exit(0)\nworld.allreduce(np.ones(3))\n"
    )
    run = mpirun(2, [], module="early", env={"PYTHONPATH": path_to(tmp_path)})
    (message,) = said(run.stderr)
    assert run.rc == 7 and re.search(
        r"rank 1 of 2 on .* has ended \(sys.exit, or .* while rank 0 waits", message
    )


# -- the monitor alone -------------------------------------------------------------------------------------
class Node:
    """A board of three ranks, each a process that sleeps, and a monitor that looks when it is told."""

    def __init__(self) -> None:
        file = os.memfd_create("test")
        os.ftruncate(file, monitor.NBYTES)
        self.processes = [
            subprocess.Popen([sys.executable, "-ISsc", "import time; time.sleep(60)"]) for _ in range(3)
        ]
        copies = [os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_APPEND) for _ in range(3)]
        self.boards = [Board(3, i, copy) for i, copy in enumerate(copies)]
        for i, (board, process) in enumerate(zip(self.boards, self.processes, strict=True)):
            board.row[monitor.RANK], board.row[monitor.PID] = i, process.pid
        self.boards[0].limits(10, 60)
        header = self.boards[0].header
        header[monitor.SIZE], header[monitor.ROWS] = 3, 3
        self.monitor = monitor.Monitor(file)
        self.monitor.host, self.monitor.size = "n1", 3
        self.monitor.rows = [self.monitor.row(i) for i in range(3)]
        self.monitor.still, self.monitor.ticks, self.monitor.alive = [0.0] * 3, [1 << 40] * 3, {0, 1, 2}
        self.words: list[str] = []
        self.monitor.say = self.words.append  # type: ignore[method-assign]

    def look(self, seconds: float) -> list[str]:
        """What is said while so many seconds go by."""
        self.words.clear()
        for _ in range(round(2 * seconds)):
            self.monitor.look(0.5)
        return list(self.words)


@pytest.fixture
def node() -> Iterator[Node]:
    if not hasattr(os, "pidfd_open"):
        pytest.skip("the monitor needs pidfd and memfd")
    node = Node()
    yield node
    for process in node.processes:
        process.kill()
        process.wait()


def test_who_does_not_come_is_named_once_goes_on_and_is_named_again(node: Node) -> None:
    for i in (0, 2):
        node.boards[i].enter(1)
    assert node.look(9) == []
    (warning,) = node.look(20)
    assert warning.startswith("WARNING: rank 1 of 3 on n1, pid ")
    assert (
        "has not reached allreduce between ranks, 10 s behind rank 0: it stands in its beginning" in warning
    )
    node.boards[1].step(7)
    assert [w.rpartition(", ")[2] for w in node.look(1)] == ["continues"]
    assert len(node.look(15)) == 1
    (error,) = node.look(60)
    assert error.startswith("error: rank 1 of 3") and "60 s behind" in error
    assert node.boards[2].header[monitor.VERDICT] == monitor.STALLED


def test_nobody_is_late_where_nobody_waits(node: Node) -> None:
    assert node.look(300) == []


def test_a_rank_that_moves_is_not_late(node: Node) -> None:
    number = node.boards[1].describe("Session.run(loss)", ["MatMul(a)", "Relu(b)"])
    node.boards[0].enter()
    node.boards[2].enter()
    for turn in range(50):
        node.boards[1].row[monitor.PLAN], node.boards[1].row[monitor.POSITION] = number, turn % 2
        assert node.look(5) == []
    (warning,) = node.look(10)
    assert "stands in #1 Relu(b)" in warning


def test_a_rank_that_computes_has_ten_times_as_long(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.boards[0].enter(2)
    ticks = iter(range(1 << 41, 1 << 42))
    monkeypatch.setattr(monitor, "_work", lambda pid: ("R", next(ticks)))
    assert node.look(99) == []
    assert len(node.look(110)) == 2  # both that do not come


def test_a_rank_that_compiles_is_named_late_and_a_compiler_that_hangs_ends_the_job(node: Node) -> None:
    node.boards[0].enter(2)
    node.boards[2].enter(2)
    node.boards[1].doing("training")
    for _ in range(3):
        with node.boards[1].compiling():
            assert node.look(29) == []
    assert node.look(9) == []
    with node.boards[1].compiling():
        (warning,) = node.look(40)
        assert "30 s behind rank 0: it stands in training, compiling kernels" in warning
        (error,) = node.look(25)
        assert "60 s behind" in error and "compiling kernels" in error
    assert node.boards[0].header[monitor.VERDICT] == monitor.STALLED


@linux
def test_others_wait_for_a_slow_compiler_without_a_word(mpirun: Callable[..., Any], tmp_path: Path) -> None:
    """For the sources of a start and of a plan; one that hangs is named with what it does."""
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nsleep $SLOW\nexec gcc "$@" -O0\n')
    compiler.chmod(0o755)
    (tmp_path / "small.py").write_text(
        "import numpy as np\nimport dtrain as dt\nx = dt.placeholder('float32', [None, 3])\n"
        "print(dt.Session().run(dt.reduce_sum(dt.exp(x)), {x: np.ones((8, 3), np.float32)}))\n"
    )
    env = {"CC": str(compiler), "PYTHONPATH": path_to(tmp_path), "DTRAIN_STALL_WARN": "0.6"}
    run = mpirun(2, [], module="small", env=env | {"SLOW": "1.2", "XDG_CACHE_HOME": str(tmp_path / "a")})
    assert run.rc == 0 and said(run.stderr) == [], run
    env |= {"SLOW": "30", "XDG_CACHE_HOME": str(tmp_path / "b"), "DTRAIN_STALL_ABORT": "1.5"}
    run = mpirun(2, [], module="small", env=env)
    assert run.rc == 8, run
    (error,) = said(run.stderr)
    assert "it stands in Session.run" in error and "compiling kernels. --stall-abort" in error


def test_a_rank_that_has_ended_is_not_waited_for(node: Node) -> None:
    node.boards[2].state(monitor.FINISHED)
    node.boards[0].enter(3)
    (error,) = node.look(3)
    assert (
        "rank 2 of 3" in error and "has ended" in error and "while rank 0 waits for it in allgather" in error
    )
    assert node.boards[0].header[monitor.VERDICT] == monitor.LOST


def test_a_death_is_told_once_with_the_way_to_go_on(node: Node, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    node.boards[0].run_dir(str(tmp_path))
    node.boards[1].doing("evaluation")
    node.processes[1].kill()
    node.processes[1].wait()
    node.monitor.died(1)
    node.monitor.died(2)
    assert node.words == []  # a moment later it is judged which of them has ended the others
    node.monitor.judge()
    (error,) = node.words
    assert "rank 1 of 3 on n1" in error and "was lost in evaluation: " in error and "go on with" not in error
    assert node.boards[0].lost == [1, 2]
    (tmp_path / "checkpoints" / "step-1.json").touch()
    assert f"dtrain train --resume {tmp_path}" in node.boards[2].how_to_resume()


def test_the_rank_that_closes_its_files_first_is_meant_though_another_is_dead_before(node: Node) -> None:
    program = (
        "import os, sys, time\nr, w = os.pipe()\nprint(r, flush=True)\nsys.stdin.readline()\n"
        "os.close(w)\ntime.sleep(float(sys.argv[1]))\nos.kill(os.getpid(), 9)"
    )
    dying = []
    for rank, seconds in ((1, 0.4), (0, 0.0)):  # rank 1 takes long to die: it frees much memory
        process = subprocess.Popen(
            [sys.executable, "-ISsc", program, str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None and process.stdout is not None
        row = node.boards[rank].row
        row[monitor.PID], row[monitor.LIFE] = process.pid, int(process.stdout.readline())
        dying.append(process)
    watch = threading.Thread(target=node.monitor.watch)
    watch.start()
    time.sleep(0.1)
    for process in dying:
        process.stdin.write(b"\n")
        process.stdin.flush()
        time.sleep(0.05)
    node.processes[2].kill()
    watch.join(10)
    (error,) = node.words
    assert "rank 1 of 3" in error and "killed by SIGKILL" in error
    for process in dying:
        process.communicate()


def test_another_node_is_named_where_all_of_this_one_wait(node: Node) -> None:
    node.boards[0]._write("n2", *monitor.OTHERS)
    for board in node.boards:
        board.enter(4)
    assert node.look(11) == []
    (warning,) = node.look(5)
    assert warning == "WARNING: the ranks on n1 have waited 12 s in barrier between ranks for n2"
    (error,) = node.look(60)
    assert node.boards[0].header[monitor.VERDICT] == monitor.STALLED and "62 s" in error


@linux
def test_how_a_process_ended_is_known_as_long_as_it_is_there() -> None:
    for code, how in (
        ("os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("os._exit(3)", "by itself, with 3"),
    ):
        process = subprocess.Popen([sys.executable, "-c", f"import os; {code}"])
        pidfd = os.pidfd_open(process.pid)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        assert how in monitor._how(process.pid)
        process.wait()
        assert how in monitor._how(process.pid, pidfd) or monitor._how(process.pid, pidfd) == monitor.UNKNOWN
        os.close(pidfd)
