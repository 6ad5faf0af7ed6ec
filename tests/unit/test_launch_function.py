"""dt.launch: a function on several ranks, from a process of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dtrain as dt
from dtrain.errors import RemoteError, UsageError

pytestmark = [pytest.mark.alone, pytest.mark.timeout(60)]

PROGRAM = """\
import numpy as np
import dtrain as dt

factor = 3  # a value of the program that the function refers to


def work(rows, scale=1):
    comm = dt.comm.world()
    x = dt.placeholder("float32", [None, 2])
    total = dt.reduce_sum(x)
    print("rank", comm.rank, "of", comm.size)
    mine = dt.Shard(np.full((rows, 2), comm.rank + 1), rows * comm.size)
    return factor * scale * float(dt.Session().run(total, {x: mine}))


print(dt.launch(3, work, 2, scale=2))
"""


def test_a_scripts_function_and_its_result(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    (tmp_path / "mine.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=True
    )
    *ranks, last = done.stdout.splitlines()
    assert sorted(ranks) == ["rank 0 of 3", "rank 1 of 3", "rank 2 of 3"]
    assert float(last) == 3 * 2 * (1 + 2 + 3) * 2 * 2


def test_an_error_of_a_rank_is_one_here(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RemoteError, match="the 2 ranks ended with exit code "):
        dt.launch(2, os.fspath, 7)
    assert "expected str, bytes or os.PathLike object, not int" in capfd.readouterr().out


def test_what_cannot_be_sent_is_refused() -> None:
    for ranks in (0, -1, 1.5, "2"):
        with pytest.raises(UsageError, match="give the number of ranks, 1 or more"):
            dt.launch(ranks, os.getpid)
    pytest.importorskip("cloudpickle")
    session = dt.Session(comm=None)
    with pytest.raises(UsageError, match=r"^launch: .* Let the function make what it needs"):
        dt.launch(2, lambda: session)


def test_an_interrupt_ends_the_ranks(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    text = "import os, signal, time, dtrain as dt\n\n\ndef work():\n"
    text += "    open(f'pid-{os.getpid()}', 'w').close()\n"
    text += "    time.sleep(40)\n\n\n"
    text += "signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it\n"
    text += "dt.launch(2, work)\n"
    (tmp_path / "mine.py").write_text(text)
    process = subprocess.Popen([sys.executable, "mine.py"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while len(found := [*tmp_path.glob("pid-*")]) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.wait(20)
    for path in found:
        with pytest.raises(ProcessLookupError):
            for _ in range(100):
                os.kill(int(path.name[4:]), 0)
                time.sleep(0.05)
