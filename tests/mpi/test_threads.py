"""Of several ranks one thread calls what they do together; what a rank does alone any thread may call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.comm.mpi import MPICommunicator
from dtrain.errors import UsageError
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.feeds import Window

pytestmark = pytest.mark.mpi

REFUSED = (
    r"the thread 'worker \d' calls what \d ranks do together: call it from the thread 'MainThread' alone, "
    r"which began, or use Session\(comm=None\)"
)


def on_threads(work: Callable[[], Any], threads: int = 4) -> list[Any]:
    """What work() returns, or the error that it raises, on several threads at once."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    started = [threading.Thread(target=run, name=f"worker {i}", daemon=True) for i in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(20)
    assert len(results) == threads, "a thread waits for ever"
    return results


def refused(results: list[Any]) -> None:
    for error in results:
        assert isinstance(error, UsageError), error
        with pytest.raises(UsageError, match=REFUSED):
            raise error


def share(comm: Communicator, rows: np.ndarray) -> dt.Shard:
    """This rank's rows of a batch."""
    low, high = shard_bounds(len(rows), comm.rank, comm.size)
    return dt.Shard(rows[low:high], len(rows))


def summed(comm: Communicator | None) -> tuple[dt.Session, dt.Tensor, dt.Tensor]:
    """A session, rows, and their sum, which takes an allreduce where each rank has some."""
    with dt.Graph().as_default() as graph:
        x = dt.placeholder("float32", [None, 3])
        v = dt.Variable(np.ones(3, "f4"))
        total = dt.reduce_sum(x * v)
        session = dt.Session(graph=graph, comm=comm)
        session.run(dt.global_variables_initializer())
    return session, x, total


def test_a_second_thread_is_refused_on_every_rank_and_the_first_goes_on(comm: Communicator) -> None:
    if comm.size == 1:
        pytest.skip("one rank has nobody to wait for")
    rows = np.arange(30, dtype="f4").reshape(10, 3)
    session, x, total = summed(comm)
    [v] = session.graph.get_collection("variables")
    with session.graph.as_default():
        write, noise = dt.assign(v, np.zeros(3, "f4")), x * dt.random_normal([3])
    window = Window(share(comm, rows).rows[None], len(rows))
    for _ in ("no plan yet", "the plans are there"):
        refused(on_threads(lambda: session.run(total, {x: share(comm, rows)})))
        refused(on_threads(lambda: session.make_callable(total, [x]).several(window)))
        refused(on_threads(lambda: session.run([total, write], {x: rows})))
        refused(on_threads(lambda: session.run(noise, {x: rows})))
        refused(on_threads(lambda: v.load(np.zeros(3, "f4"), session)))
        refused(on_threads(comm.barrier))
        refused(on_threads(lambda: comm.allreduce(np.ones(2))))
        for value in (rows, share(comm, rows)):
            assert session.run(total, {x: value}) == rows.sum()


def test_threads_read_variables_and_compute_of_whole_arrays(comm: Communicator) -> None:
    """Each rank by itself, in any order, while the ranks train in the thread that they agree on."""
    rows = np.arange(30, dtype="f4").reshape(10, 3)
    with dt.Graph().as_default() as graph:
        x = dt.placeholder("float32", [None, 3])
        v, w = (dt.Variable(np.zeros(3, "f4")) for _ in range(2))
        y = dt.reduce_sum(x * v, 1)
        step = dt.group(dt.assign_add(v, np.ones(3, "f4")), dt.assign_add(w, np.ones(3, "f4")))
        later = dt.Variable(np.zeros(3, "f4")) + x
        session = dt.Session(graph=graph, comm=comm)
        with pytest.raises(dt.errors.FailedPreconditionError, match="uninitialized"):
            raise on_threads(lambda: session.run(y, {x: rows}), 1)[0]
        session.run(dt.variables_initializer([v, w]))
        with pytest.raises(dt.errors.FailedPreconditionError, match="uninitialized"):
            raise on_threads(lambda: session.run(later, {x: rows}), 1)[0]
    stop = threading.Event()
    wrong: list[Any] = []

    def work(seed: int) -> int:
        rng, runs = np.random.default_rng([seed, comm.rank]), 0
        while not stop.is_set() or runs < 20:
            mine = rows[: rng.integers(0, 11)]
            got, ones, others = session.run([y, v, w], {x: mine})
            right = (ones == others).all() and (ones == ones[0]).all()
            if not right or not np.array_equal(got, mine.sum(1) * ones[0]):
                wrong.append((mine, got, ones, others))
            runs += 1
        return runs

    seeds = iter(range(4))
    ended: list[Any] = []
    threads = threading.Thread(target=lambda: ended.extend(on_threads(lambda: work(next(seeds)))))
    threads.start()
    for _ in range(30):
        session.run(step)
    stop.set()
    threads.join(30)
    assert not wrong and len(ended) == 4 and all(runs >= 20 for runs in ended), (wrong, ended)
    assert session.run(v).tolist() == [30] * 3


def test_a_session_of_one_rank_is_any_thread_s(comm: Communicator) -> None:
    """While the ranks run together in the thread that they agree on."""
    rows = np.arange(30, dtype="f4").reshape(10, 3)
    (alone, x, total), (together, y, whole) = summed(None), summed(comm)
    stop = threading.Event()
    found: list[Any] = []

    def work() -> None:
        while not stop.is_set():
            found.append(alone.run(total, {x: rows[: 1 + len(found) % 5]}))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        assert together.run(whole, {y: share(comm, rows)}) == rows.sum()
    stop.set()
    for thread in threads:
        thread.join(20)
    assert found and set(found) <= {rows[:n].sum() for n in range(1, 6)}


def test_a_model(comm: Communicator) -> None:
    x = np.arange(24, dtype="f4").reshape(8, 3)

    def made(comm: Communicator | None) -> Any:
        dense = dt.keras.layers.Dense(1, kernel_initializer="ones", input_shape=(3,))
        return dt.keras.Sequential([dense], comm=comm)

    alone = made(None)
    for found in on_threads(lambda: alone.predict(x)):
        np.testing.assert_array_equal(found, x.sum(1, keepdims=True))
    if comm.size == 1:
        return
    model = made(comm)
    refused(on_threads(lambda: model.predict(x)))
    np.testing.assert_array_equal(model.predict(x), x.sum(1, keepdims=True))
    refused(on_threads(lambda: model.predict(x)))
    for kernel, _ in on_threads(model.get_weights):
        assert (kernel == 1).all()
    np.testing.assert_array_equal(model.predict(x), x.sum(1, keepdims=True))


def test_a_communicator_is_its_maker_s(comm: Communicator) -> None:
    """A whole program may live in another thread than the main one."""
    if comm.size == 1:
        pytest.skip("one rank has nobody to wait for")

    def work() -> float:
        session, x, total = summed(MPICommunicator("mpi"))
        return float(session.run(total, {x: share(comm, np.ones((10, 3), "f4"))}))

    assert on_threads(work, 1) == [30.0]
