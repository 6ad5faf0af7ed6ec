"""MonitoredTrainingSession: hooks, checkpoints, resume and signals for a loop of one's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import SavedAndStopped, UsageError
from dtrain.train import monitored, preempt

X = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
Y = X.sum(1, keepdims=True)


class Note(dt.train.SessionRunHook):
    """Writes down what it is called for."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def begin(self) -> None:
        self.calls.append("begin")

    def after_create_session(self, session: Any, coord: Any) -> None:
        self.calls.append("created")

    def before_run(self, run_context: Any) -> Any:
        self.calls.append("before")

    def after_run(self, run_context: Any, run_values: Any) -> None:
        self.calls.append("after")

    def end(self, session: Any) -> None:
        self.calls.append("end")


def train(folder: Path | None, last: int = 20, hooks: Any = (), **options: Any) -> tuple[float, np.ndarray]:
    """Loss and weights after a loop whose steps draw random numbers."""
    with dt.Graph().as_default() as graph:
        dt.set_random_seed(1)
        x, y = dt.placeholder("float32", [None, 4]), dt.placeholder("float32", [None, 1])
        w = dt.Variable(dt.random_normal([4, 1]))
        loss = dt.reduce_mean(dt.square(dt.matmul(dt.nn.dropout(x, 0.8), w) - y))
        dt.summary.scalar("loss", loss)
        step = dt.train.get_or_create_global_step()
        update = dt.train.AdamOptimizer(0.05).minimize(loss, global_step=step)
        every = [dt.train.StopAtStepHook(last_step=last), *(h(loss) if callable(h) else h for h in hooks)]
        options = {"save_checkpoint_steps": 7, "log_step_count_steps": None, **options}
        with dt.train.MonitoredTrainingSession(checkpoint_dir=folder, hooks=every, **options) as session:
            n, value = int(session.run_step_fn(lambda c: c.session.run(step))), np.float32(0)
            while not session.should_stop():
                at = n % 6 * 10
                value, _ = session.run([loss, update], {x: X[at : at + 10], y: Y[at : at + 10]})
                n += 1
            assert session.graph is graph
            return float(value), np.array(session.run_step_fn(lambda c: c.session.run(w)))


def test_hooks_are_called_around_each_run_and_at_the_ends() -> None:
    note = Note()
    with dt.Graph().as_default():
        final = dt.train.FinalOpsHook(dt.constant(3.5))
        with dt.train.MonitoredSession(hooks=[note, final]) as session:
            assert not session.should_stop()
            session.run(dt.constant(1))
            session.run(dt.constant(2))
    assert note.calls == ["begin", "created", *["before", "after"] * 2, "end"]
    assert final.final_ops_values == 3.5 and session.should_stop()
    with pytest.raises(UsageError, match="closed"):
        session.run("x")
    with pytest.raises(UsageError, match="is no hook"):
        dt.train.MonitoredSession(hooks=[3])


