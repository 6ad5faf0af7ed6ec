"""What people see of a run: a bar on a terminal, lines in a log, each warning once, a log file a rank."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dtrain
from dtrain.comm.single import SingleCommunicator
from dtrain.errors import EnvironmentProblem, UsageError
from dtrain.train import rank_log
from dtrain.train.rank_log import RankLog

#: `dtrain` on 505 examples of noise, with warnings from the library that it is. `fail` is a rank that does.
PROGRAM = """
import logging, sys, time, warnings
import numpy as np
from dtrain import cli, comm
from dtrain.task import trainer
from dtrain.data import Dataset

fail = int(sys.argv.pop(1))

def load(name, comm, *more):
    warnings.warn("the data is noise")
    if comm.rank == 1:
        logging.getLogger("disk").warning("slow\\nvery")
        print("a line of rank 1's own")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (555, 28, 28)).astype(np.uint8)
    labels = generator.integers(0, 10, 555).astype(np.uint8)
    parts = {"train": range(505), "test": range(505, 555), "classes": ("0",) * 10}
    return Dataset("noise", "generated", "", images, labels, **parts)

def save(*args):
    if comm.world().rank == fail:
        logging.getLogger("disk").warning("worn out")
        raise RuntimeError("the disk is on fire")
    original(*args)

original = trainer.Checkpoints.save
trainer.load, trainer.Checkpoints.save = load, save
sys.exit(cli.main(sys.argv[1:]))
"""
OPTIONS = ["train", "--model", "logistic", "--epochs", "2", "--no-tensorboard", "--run-dir", "run"]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def on_a_terminal(command: list[str], cwd: Path, columns: int, **environ: str) -> str:
    """What a command writes to a terminal so many columns wide, stderr included; it has to end well."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    hidden = ("DTRAIN_TERMINAL", "COLUMNS", "LINES", "PMI_RANK", "OMPI_COMM_WORLD_RANK")
    env = {k: v for k, v in os.environ.items() if k not in hidden} | {"TERM": "xterm"} | environ
    env["PYTHONPATH"] = str(Path(dtrain.__file__).parents[1])
    written = b""
    with subprocess.Popen(command, cwd=cwd, stdin=its, stdout=its, stderr=its, env=env) as process:
        os.close(its)
        while True:
            try:
                part = os.read(mine, 65536)
            except OSError:  # Linux's word for the end
                break
            if not part:
                break
            written += part
    os.close(mine)
    assert process.returncode == 0, written.decode()
    return written.decode()


