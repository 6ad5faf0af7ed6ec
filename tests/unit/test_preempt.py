"""Being asked to stop: by any of the signals, on any rank, under mpirun and without."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dtrain
from dtrain.comm.single import SingleCommunicator
from dtrain.train import checkpoint, preempt
from dtrain.train.preempt import SIGNALS, StopRequest

ROOT = Path(dtrain.__file__).parents[1]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_a_signal_is_a_vote(number: signal.Signals) -> None:
    with StopRequest(SingleCommunicator()) as request:
        assert request.vote().rows.tolist() == [0] and request.vote().total == 1 and request.reason() == ""
        os.kill(os.getpid(), number)
        assert request.vote().rows.tolist() == [1] and request.reason() == number.name


def test_the_handlers_are_as_before_after() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with StopRequest(SingleCommunicator()):
        assert signal.getsignal(signal.SIGUSR1) != before
        os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == before
    preempt.close_ears()
    for number in SIGNALS:
        os.kill(os.getpid(), number)


def test_a_second_interrupt_stops_now(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequest(SingleCommunicator()) as request:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # mpirun passes on what the terminal sent already
        assert request.name == "SIGINT"
        monkeypatch.setattr(preempt, "SAME_PRESS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_one_process(small_set: Path, tmp_path: Path) -> None:
    """SIGUSR1 ends it with 75, and the words that go on do."""
    command = [sys.executable, "-m", "dtrain", "train", "--dataset", str(small_set), "--model", "logistic"]
    process = subprocess.Popen(
        [*command, "--run-dir", "run", "--epochs", "1000", "--log-every", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("epoch"):
        assert line
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75, err
    assert "dtrain: stopped: by SIGUSR1 in epoch " in err
    assert err.strip().endswith("Resume it with: dtrain train --resume run")
    progress = checkpoint.load(tmp_path / "run").manifest["progress"]
    assert f"in epoch {progress['epoch']} after iteration {progress['iteration']}," in err


@pytest.mark.parametrize(
    ("ranks", "number", "target"), [(2, signal.SIGTERM, "rank 1"), (3, signal.SIGINT, "mpirun")]
)
def test_under_mpirun(ranks: int, number: signal.Signals, target: str, mpirun: Any) -> None:
    """Two cases of the campaign in tests/faults: stopped, saved, gone on with, every example used once."""
    spec = importlib.util.spec_from_file_location("faults_preempt", ROOT / "tests" / "faults" / "preempt.py")
    assert spec is not None and spec.loader is not None
    campaign = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(campaign)
    assert campaign.case(Path(sys.executable), ranks, number, target, seed=ranks)
