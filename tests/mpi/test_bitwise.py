"""Bitwise sessions: on these ranks every value has the bits that a rank alone gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_native import grown

import dtrain as dt
from dtrain.comm.mpi import MPICommunicator
from dtrain.errors import GraphError
from dtrain.native import compiler
from dtrain.ops.base import REGISTRY, apply
from dtrain.ops.collective import AllReduce
from dtrain.ops.evaluate import evaluate
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import Backend
from dtrain.runtime.feeds import Window

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(not compiler.command(), reason="needs a C compiler"),
]
BITWISE = dt.ConfigProto(bitwise=True)


def feed(x: np.ndarray, comm: MPICommunicator | None) -> Any:
    """A batch as its rank is fed it."""
    if comm is None:
        return x
    low, high = shard_bounds(len(x), comm.rank, comm.size)
    return dt.Shard(x[low:high], len(x))


def same(many: Any, one: Any) -> bool:
    return np.asarray(many).tobytes() == np.asarray(one).tobytes()


@pytest.mark.parametrize(("dtype", "every"), [("float32", False), ("float32", True), ("float64", True)])
def test_every_op_has_the_bits_of_one_rank(comm: MPICommunicator, dtype: str, every: bool) -> None:
    """At sizes that the ranks share unevenly, of numbers of which some are zeros; the first input is in rows,
    or all that can be. Without those elementwise ones that C does, each entry by itself."""
    random = np.random.default_rng(5)
    tried, inputs, xs, outs = [], [], [], []
    with dt.Graph().as_default():
        for _, kind in sorted(REGISTRY.items()):
            if kind.of_shard or (kind.elementwise and (kind.c or not (kind.ufunc or kind.scalar))):
                continue
            for op, given in [one for example in kind.examples() for one in grown(example, 3000)]:
                arrays = []
                for shape in given:
                    if isinstance(shape, tuple):
                        some = random.standard_normal(shape) * 10.0 ** random.integers(-3, 3, shape)
                        array = np.where(random.random(shape) < 0.3, 0, some).astype(dtype)
                    else:
                        array = shape
                    arrays.append(array)
                try:
                    evaluate(op, arrays)
                except (GraphError, IndexError, OverflowError, ValueError):
                    continue  # sizes that belong together
                placed = [dt.placeholder(a.dtype, a.shape) for a in arrays]
                found = apply(op, *placed).op.outputs
                tried += [repr(op)] * len(found)
                outs += found
                xs += placed
                inputs += arrays
        assert len(tried) > 150
        one = dt.Session(comm=None, config=BITWISE).run(outs, dict(zip(xs, inputs, strict=True)))
        firsts = {t.op.inputs[0] for t in outs if t.op.inputs}
        feeds = {
            x: feed(a, comm) if a.ndim and (every or x in firsts) else a
            for x, a in zip(xs, inputs, strict=True)
        }
        many = dt.Session(comm=comm, config=BITWISE).run(outs, feeds)
        wrong = [name for name, a, b in zip(tried, many, one, strict=True) if not same(a, b)]
        assert not wrong, wrong


def clipped(optimizer: Any, loss: Any) -> Any:
    """A step against gradients that are clipped by their global norm."""
    pairs = optimizer.compute_gradients(loss)
    gradients, _ = dt.clip_by_global_norm([g for g, _ in pairs], 0.3)
    return optimizer.apply_gradients(zip(gradients, [v for _, v in pairs], strict=True))


def network(make: Callable[[Any], Any]) -> tuple[list[Any], list[Any]]:
    """A net with batch normalization, dropout, weight decay and a metric: what a step fetches, and is fed."""
    dt.set_random_seed(3)
    x, y = dt.placeholder("float32", [None, 75]), dt.placeholder("int32", [None])
    large = dt.Variable(dt.random_normal([75, 61], stddev=0.1), name="large")
    h = dt.matmul(dt.nn.relu(x), large) + dt.Variable(dt.zeros([61]))
    h = dt.nn.batch_normalization(h, *dt.nn.moments(h, [0]), None, None, 1e-3)
    h = dt.nn.dropout(dt.nn.relu(h), 0.7)
    out = dt.matmul(h, dt.Variable(dt.random_normal([61, 5]), name="small"))
    each = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=out)
    loss = dt.reduce_mean(each) + 0.01 * dt.nn.l2_loss(large)
    hits = dt.reduce_sum(dt.cast(dt.equal(dt.cast(dt.argmax(out, 1), "int32"), y), "float32"))
    return [loss, hits, make(loss)], [x, y]


def train(comm: MPICommunicator | None, sizes: list[int], make: Callable[[Any], Any]) -> list[Any]:
    """What each step gave, and all variables after the last."""
    with dt.Graph().as_default():
        fetches, feeds = network(make)
        session = dt.Session(comm=comm, config=BITWISE)
        session.run(dt.global_variables_initializer())
        found = []
        for seed, total in enumerate(sizes):
            generator = np.random.default_rng(seed)
            x = generator.standard_normal((total, 75)).astype("f")
            y = generator.integers(0, 5, total).astype(np.int32)
            found += session.run(fetches, {f: feed(v, comm) for f, v in zip(feeds, (x, y), strict=True)})[:2]
        reduced = [n for p in session.plans.values() for n in p.nodes if isinstance(n.kind, AllReduce)]
        assert all(n.inputs[0].op.type == "HasBad" for n in reduced)  # nothing else is summed over ranks
        return found + session.run(dt.global_variables())


OPTIMIZERS = {
    "sgd": lambda loss: dt.train.GradientDescentOptimizer(0.1).minimize(loss),
    "adam": lambda loss: dt.train.AdamOptimizer(0.01).minimize(loss),
    "momentum, clipped": lambda loss: clipped(dt.train.MomentumOptimizer(0.05, 0.9), loss),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_has_the_bits_of_one_rank(comm: MPICommunicator, make: Callable[[Any], Any]) -> None:
    """Of batches that divide and such that do not, and of one of fewer rows than ranks."""
    sizes = [40, 40, 23, 40, 2, 7]
    many, one = train(comm, sizes, make), train(None, sizes, make)
    assert all(map(same, many, one))


@pytest.mark.parametrize("lacking", ["average", "shared", "bucket", "near"])
def test_the_way_of_the_bytes_changes_no_bit(
    comm: MPICommunicator, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By MPI alone, without room for memory that ranks share, and on cores far apart."""
    other = MPICommunicator("mpi" if lacking == "average" else "auto")
    if lacking == "near":
        other.far = True
    elif lacking != "average":
        monkeypatch.setattr(other, lacking, lambda nbytes: None)
    many, one = train(other, [40, 23, 40], OPTIMIZERS["adam"]), train(None, [40, 23, 40], OPTIMIZERS["adam"])
    assert all(map(same, many, one))


