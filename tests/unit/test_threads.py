"""Several threads on one session, model, graph, data set or file: each gets what it would get alone."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.examples.tutorials.mnist.sets import DataSet
from dtrain.native import compiler
from dtrain.runtime import session as sessions
from dtrain.runtime.backend import Backend
from dtrain.runtime.feeds import Window

THREADS, CALLS = 8, 1000
KERNELS = [
    "numpy",
    pytest.param("c", marks=pytest.mark.skipif(not compiler.command(), reason="no C compiler")),
]


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Threads take turns as often as Python lets them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def side_by_side(work: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    """What work(0), work(1), ... return, each on a thread of its own, all at once; raises the first error."""
    begin = threading.Barrier(threads)
    results: list[Any] = [None] * threads
    errors: list[BaseException] = []

    def run(i: int) -> None:
        try:
            begin.wait(10)
            results[i] = work(i)
        except BaseException as error:
            errors.append(error)

    started = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(50)
    assert not any(thread.is_alive() for thread in started), "a thread waits for ever"
    if errors:
        raise errors[0]
    return results


# -- a session -------------------------------------------------------------------------------------------
def doubled_sums(columns: int = 16) -> tuple[dt.Tensor, dt.Tensor]:
    """x [None, columns], and the sums of its rows over a product with a constant: twice that of x."""
    x = dt.placeholder("float32", [None, columns])
    return x, dt.reduce_sum(dt.nn.relu(dt.matmul(x, dt.constant(2 * np.eye(columns, dtype="f4")))), 1)


def test_eight_threads_of_a_thousand_calls(device: Backend) -> None:
    x, sums = doubled_sums()
    session = dt.Session(comm=None, device=device)
    step = session.make_callable(sums, [x])
    calls = CALLS if device.on_host else 50  # of the stand-in each takes milliseconds

    def work(i: int) -> int:
        rows = np.full((8 + i % 2, 16), i + 1, "f4")
        wanted = np.full(len(rows), 32.0 * (i + 1), "f4")
        ways = (lambda: session.run(sums, {x: rows}), lambda: step(rows))
        return sum(np.array_equal(ways[k % 2](), wanted) for k in range(calls))

    assert side_by_side(work) == [calls] * THREADS


@pytest.mark.parametrize("kernels", KERNELS)
def test_plans_are_made_and_dropped_meanwhile(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_PLANS", 3)
    x, sums = doubled_sums()
    session = dt.Session(comm=None, device=Backend(kernels))

    def work(i: int) -> None:
        for k in range(12):
            rows = np.full((1 + (i + k) % 7, 16), 10 * i + k, "f4")
            np.testing.assert_array_equal(session.run(sums, {x: rows}), 2 * rows.sum(1))
            assert len(session.plans) <= 3

    side_by_side(work)


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_run_that_writes_is_whole(kernels: str) -> None:
    """No addition is lost, and nobody sees one variable written and the other not."""
    a, b = (dt.Variable(np.zeros(300, "f4"), name=name) for name in "ab")
    both = dt.group(a.assign_add(np.ones(300, "f4")), b.assign_sub(np.ones(300, "f4")))
    noise = dt.random_uniform([4], seed=1)
    session = dt.Session(comm=None, device=Backend(kernels))
    session.run(dt.global_variables_initializer())
    draws: list[bytes] = []

    def work(i: int) -> None:
        for _ in range(60):
            session.run(both)
            found = session.run([a, b])
            assert (found[0] == found[0][0]).all() and (found[0] + found[1] == 0).all()
            draws.append(session.run(noise).tobytes())

    side_by_side(work)
    assert (session.run(a) == 60 * THREADS).all()
    with dt.Session(comm=None) as alone:
        alone.run(noise)
    assert len(set(draws)) == 60 * THREADS  # each run has random numbers of its own


def test_values_are_loaded_and_read_meanwhile() -> None:
    n = 200_000
    v = dt.Variable(np.zeros(n, "f4"))
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())

    def work(i: int) -> None:
        for k in range(20):
            v.load(np.full(n, 100 * i + k, "f4"), session)
            for value in (v.eval(session), session.snapshot([v])[v.op.name]):
                assert (value == value[0]).all()

    side_by_side(work)


def test_windows_of_steps() -> None:
    """A call of several steps goes on from its own first step, and from what that was fed."""
    rows = dt.placeholder("float32", [None])
    scale = dt.placeholder("float32", [])
    total = dt.Variable(0.0)
    value = dt.reduce_sum(rows) * scale
    update = total.assign_add(value, read_value=False)
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    loop = session.make_callable([value, update], [rows, scale]).several

    def work(i: int) -> None:
        window = np.full((5, 4 + i % 2), i, "f4")
        for k in range(40):
            taken = loop(Window(window, window.shape[1]), float(k))
            assert [v for v, _ in taken] == [window.shape[1] * i * k] * 5

    side_by_side(work)
    assert session.run(total) == sum(5 * (4 + i % 2) * i * k for i in range(THREADS) for k in range(40))


def test_sessions_of_one_graph() -> None:
    x, sums = doubled_sums()
    v = dt.Variable(np.zeros(3, "f4"))
    add, initialize = v.assign_add(np.ones(3, "f4")), dt.global_variables_initializer()
    graph = dt.get_default_graph()

    def work(i: int) -> None:
        with dt.Session(graph=graph, comm=None) as session:
            assert dt.get_default_session() is session and dt.get_default_graph() is graph
            session.run(initialize)
            for k in range(20):
                rows = np.full((1 + (i + k) % 4, 16), i, "f4")
                np.testing.assert_array_equal(session.run(sums, {x: rows}), 2 * rows.sum(1))
                assert (session.run(add) == k + 1).all()
        assert dt.get_default_session() is None

    side_by_side(work)


def test_an_error_is_that_thread_s_alone() -> None:
    x = dt.placeholder("int32", [None])
    picked = dt.gather(dt.constant(np.arange(10, dtype="f4")), x)
    session = dt.Session(comm=None)

    def work(i: int) -> None:
        for k in range(100):
            if i % 2:
                with pytest.raises(dt.errors.InvalidArgumentError, match=f"{10 + i}"):
                    session.run(picked, {x: [k % 10, 10 + i]})
            else:
                np.testing.assert_array_equal(session.run(picked, {x: [k % 10, i]}), [k % 10, i])

    side_by_side(work)


def test_a_session_is_closed_behind_the_runs_of_others() -> None:
    x, sums = doubled_sums()
    session = dt.InteractiveSession(comm=None)
    rows = np.ones((4, 16), "f4")
    session.run(sums, {x: rows})

    def work(i: int) -> None:
        if i == 0:
            return session.close()
        with pytest.raises(dt.errors.FailedPreconditionError, match="closed Session"):
            while True:
                np.testing.assert_array_equal(session.run(sums, {x: rows}), 2 * rows.sum(1))

    side_by_side(work)
    assert dt.get_default_session() is None and not session.plans


def test_a_traced_run_is_the_only_one_in_its_trace() -> None:
    x, sums = doubled_sums()
    session = dt.Session(comm=None)
    rows = np.ones((4, 16), "f4")
    traced = dt.RunOptions(trace_level=dt.RunOptions.FULL_TRACE)
    session.run(sums, {x: rows})

    def work(i: int) -> list[int]:
        counts = []
        for _ in range(20):
            about = dt.RunMetadata() if i < 2 else None
            session.run(sums, {x: rows}, options=traced if i < 2 else None, run_metadata=about)
            counts += [] if about is None else [len(about.step_stats.events)]
        return counts

    traces = side_by_side(work)
    assert len({*traces[0], *traces[1]}) == 1 and session.profiler is None


# -- runs within runs -------------------------------------------------------------------------------------
def within(session: dt.Session, then: Callable[[], Any]) -> None:
    """Let the session's latest plan call this in the middle of its next run, as a signal's handler may be."""
    plan = [*session.plans.values()][-1]
    assert plan is not None
    waiting = [then]
    plan.calls.insert(0, lambda: waiting.pop()() if waiting else None)


def test_a_run_within_a_run() -> None:
    """Of the very plan that runs; and in an array that is made while it is fed."""
    x, sums = doubled_sums()
    session = dt.Session(comm=None)
    few, others = np.ones((4, 16), "f4"), np.full((4, 16), 7, "f4")
    session.run(sums, {x: few})
    inner = []
    within(session, lambda: inner.append(session.run(sums, {x: others})))
    assert session.run(sums, {x: few}).tolist() == [32] * 4
    assert inner[0].tolist() == [224] * 4
    assert session.run(sums, {x: few}).tolist() == [32] * 4

    class Late:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            [found] = side_by_side(lambda i: session.run(sums, {x: others}), 1)  # which waits for no lock
            return np.broadcast_to(found[:, None], (4, 16))

    assert session.run(sums, {x: Late()}).tolist() == [7168] * 4


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGINT interrupts, as it does not in a process that a shell has started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_run_leaves_the_session_to_others(interrupts: None) -> None:
    x, sums = doubled_sums()
    session = dt.Session(comm=None)
    rows = np.ones((4, 16), "f4")
    session.run(sums, {x: rows})
    within(session, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        session.run(sums, {x: rows})
    assert [found.tolist() for found in side_by_side(lambda i: session.run(sums, {x: rows}))] == [
        [32] * 4
    ] * 8

    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with session.lock:
            held.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    with pytest.raises(KeyboardInterrupt):
        threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGINT)).start()
        session.run(sums, {x: rows})  # waits for the lock
    done.set()
    holder.join(10)
    assert session.run(sums, {x: rows}).tolist() == [32] * 4


# -- a graph ----------------------------------------------------------------------------------------------
def test_a_graph_is_built_by_several_threads_while_another_runs_it() -> None:
    """Names and numbers are given once; each thread is in scopes of its own, as in TensorFlow 1."""
    graph = dt.get_default_graph()
    x, sums = doubled_sums()
    session = dt.Session(comm=None)
    rows = np.ones((4, 16), "f4")

    def work(i: int) -> list[str]:
        assert dt.get_default_graph() is not graph and dt.get_default_session() is None
        names = []
        with graph.as_default():
            for k in range(40):
                if i == 0:
                    assert session.run(sums, {x: rows}).tolist() == [32] * 4
                    continue
                barrier = dt.no_op()
                with dt.name_scope(f"thread_{i}"), dt.control_dependencies([barrier]):
                    with dt.variable_scope(f"scope_{i}", reuse=dt.AUTO_REUSE):
                        made = dt.identity(x, name="same")
                        own = dt.get_variable("own", [2])
                    with dt.variable_scope("shared", reuse=dt.AUTO_REUSE):
                        dt.get_variable(f"v{k}", [2])
                dt.train.get_or_create_global_step()
                assert made.op.name.startswith(f"thread_{i}") and made.op.control_inputs == (barrier,)
                assert own.op.name == f"scope_{i}/own" and graph.get_name_scope() == ""
                names.append(made.op.name)
        return names

    with dt.name_scope("main"), dt.control_dependencies([dt.no_op()]), dt.variable_scope("main"):
        names = [name for made in side_by_side(work) for name in made]
    assert len(set(names)) == 40 * (THREADS - 1)
    assert [node.id for node in graph.operations] == list(range(len(graph.operations)))
    assert len({node.name for node in graph.operations}) == len(graph.operations)
    variables = [v.op.name for v in dt.global_variables()]
    assert sorted(variables) == sorted(
        [f"scope_{i}/own" for i in range(1, THREADS)] + [f"shared/v{k}" for k in range(40)] + ["global_step"]
    )


# -- a Keras model -----------------------------------------------------------------------------------------
def regression() -> Any:
    """A model whose loss is linear in its weights, so that steps may come in any order."""
    layer = dt.keras.layers.Dense(1, kernel_initializer="zeros", use_bias=False, input_shape=(3,))
    model = dt.keras.Sequential([layer], comm=None)
    model.compile(dt.keras.optimizers.SGD(0.5), loss=lambda y, p: dt.reduce_mean(y * p, -1))
    return model


def test_a_model_predicts_for_eight_threads_of_a_thousand_calls(device: Backend) -> None:
    dense, calls = dt.keras.layers.Dense, CALLS if device.on_host else 20
    layers = [dense(8, "relu", input_shape=(6,)), dense(3)]
    model = dt.keras.Sequential(layers, comm=None, device="cpu" if device.on_host else "gpu")
    whole = np.random.default_rng(0).standard_normal((40, 6)).astype("f4")
    examples = [np.roll(whole, i, 0)[: 5 + i % 3] for i in range(THREADS)]
    wanted: list[Any] = [None] * THREADS

    def work(i: int) -> int:
        first = model.predict(examples[i])  # the first of all makes graph, session, weights and plans
        found = sum(np.array_equal(model.predict(examples[i]), first) for _ in range(calls - 1))
        wanted[i] = first
        return found

    assert side_by_side(work) == [calls - 1] * THREADS
    assert len(model._networks) == 1 and len(model.graph.get_collection("variables")) == 4
    kernel, bias, second, offset = (np.float64(w) for w in model.get_weights())
    for x, found in zip(examples, wanted, strict=True):
        np.testing.assert_allclose(found, np.maximum(x @ kernel + bias, 0) @ second + offset, atol=1e-5)


def test_a_model_trains_and_tests_on_several_threads() -> None:
    model = regression()
    x = np.random.default_rng(1).integers(-4, 5, (THREADS, 8, 3)).astype("f4")
    y = np.ones((8, 1), "f4")

    def work(i: int) -> None:
        for _ in range(5):
            model.train_on_batch(x[i], y)
            model.fit(x[i], y, batch_size=4, epochs=2, verbose=0)
            model.evaluate(x[i], y, verbose=0)

    side_by_side(work)
    # a gradient is the mean over a batch: over all rows, and in two epochs over each of two halves of them
    np.testing.assert_array_equal(model.get_weights()[0][:, 0], -0.5 * 5 * 5 * x.mean(1).sum(0))
    assert model.optimizer.iterations == 5 * 5 * THREADS


def test_a_callback_uses_the_model_that_is_trained() -> None:
    """Each call reads its own examples, also inside of one that is not at its end."""
    model = regression()
    x, other = np.full((8, 3), 2, "f4"), np.full((5, 3), 16, "f4")
    y, one = np.ones((8, 1), "f4"), np.ones((5, 1), "f4")
    seen = []

    def inner(batch: int, logs: Any) -> None:
        model.train_on_batch(other, one)
        seen.append(model.predict(other)[0, 0])

    callback = dt.keras.callbacks.LambdaCallback(on_batch_end=inner)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    # each batch takes 1 from every weight, each step on the others 8
    assert seen == [-9 * 3 * 16 * (k + 1) for k in range(4)]
    np.testing.assert_array_equal(model.get_weights()[0], np.full((3, 1), -36))
    assert all(table.rows is None for n in model._networks.values() for table in n.tables.values())


def test_weights_are_set_whole() -> None:
    dense = dt.keras.layers.Dense
    model = dt.keras.Sequential([dense(4, input_shape=(4,)), *(dense(4) for _ in range(9))], comm=None)
    model.build()

    def work(i: int) -> None:
        for _ in range(50):
            if i < 2:
                model.set_weights([np.full(w.shape, i, "f4") for w in model.get_weights()])
            else:
                found = model.get_weights()
                assert len({w.flat[0] for w in found}) == 1

    model.set_weights([np.zeros(w.shape, "f4") for w in model.get_weights()])
    side_by_side(work, 4)


# -- data and files ------------------------------------------------------------------------------------------
def test_each_batch_of_a_data_set_goes_to_one_thread() -> None:
    n, batch = 110, 7
    pixels = np.zeros((n, 1, 1), np.uint8)
    data = DataSet(pixels, np.arange(n) % 10, one_hot=False, dtype="uint8", reshape=True, seed=3)
    data._classes = np.arange(n)  # so that a label names its example
    found = side_by_side(lambda i: [data.next_batch(batch)[1] for _ in range(30)])
    handed = np.concatenate([labels for thread in found for labels in thread])
    whole, rest = divmod(len(handed), n)
    counts = np.bincount(handed, minlength=n)
    assert data.epochs_completed == whole and set(counts) == {whole, whole + 1}
    assert (counts == whole + 1).sum() == rest


def test_a_saver_keeps_the_newest_of_all_threads(tmp_path: Path) -> None:
    v = dt.Variable(np.zeros(3, "f4"))
    add = v.assign_add(np.ones(3, "f4"), read_value=False)
    session, saver = dt.Session(comm=None), dt.train.Saver(max_to_keep=4)
    session.run(dt.global_variables_initializer())

    def work(i: int) -> None:
        for k in range(3):
            session.run(add)
            saver.save(session, tmp_path / "model", global_step=10 * i + k)

    side_by_side(work)
    kept = saver.last_checkpoints
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == sorted(
        f"{Path(p).name}.safetensors" for p in kept
    )
    state = dt.train.get_checkpoint_state(tmp_path)
    assert state is not None and state.all_model_checkpoint_paths == kept and len(kept) == 4
    saver.restore(session, kept[-1])
    value = session.run(v)
    assert (value == value[0]).all()


def test_an_event_file_of_several_threads(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    value = dt.placeholder("float32", [])
    summary = dt.summary.scalar("value", value)
    session, writer = dt.Session(comm=None), dt.summary.FileWriter(tmp_path, comm=None)

    def work(i: int) -> None:
        for k in range(30):
            writer.add_summary(session.run(summary, {value: 100 * i + k}), 100 * i + k)
        if i == 0:
            writer.flush()

    side_by_side(work)
    side_by_side(lambda i: writer.close())
    [path] = tmp_path.iterdir()
    events = [e for e in EventFileLoader(str(path)).Load() if e.HasField("summary")]
    assert sorted(e.step for e in events) == [100 * i + k for i in range(THREADS) for k in range(30)]
    for event in events:
        [found] = event.summary.value
        assert (found.tensor.float_val[0] if found.HasField("tensor") else found.simple_value) == event.step
    with pytest.raises(dt.errors.UsageError, match="closed"):
        writer.add_summary(b"", 1)


# -- several ranks, of which tests/mpi has more ---------------------------------------------------------
PROGRAM = """
import os, sys, threading
import numpy as np
import dtrain as dt

def work():
    x = dt.placeholder("float32", [None])
    total = dt.reduce_sum(x * dt.Variable(2.0))
    with dt.Session() as session:
        session.run(dt.global_variables_initializer())
        total = session.run(total, {x: dt.Shard(np.ones(5, "f4"), 10)})
        os.write(1, f"{total} ".encode())  # at once, as another rank writes, too

if sys.argv[1] == "main":
    dt.Session()
thread = threading.Thread(target=work, name="worker")
thread.start()
thread.join()
if sys.argv[1] == "main":
    threading.Event().wait()  # as a program does whose thread was to tell it of results
"""


def test_a_program_in_one_thread_that_is_not_the_main_one(mpirun: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = mpirun(2, ["worker"], module="program")
    assert done.rc == 0 and done.stdout.split() == ["20.0", "20.0"], done


def test_an_error_that_ends_a_thread_ends_all_ranks(mpirun: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = mpirun(2, ["main"], module="program")
    assert done.rc == 2 and "the thread 'worker' calls what 2 ranks do together" in done.stderr, done