def test_a_loop_goes_on_bit_for_bit_where_it_ended(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", last=9)
    found = train(tmp_path / "parts")
    assert found[0] == whole[0]
    np.testing.assert_array_equal(found[1], whole[1])
    names = sorted(p.name for p in (tmp_path / "whole").iterdir() if p.name.startswith("model"))
    steps = (0, 14, 20, 7)
    assert names == sorted(f"model.ckpt-{s}.{kind}" for s in steps for kind in ("meta", "safetensors"))
    assert dt.train.latest_checkpoint(tmp_path / "whole") == str(tmp_path / "whole" / "model.ckpt-20")
    assert train(tmp_path / "whole", last=20)[0] == 0, "there is nothing left to do"


@pytest.mark.parametrize("step", [1, 8, 15])
def test_a_signal_saves_and_ends_the_loop(step: int, tmp_path: Path) -> None:
    whole, before = train(None), preempt.signal.getsignal(preempt.signal.SIGTERM)

    class Signal(dt.train.SessionRunHook):
        runs = 0

        def after_run(self, run_context: Any, run_values: Any) -> None:
            self.runs += 1
            if self.runs == step:
                preempt.signal.raise_signal(preempt.signal.SIGTERM)

    with pytest.raises(SavedAndStopped, match=f"by SIGTERM at step {step}, and saved"):
        train(tmp_path, hooks=[Signal()])
    found = train(tmp_path)
    assert found[0] == whole[0]
    np.testing.assert_array_equal(found[1], whole[1])
    assert preempt.signal.getsignal(preempt.signal.SIGTERM) is before


def test_what_the_standard_hooks_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def logs(loss: Any) -> Any:
        return dt.train.LoggingTensorHook({"it": loss}, every_n_iter=8, at_end=False)

    def by_name(loss: Any) -> Any:
        return dt.train.LoggingTensorHook({"again": loss.op.name}, every_n_iter=30)

    def profile(loss: Any) -> Any:
        return dt.train.ProfilerHook(save_steps=10, output_dir=tmp_path)

    train(tmp_path, hooks=[logs, by_name, profile, dt.train.NanTensorHook], save_summaries_steps=5)
    lines = capsys.readouterr().out.splitlines()
    assert lines.pop(1).replace("again", "it") == lines[0]
    assert [line.startswith("it = ") for line in lines] == [True] * 3 and lines[1].endswith("sec)")
    reader = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in reader.Scalars("loss")] == [1, 6, 11, 16]
    (trace,) = tmp_path.glob("timeline-*.json")
    assert any(e.get("ph") == "X" for e in json.loads(trace.read_text())["traceEvents"])


def test_a_loss_that_is_nan_ends_the_loop() -> None:
    with dt.Graph().as_default():
        value = dt.Variable(1.0)
        loss = dt.log(value - 1.5, name="it")
        with (
            pytest.raises(dt.train.NanLossDuringTrainingError, match="it:0 is NaN"),
            dt.train.MonitoredSession(hooks=[dt.train.NanTensorHook(loss)]) as session,
        ):
            session.run(value)
        with dt.train.MonitoredSession(hooks=[dt.train.NanTensorHook(loss, False)]) as session:
            session.run(value)
            assert session.should_stop()


def test_another_random_state_in_the_file_is_found(tmp_path: Path) -> None:
    train(tmp_path, last=2)
    path = tmp_path / "model.ckpt-2.safetensors"
    data = path.read_bytes()
    at = data.index(b"0", data.index(b'"dtrain": "'))
    path.write_bytes(data[:at] + b"1" + data[at + 1 :])
    with pytest.raises(dt.errors.CheckpointError, match=r"is damaged: its text does not have its digest"):
        train(tmp_path)


def test_ranks_do_what_one_does(
    tmp_path: Path, on_threads: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "one")
    make, here = monitored.Session, threading.local()

    def body(comm: Communicator) -> Any:
        here.comm = comm
        return train(tmp_path / "many")

    monkeypatch.setattr(monitored, "Session", lambda *given: make(*given, comm=here.comm))
    monkeypatch.setattr("dtrain.train.saver.world", lambda: here.comm)
    for loss, weights in on_threads(3, body):
        assert loss == pytest.approx(whole[0], rel=1e-5)
        np.testing.assert_allclose(weights, whole[1], rtol=1e-5)


def test_a_rank_that_asks_for_the_end_ends_all(
    on_threads: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, here = monitored.Session, threading.local()
    monkeypatch.setattr(monitored, "Session", lambda *given: make(*given, comm=here.comm))

    class Ask(dt.train.SessionRunHook):
        def before_run(self, run_context: Any) -> None:
            self.rank = run_context.session.comm.rank

        def after_run(self, run_context: Any, run_values: Any) -> None:
            if self.rank == 2:
                run_context.request_stop()

    def stops(comm: Communicator) -> Any:
        here.comm = comm
        with dt.Graph().as_default():
            value, runs = dt.constant(1.0), 0
            with dt.train.MonitoredSession(hooks=[Ask()]) as session:
                while not session.should_stop():
                    session.run(value)
                    runs += 1
            return runs

    assert on_threads(3, stops) == [1, 1, 1]