def test_what_is_gathered_is_not_written_while_it_is_read(comm: MPICommunicator) -> None:
    """Runs without an update, many in a row, in which rank 0 is ahead or behind."""
    with dt.Graph().as_default():
        x = dt.placeholder("float32", [None, 300])
        total, double = dt.reduce_sum(dt.square(x), 0), x * 2
        session = dt.Session(comm=comm, device=Backend("c"), config=BITWISE)
        for k in range(60):
            rows = np.full((64, 300), k, np.float32)
            found, whole = session.run([total, double], {x: feed(rows, comm)})
            assert (found == 64 * k * k).all() and (whole == 2 * k).all()
        (plan,) = session.plans.values()
        assert plan.kernel_symbols[-1] == "meet" and plan.kernel_symbols.count("meet") == 2


def test_several_steps_in_a_call(comm: MPICommunicator) -> None:
    """A window of steps has the bits of one step after the other, on one rank."""
    rows = np.arange(6 * 17, dtype=np.int32).reshape(6, 17)

    def steps(of: MPICommunicator | None) -> list[Any]:
        with dt.Graph().as_default():
            dt.set_random_seed(1)
            at = dt.placeholder("int32", [None])
            table = dt.constant(np.random.default_rng(0).standard_normal((102, 30)).astype("f"))
            w = dt.Variable(dt.random_normal([30, 20]))
            loss = dt.reduce_mean(dt.square(dt.matmul(dt.gather(table, at), w) - 1))
            update = dt.train.AdamOptimizer(0.01).minimize(loss)
            session = dt.Session(comm=of, device=Backend("c"), config=BITWISE)
            session.run(dt.global_variables_initializer())
            step = session.make_callable([loss, update], [at])
            if of is None:
                found = [step(row)[0] for row in rows]
            else:
                low, high = shard_bounds(17, of.rank, of.size)
                found = [loss for loss, _ in step.several(Window(rows[:, low:high], 17))]
            return [*found, session.run(w)]

    assert all(map(same, steps(comm), steps(None)))


def test_fit_has_the_bits_of_one_rank(comm: MPICommunicator) -> None:
    """With convolution, batch normalization, dropout, a short last batch and a test."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((70, 6, 6, 2)).astype("f"), rng.integers(0, 3, 70)
    layers = dt.keras.layers

    def fit(of: MPICommunicator | None) -> list[Any]:
        with dt.Graph().as_default():
            dt.set_random_seed(2)
            return fitted(of)

    def fitted(of: MPICommunicator | None) -> list[Any]:
        model = dt.keras.Sequential(
            [
                layers.Conv2D(5, 3, strides=2, padding="same", activation="relu", input_shape=(6, 6, 2)),
                layers.BatchNormalization(),
                layers.Flatten(),
                layers.Dropout(0.3),
                layers.Dense(3, activation="softmax"),
            ],
            comm=of,
        )
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        history = model.fit(x, y, 16, 2, 0, validation_split=0.2, bitwise=True).history
        return [*history.values(), *model.get_weights(), model.predict(x)]

    assert all(map(same, fit(comm), fit(None)))


def test_what_follows_from_the_number_of_ranks_is_refused(comm: MPICommunicator) -> None:
    with dt.Graph().as_default():
        layer = dt.keras.layers.BatchNormalization(synchronized=False)
        x = dt.placeholder("float32", [None, 4])
        y = layer(x, training=True)
        session = dt.Session(comm=comm, config=BITWISE)
        with pytest.raises(GraphError, match="computes of the rows that its rank holds"):
            session.run(dt.global_variables_initializer())
            session.run(y, {x: feed(np.ones((12, 4), "f"), comm)})


@pytest.mark.parametrize("rows", [0, 1, 2, 5])
def test_a_batch_of_fewer_rows_than_ranks(comm: MPICommunicator, rows: int) -> None:
    with dt.Graph().as_default():
        x = dt.placeholder("float32", [None, 40])
        w = dt.Variable(np.random.default_rng(0).standard_normal((40, 7)).astype(np.float32))
        y = dt.tanh(dt.matmul(x, w))
        fetches = [y, dt.argmax(y, 1), dt.reduce_sum(y), dt.gradients(dt.reduce_sum(y), [w])[0]]
        given = np.random.default_rng(1).standard_normal((rows, 40)).astype(np.float32)
        results = []
        for ranks in (None, comm):
            with dt.Session(config=BITWISE, comm=ranks) as session:
                session.run(dt.global_variables_initializer())
                results.append(session.run(fetches, {x: feed(given, ranks)}))
        assert all(map(same, *results))