def screen(text: str) -> list[str]:
    """The lines that stay on a terminal of endless width."""
    lines, column = [""], 0
    for character in text:
        if character == "\n":
            lines.append("")
            column = 0
        elif character == "\r":
            column = 0
        else:
            lines[-1] = lines[-1][:column].ljust(column) + character + lines[-1][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("columns", [71, 200])
def test_a_terminal_shows_a_bar_that_goes_without_a_trace(
    columns: int, program: Path, tmp_path: Path, blas_warning: str
) -> None:
    options = ["--batch-size", "1", "--log-dir", "logs"]
    command = [sys.executable, str(program), "-1", *OPTIONS, *options]
    text = on_a_terminal(command, tmp_path, columns, TQDM_MININTERVAL="0")  # each step, however fast
    bars = [part for part in re.split("[\r\n]", text) if re.match(r"epoch [12]/2 +\d+%\|", part)]
    assert len(bars) > 1000 and all(len(bar) < min(columns, 100) for bar in bars)
    assert any(
        re.fullmatch(r"epoch 1/2 +\d+%\|.*\| \d+/505, \d\d:\d\d left, run \d\d:\d\d, loss \d\.\d{4}", bar)
        for bar in bars
    )
    lines = [line for line in screen(text) if line != blas_warning.rstrip()]
    assert not any("|" in line or "left" in line for line in lines)
    assert [line[:9] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    header = lines.index("  run      run")
    warning = lines[header + 1 : header + 2]
    assert [line for line in lines if line.startswith("dtrain: W")] == warning, "before the first bar"
    assert "iteration" not in "".join(lines[header + 1 :]), "where there is a bar there are no such lines"
    kept = (tmp_path / "logs" / "rank-0.log").read_text()
    assert "|" not in kept and kept.count("  epoch ") == 2


def test_a_terminal_that_cannot_go_back_gets_lines(program: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(program), "-1", *OPTIONS, "--log-every", "3"]
    lines = on_a_terminal(command, tmp_path, 80, TERM="dumb").split("\r\n")
    assert [line[:29].strip() for line in lines if "iteration " in line and "loss" in line] == [
        f"epoch {epoch}/2  iteration {i}/6  l" for epoch in (1, 2) for i in (3, 6)
    ]
    assert not any("\r" in line or "%|" in line for line in lines)


def test_ranks_warn_once_and_each_keeps_a_log(
    program: Path, tmp_path: Path, mpirun: Callable[..., Any], blas_warning: str
) -> None:
    done = mpirun(
        3,
        ["-1", *OPTIONS, "--log-dir", "logs"],
        module="program",
        env=path_to(program, DTRAIN_TERMINAL="1", TQDM_MININTERVAL="0"),
    )
    assert done.rc == 0, done.stderr
    assert re.search(r"\nepoch 1/2 +\d+%\|.*\| 5/6, .* left", done.stdout), (
        "launch/local says that it is a terminal"
    )
    own, *warned = sorted(done.stderr.replace(blas_warning, "").splitlines(), key=lambda line: "all" in line)
    assert own == "dtrain: WARNING on rank 1: disk: slow very"
    assert len(warned) == 1
    assert re.fullmatch(
        r"dtrain: WARNING on all 3 ranks: \S+program.py:\d+: UserWarning: the data is noise", warned[0]
    )
    logs = [(tmp_path / "logs" / f"rank-{rank}.log").read_text() for rank in range(3)]
    for rank, log in enumerate(logs):
        assert f"rank {rank} of 3 on" in log and "program.py train --model logistic" in log
        assert log.count("the data is noise") == (2 if rank == 0 else 1), "rank 0's has what it printed, too"
        assert re.search(r"after epoch 1/2, step 6: .*\n(.*\n)*.*after epoch 2/2, step 12: ", log)
        assert log.endswith("  ended well\n")
        assert ("a line of rank 1's own" in log) == (rank == 1)
    assert "generated: 505 training" in logs[0] and "generated: 505 training" not in logs[1]


def test_the_log_of_a_rank_that_fails_says_why(
    program: Path, tmp_path: Path, mpirun: Callable[..., Any]
) -> None:
    done = mpirun(2, ["1", *OPTIONS, "--log-dir", "logs"], module="program", env=path_to(program))
    assert done.rc != 0
    assert done.stderr.count("RuntimeError: the disk is on fire") == 1
    assert "dtrain: WARNING on rank 1: disk: worn out\n" in done.stderr
    log = (tmp_path / "logs" / "rank-1.log").read_text()
    assert re.search(r"ended by an error:\n.*Traceback(.*\n)+.*RuntimeError: the disk is on fire\n$", log)


def path_to(program: Path, **more: str) -> dict[str, str]:
    root = str(Path(dtrain.__file__).parents[1])
    return {"PYTHONPATH": f"{program.parent}{os.pathsep}{root}", **more}


# -- RankLog by itself -------------------------------------------------------------------------------------
FACTS = {"epochs": 2, "iterations_per_epoch": 10}


def test_what_ranks_say_is_told_with_the_ranks_and_never_twice(
    on_threads: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def body(comm: Any) -> None:
        log = RankLog(comm)
        for _ in range(2):
            log.hear("alike", True)
            log.hear("not worth it", False)
            if comm.rank in (0, 2, 3):
                log.hear("some", True)
        log.header(**FACTS)
        log.hear("alike", True)
        if comm.rank == 3:
            for i in range(rank_log.MOST + 7):
                log.hear(f"different {i}", True)
        log.epoch(epoch=1)

    on_threads(4, body)
    out, err = capsys.readouterr()
    assert out == ""
    many = [f"dtrain: WARNING on rank 3: different {i}" for i in range(rank_log.MOST)]
    assert err.splitlines() == [
        "dtrain: WARNING on all 4 ranks: alike",
        "dtrain: WARNING on ranks 0, 2-3: some",
        *many,
        "dtrain: WARNING on rank 3: 7 more warnings",
    ]


def test_it_hears_what_is_said_and_leaves_no_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (sys.stdout, sys.stderr, warnings.showwarning, list(logging.getLogger().handlers))
    with RankLog(SingleCommunicator(), str(tmp_path / "new" / "logs")) as log, warnings.catch_warnings():
        warnings.simplefilter("always")
        log.header(**FACTS)
        warnings.warn("careful", stacklevel=1)
        logging.getLogger("disk").warning("%d sectors", 3)
        logging.getLogger("disk").info("fine")
        print("half", end="")
        print(" a line\nand one more")
        print("\r 10%|#    |", end="")
        print("for people", file=sys.stderr)
    assert before == (sys.stdout, sys.stderr, warnings.showwarning, list(logging.getLogger().handlers))
    out, err = capsys.readouterr()
    assert out == "half a line\nand one more\n\r 10%|#    |"
    assert re.fullmatch(
        r"for people\ndtrain: WARNING: \S+test_terminal.py:\d+: UserWarning: careful\n"
        r"dtrain: WARNING: disk: 3 sectors\n",
        err,
    )
    lines = (tmp_path / "new" / "logs" / "rank-0.log").read_text().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3}  ", line) for line in lines)
    assert re.search("UserWarning: careful$", lines[1])
    told = [line[14:] for line in lines[2:] if "WARNING" not in line]
    assert told == ["disk: 3 sectors", "half a line", "and one more", "for people", "ended well"]


def test_an_error_is_the_end_of_the_log_and_the_next_run_goes_on_in_it(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(UsageError), RankLog(SingleCommunicator(), str(tmp_path)):
            raise UsageError("--lr 0: no.")
    lines = [line[14:] for line in (tmp_path / "rank-0.log").read_text().splitlines()]
    assert lines[1::2] == ["ended by an error: --lr 0: no."] * 2 and len(lines) == 4


def test_a_log_that_cannot_be_written_is_told_on_all_ranks(
    tmp_path: Path, on_threads: Callable[..., Any]
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank-2.log").mkdir()

    def body(comm: Any) -> str:
        with pytest.raises(EnvironmentProblem) as caught:
            RankLog(comm, str(tmp_path / "logs")).__enter__()
        return str(caught.value)

    messages = on_threads(3, body)
    assert len(set(messages)) == 1
    assert "rank-2.log cannot be written: Is a directory" in messages[0] and "--log-dir" in messages[0]
