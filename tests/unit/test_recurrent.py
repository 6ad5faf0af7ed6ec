"""Recurrent nets and control flow give what TensorFlow gave, values, gradients and names, on any ranks.

The cases and TensorFlow's values are made by tests/reference/tensorflow_rnn.py.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.check import check
from dtrain.native import compiler
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import Backend

FOLDER = Path(__file__).parents[1] / "reference"
spec = importlib.util.spec_from_file_location("tensorflow_rnn", FOLDER / "tensorflow_rnn.py")
assert spec is not None and spec.loader is not None
reference: Any = importlib.util.module_from_spec(spec)
sys.modules["tensorflow_rnn"] = reference
spec.loader.exec_module(reference)
VALUES = json.loads(reference.VALUES.read_text())
#: Cases that are compiled, which takes a second each.
IN_C = ("lengths_lstm_peepholes", "bidirectional_lengths", "cond_in_while")


def found(
    name: str, kernels: str = "numpy", comm: Communicator | None = None
) -> tuple[dict[str, list[int]], list[np.ndarray]]:
    """The variables of a case, and its values; of several ranks each feeds its rows."""
    with dt.Graph().as_default():
        places, fetches, variables = reference.build(dt, name)
        with dt.Session(comm=comm, device=Backend(kernels)) as session:
            session.run(dt.global_variables_initializer())
            for v in variables:
                v.load(reference.drawn(v.op.name, v.shape.as_list()), session)
            feeds = dict(zip(places, reference.fed(), strict=True))
            if comm is not None:
                low, high = shard_bounds(reference.BATCH, comm.rank, comm.size)
                for place in places[:2]:
                    feeds[place] = dt.Shard(feeds[place][low:high], reference.BATCH)
            values = session.run(fetches, feeds)
            check(session.plans[next(reversed(session.plans))].step.graph.operations)
    return {v.op.name: v.shape.as_list() for v in variables}, values


def compare(name: str, got: tuple[dict[str, list[int]], list[np.ndarray]]) -> None:
    variables, values = got
    assert variables == VALUES[name]["variables"]
    right = [reference.read(text) for text in VALUES[name]["values"]]
    assert [np.shape(v) for v in values] == [r.shape for r in right]
    for i, (value, expected) in enumerate(zip(values, right, strict=True)):
        np.testing.assert_allclose(value, expected, 2e-5, 2e-5, err_msg=f"{name}: {i}")


@pytest.mark.parametrize("name", reference.CASES)
def test_results_are_those_of_tensorflow(name: str) -> None:
    compare(name, found(name))


@pytest.mark.parametrize("name", IN_C)
def test_results_of_kernels_in_c(name: str) -> None:
    if not compiler.command():
        pytest.skip("there is no C compiler")
    compare(name, found(name, "c"))


@pytest.mark.parametrize("number", range(len(reference.CASES)))
def test_ranks_that_share_a_batch_give_the_same(number: int, on_threads: Callable[..., list[Any]]) -> None:
    name = list(reference.CASES)[number]
    for got in on_threads(2 + number % 2, lambda comm: found(name, comm=comm)):
        compare(name, got)


# -- training, on ranks ----------------------------------------------------------------------------------
def trained(comm: Communicator | None = None, rows: int = 7, kernels: str = "numpy") -> list[np.ndarray]:
    """Losses and weights of two steps with lengths, dropout in all places, and 7 examples."""
    random = np.random.RandomState(1)
    with dt.Graph().as_default():
        dt.set_random_seed(6)
        x = dt.placeholder(dt.float32, [None, None, 3])
        n = dt.placeholder(dt.int32, [None])
        keep = dt.placeholder(dt.float32, [])
        lstm = dt.nn.rnn_cell.LSTMCell(4, use_peepholes=True)
        layers = [
            dt.nn.rnn_cell.DropoutWrapper(lstm, keep, keep, 0.8),
            dt.contrib.rnn.LayerNormBasicLSTMCell(5),
        ]
        layers.append(
            dt.contrib.rnn.DropoutWrapper(
                dt.nn.rnn_cell.GRUCell(3), 0.5, 0.5, 0.5, True, input_size=5, dtype=dt.float32, seed=3
            )
        )
        cell = dt.nn.rnn_cell.MultiRNNCell(layers)
        outputs, state = dt.nn.dynamic_rnn(cell, x, n, dtype=dt.float32)
        both, _ = dt.nn.bidirectional_dynamic_rnn(
            dt.nn.rnn_cell.GRUCell(2), dt.nn.rnn_cell.GRUCell(2), outputs, n, dtype=dt.float32
        )
        loss = dt.reduce_mean(dt.square(both[0] - both[1])) + dt.reduce_sum(dt.square(state[0].c))
        train = dt.train.AdamOptimizer(0.05).minimize(loss)
        with dt.Session(comm=comm, device=Backend(kernels)) as session:
            session.run(dt.global_variables_initializer())
            found = []
            for steps in (2, 3):
                values, lengths = random.standard_normal((rows, steps, 3)), random.randint(1, steps + 1, rows)
                feeds = {x: values.astype(np.float32), n: lengths}
                if comm is not None:
                    low, high = shard_bounds(rows, comm.rank, comm.size)
                    feeds = {key: dt.Shard(value[low:high], rows) for key, value in feeds.items()}
                found.append(session.run([loss, train], {**feeds, keep: 0.7})[0])
            return [np.array(found), *session.run(dt.trainable_variables())]


@pytest.mark.parametrize("rows", [7, 2])  # of 2 examples each of three ranks computes all
def test_ranks_train_as_one_with_lengths_and_dropout(rows: int, on_threads: Callable[..., list[Any]]) -> None:
    alone = trained(rows=rows)
    assert len(set(alone[0])) == 2
    for ranks in (2, 3) if rows == 7 else (3,):
        for got in on_threads(ranks, lambda comm: trained(comm, rows=rows)):
            for value, right in zip(got, alone, strict=True):
                np.testing.assert_allclose(value, right, 2e-4, 2e-5)


def test_each_step_drops_others_and_a_variational_net_the_same() -> None:
    x = dt.ones([4, 6, 8])

    class Same(dt.nn.rnn_cell.RNNCell):
        state_size = output_size = 8

        def call(self, inputs: Any, state: Any) -> tuple[Any, Any]:
            return inputs, state

    dropped = dt.nn.rnn_cell.DropoutWrapper(Same(), 0.5, seed=1)
    fixed = dt.nn.rnn_cell.DropoutWrapper(Same(), 0.5, 1.0, 1.0, True, 8, dt.float32, seed=1)
    nets = [dt.nn.dynamic_rnn(cell, x, dtype=dt.float32)[0] for cell in (dropped, fixed)]
    with dt.Session(comm=None) as session:
        each, alike = session.run(nets)
        again = session.run(nets[0])
    assert {0.0, 2.0} == set(each.ravel()) == set(alike.ravel())
    assert len({step.tobytes() for step in each.transpose(1, 0, 2)}) == 6
    assert len({row.tobytes() for row in alike.reshape(-1, 8)}) == 1
    assert (each != again).any()


# -- plans, files ----------------------------------------------------------------------------------------
def last_plan(session: dt.Session) -> Any:
    return session.plans[next(reversed(session.plans))]


def test_a_branch_that_is_fed_is_all_that_a_plan_has() -> None:
    x, training = dt.placeholder(dt.float32, [None, 3]), dt.placeholder(dt.bool)
    count = dt.Variable(0, trainable=False)

    def yes() -> Any:
        with dt.control_dependencies([dt.assign_add(count, 1)]):
            return dt.exp(x)

    y = dt.cond(training, yes, lambda: x + 1)
    with dt.Session(comm=None) as session:
        session.run(count.initializer)
        given = np.ones((2, 3), np.float32)
        assert session.run(y, {x: given, training: False})[0, 0] == 2 and session.run(count) == 0
        assert {n.type for n in last_plan(session).nodes} <= {"Feed", "Const", "Add", "Fused"}
        assert session.run(y, {x: given, training: True})[0, 0] == pytest.approx(np.e)
        assert session.run(count) == 1


def test_what_branches_write_is_written_where_they_are_taken() -> None:
    x = dt.placeholder(dt.float32, [])
    a, b = dt.Variable(1.0), dt.Variable([1.0, 1.0])
    outside = dt.assign(b, b * 3)

    def yes() -> Any:
        first = dt.assign(a, 10 * x)
        return dt.cond(x > 5, lambda: dt.assign_add(a, 1), lambda: dt.identity(first))

    def no() -> Any:
        with dt.control_dependencies([outside]):
            return dt.assign_sub(a, 1)

    y = dt.cond(x > 2, yes, no)
    done = dt.cond(x > 2, lambda: dt.group(dt.assign(b, [7, 7])), lambda: dt.no_op())
    with dt.Session(comm=None) as session:
        session.run(dt.global_variables_initializer())
        assert session.run(y, {x: 1}) == 0 == session.run(a)
        assert session.run(b).tolist() == [3, 3]  # what a branch needs of outside is done anyway
        assert session.run(y, {x: 3}) == 30 == session.run(a)
        assert session.run(b).tolist() == [9, 9]
        session.run(done, {x: 1})
        assert session.run(b).tolist() == [9, 9]
        session.run(done, {x: 4})
        assert session.run(b).tolist() == [7, 7]
        assert session.run(y, {x: 6}) == session.run(a)


def test_a_loop_of_values_is_one_op_alike_on_ranks(on_threads: Callable[..., list[Any]]) -> None:
    def body(comm: Communicator) -> Any:
        with dt.Graph().as_default():
            x = dt.placeholder(dt.float32, [None, 2])
            y, steps, _ = dt.while_loop(
                lambda y, i, t: dt.reduce_max(y) < 100,
                lambda y, i, t: (y + dt.transpose(dt.reshape(dt.matmul(t, y, True), [2, 2]))[0], i + 1, t),
                [x, 0, dt.ones_like(x)],
            )
            with dt.Session(comm=comm) as session:
                low, high = shard_bounds(5, comm.rank, comm.size)
                rows = np.arange(10, dtype=np.float32).reshape(5, 2)[low:high]
                found = session.run([y, steps], {x: dt.Shard(rows, 5)})
                assert sum(n.type == "While" for n in last_plan(session).nodes) == 1
                return found

    x, steps = np.arange(10, dtype=np.float32).reshape(5, 2), 0
    while x.max() < 100:
        x, steps = x + (np.ones((5, 2)).T @ x).reshape(2, 2).T[0], steps + 1
    for ranks in (1, 2, 3):
        for got in on_threads(ranks, body):
            np.testing.assert_allclose(got[0], x)
            assert got[1] == steps


def test_a_run_with_loops_is_saved_and_read_back(tmp_path: Path) -> None:
    x = dt.placeholder(dt.float32, [2, 3, 4])
    outputs, _ = dt.nn.dynamic_rnn(dt.nn.rnn_cell.GRUCell(3), x, dtype=dt.float32)
    given = {x: np.ones((2, 3, 4), np.float32)}
    saver = dt.train.Saver()
    text = str(dt.get_default_graph().as_graph_def())
    assert 'name: "rnn/gru_cell/gates/kernel"' in text and "Loop" in text
    with dt.Session(comm=None) as session:
        session.run(dt.global_variables_initializer())
        right = session.run(outputs, given)
        path = saver.save(session, str(tmp_path / "model"))
    with dt.Session(comm=None) as session:
        saver.restore(session, path)
        np.testing.assert_array_equal(session.run(outputs, given), right)


def test_tensorboard_gets_the_graph(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="summaries are written with TensorBoard's library")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    x = dt.placeholder(dt.float32, [2, 3, 4])
    outputs, _ = dt.nn.dynamic_rnn(dt.nn.rnn_cell.GRUCell(3), x, dtype=dt.float32)
    dt.cond(dt.reduce_sum(outputs) > 0, lambda: outputs, lambda: -outputs)
    dt.summary.FileWriter(str(tmp_path), dt.get_default_graph()).close()
    log = EventAccumulator(str(tmp_path))
    log.Reload()
    names = {node.name for node in log.Graph().node}
    assert {"rnn/while", "rnn/gru_cell/gates/kernel", "cond/Merge"} <= names


# -- cells of contrib, losses ------------------------------------------------------------------------------
def test_cells_with_variables_around_others() -> None:
    rnn, x = dt.contrib.rnn, dt.ones([2, 3])
    cell = rnn.OutputProjectionWrapper(rnn.InputProjectionWrapper(rnn.GRUCell(4), 6), 5, activation="relu")
    words = rnn.EmbeddingWrapper(rnn.BasicLSTMCell(2), 9, 7)
    y, state = cell(x, cell.zero_state(2, dt.float32))
    z, _ = words(dt.constant([[1], [8]]), words.zero_state(2, dt.float32))
    assert (y.shape.as_list(), state.shape.as_list(), z.shape.as_list()) == ([2, 5], [2, 4], [2, 2])
    assert {v.op.name: v.shape.as_list() for v in dt.trainable_variables()} == {
        "output_projection_wrapper/input_projection_wrapper/kernel": [3, 6],
        "output_projection_wrapper/input_projection_wrapper/bias": [6],
        "output_projection_wrapper/input_projection_wrapper/gru_cell/gates/kernel": [10, 8],
        "output_projection_wrapper/input_projection_wrapper/gru_cell/gates/bias": [8],
        "output_projection_wrapper/input_projection_wrapper/gru_cell/candidate/kernel": [10, 4],
        "output_projection_wrapper/input_projection_wrapper/gru_cell/candidate/bias": [4],
        "output_projection_wrapper/kernel": [4, 5],
        "output_projection_wrapper/bias": [5],
        "embedding_wrapper/embedding": [9, 7],
        "embedding_wrapper/basic_lstm_cell/kernel": [9, 8],
        "embedding_wrapper/basic_lstm_cell/bias": [8],
    }
    assert len(cell.trainable_variables) == 8 and len(words.variables) == 3


def test_layer_normalisation_in_a_cell() -> None:
    random = np.random.default_rng(0)
    x, c, h = (random.standard_normal((3, n)).astype(np.float32) for n in (4, 2, 2))
    cell = dt.contrib.rnn.LayerNormBasicLSTMCell(2, forget_bias=0.5, norm_gain=1.5, norm_shift=0.25)
    y, (after, _) = cell(x, (c, h))
    kernel = random.standard_normal((6, 8)).astype(np.float32)
    with dt.Session(comm=None) as session:
        session.run(dt.global_variables_initializer())
        dt.trainable_variables()[0].load(kernel, session)
        found = session.run([y, after])

    def normal(a: np.ndarray) -> np.ndarray:
        centred = a - a.mean(1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-12) * 1.5 + 0.25

    def sigmoid(a: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-a))

    i, j, f, o = (normal(part) for part in np.split(np.concatenate([x, h], 1) @ kernel, 4, 1))
    right = normal(c * sigmoid(f + 0.5) + sigmoid(i) * np.tanh(j))
    np.testing.assert_allclose(found[1], right, 1e-4, 1e-5)
    np.testing.assert_allclose(found[0], np.tanh(right) * sigmoid(o), 1e-4, 1e-5)


def test_layers_of_both_ways() -> None:
    rnn, x = dt.contrib.rnn, dt.ones([2, 5, 3])

    def cells() -> list[Any]:
        return [rnn.GRUCell(4), rnn.GRUCell(3)]

    outputs, fw, bw = rnn.stack_bidirectional_dynamic_rnn(cells(), cells(), x, dtype=dt.float32)
    listed, fw_too, _ = rnn.stack_bidirectional_rnn(
        cells(), cells(), dt.unstack(x, 5, 1), dtype=dt.float32, scope="l"
    )
    assert outputs.shape.as_list() == [2, 5, 6] and [s.shape.as_list() for s in fw] == [[2, 4], [2, 3]]
    assert len(listed) == 5 and listed[0].shape.as_list() == [2, 6] and len(bw) == len(fw_too) == 2
    names = [v.op.name for v in dt.trainable_variables()]
    assert names[0] == "stack_bidirectional_rnn/cell_0/bidirectional_rnn/fw/gru_cell/gates/kernel"
    assert names[-1] == "l/cell_1/bidirectional_rnn/bw/gru_cell/candidate/bias"


def test_losses_of_sequences() -> None:
    random = np.random.default_rng(0)
    logits, targets = random.standard_normal((2, 3, 4)).astype(np.float32), random.integers(0, 4, (2, 3))
    weights = np.array([[1, 0.5, 0], [1, 1, 2]], np.float32)
    costs = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    costs = costs * weights
    loss, old = dt.contrib.seq2seq.sequence_loss, dt.contrib.legacy_seq2seq
    steps = [list(np.moveaxis(a, 1, 0)) for a in (logits, targets, weights)]
    with dt.Session(comm=None) as session:
        found = session.run(
            [
                loss(logits, targets, weights),
                loss(logits, targets, weights, average_across_batch=False),
                loss(logits, targets, weights, average_across_timesteps=False),
                loss(logits, targets, weights, False, False),
                old.sequence_loss_by_example(*steps),
                old.sequence_loss(*steps, average_across_timesteps=False),
            ]
        )
    each = costs.sum(1) / weights.sum(1)
    right = [costs.sum() / weights.sum(), each, costs.sum(0) / weights.sum(0), costs, each, costs.sum() / 2]
    for value, expected in zip(found, right, strict=True):
        np.testing.assert_allclose(value, expected, 1e-5)


def test_a_decoder_fed_with_what_it_gives() -> None:
    cell = dt.nn.rnn_cell.BasicRNNCell(3)
    first = dt.ones([2, 3])
    outputs, last = dt.contrib.legacy_seq2seq.rnn_decoder(
        [dt.zeros([2, 3])] * 3, first, cell, loop_function=lambda y, i: y + i
    )
    by_hand, state = dt.zeros([2, 3]), first
    for i in range(3):
        with dt.variable_scope("rnn_decoder", reuse=True):
            y, state = cell(by_hand, state)
        by_hand = y + (i + 1)
    with dt.Session(comm=None) as session:
        session.run(dt.global_variables_initializer())
        given, right = session.run([outputs[-1], y])
        np.testing.assert_allclose(given, right, 1e-6)
    assert len(outputs) == 3 and last is not None and len(dt.trainable_variables()) == 2


# -- what is refused -------------------------------------------------------------------------------------
def run(fetch: Any, feeds: Any = None) -> Any:
    with dt.Session(comm=None) as session:
        session.run(dt.global_variables_initializer())
        return session.run(fetch, feeds)


def test_refusals_while_a_graph_is_built() -> None:
    x, cell = dt.ones([2, 3, 4]), dt.nn.rnn_cell.GRUCell(3)
    with pytest.raises(GraphError, match=r"If there is no initial_state, you must give a dtype"):
        dt.nn.dynamic_rnn(cell, x)
    with pytest.raises(GraphError, match=r"last axis of the inputs has to have a known size"):
        dt.nn.dynamic_rnn(cell, dt.placeholder(dt.float32, [2, 3, None]), dtype=dt.float32)
    with pytest.raises(TypeError, match="is no RNNCell"):
        dt.nn.dynamic_rnn(3, x, dtype=dt.float32)
    with pytest.raises(TypeError, match="pred is a Python bool"):
        dt.cond(True, lambda: x, lambda: x)
    with pytest.raises(GraphError, match="different structures"):
        dt.cond(dt.constant(True), lambda: (x, x), lambda: x)
    with pytest.raises(GraphError, match="must return something"):
        dt.cond(dt.constant(True), lambda: None, lambda: x)
    with pytest.raises(GraphError, match="float32 and int32"):
        dt.cond(dt.constant(True), lambda: x, lambda: dt.constant(1))
    with pytest.raises(GraphError, match="say with shape_invariants"):
        dt.while_loop(lambda y: dt.constant(True), lambda y: dt.concat([y, y], 0), [x])
    with pytest.raises(GraphError, match="is float32 where int32 is needed"):
        dt.while_loop(lambda i: i < 3, lambda i: dt.cast(i, dt.float32), [0])
    with pytest.raises(GraphError, match="say dtype"):
        dt.map_fn(lambda row: dt.argmax(row, 0), x)
    with pytest.raises(AttributeError, match="no connectionist temporal classification"):
        _ = dt.nn.ctc_loss
    with pytest.raises(AttributeError, match="no decoders and attention"):
        _ = dt.contrib.seq2seq.BeamSearchDecoder


def test_refusals_of_plans() -> None:
    x = dt.placeholder(dt.float32, [None])
    leaked: list[Any] = []
    y = dt.while_loop(lambda y: dt.reduce_sum(y) < 10, lambda y: leaked.append(y) or y * 2, [x])
    feed = {x: [1.0]}
    with pytest.raises(InvalidArgumentError, match="it has no gradient: give while_loop maximum_iterations"):
        run(dt.gradients(y, x), feed)
    with pytest.raises(InvalidArgumentError, match="has a value only there"):
        run(leaked[0] + 1, feed)
    with pytest.raises(InvalidArgumentError, match="index of a TensorArray follows from values"):
        run(dt.TensorArray(dt.float32, 3).write(dt.cast(x[0], dt.int32), x).stack(), feed)
    with pytest.raises(InvalidArgumentError, match=r"has no entry 1: of 3 nothing was written"):
        run(dt.TensorArray(dt.float32, 3).write(0, x).read(1), feed)
    with pytest.raises(InvalidArgumentError, match="its branches give"):
        run(dt.cond(x[0] > 0, lambda: x, lambda: dt.concat([x, x], 0)), feed)
    v = dt.Variable(1.0)
    with pytest.raises(InvalidArgumentError, match="only a loop with counted steps can"):
        run(dt.while_loop(lambda y: y[0] < 10, lambda y: y + dt.assign_add(v, 1), [x]), feed)
    train = dt.cond(x[0] > 0, lambda: dt.train.AdamOptimizer().minimize(v * v), dt.no_op)
    with pytest.raises(InvalidArgumentError, match="in a branch that is taken by values"):
        run(train, feed)
    neither = dt.case([(x[0] > 5, lambda: x), (x[0] > 4, lambda: -x)])
    with pytest.raises(InvalidArgumentError, match="0 of its 2 conditions are true"):
        run(neither, feed)


def test_a_gradient_stops_where_it_is_told() -> None:
    x = dt.Variable(3.0)
    y = x * x
    z = y * x
    assert run(dt.gradients(z, [x, y], stop_gradients=[y])) == [9, 3]


def test_an_array_grows_and_is_gathered() -> None:
    array = dt.TensorArray(dt.float32, size=0, dynamic_size=True)
    _, array = dt.while_loop(
        lambda i, a: i < 5, lambda i, a: (i + 1, a.write(i, dt.cast(i * [1, 2], "float32"))), [0, array]
    )
    found = run(
        [array.gather([1, 3]), array.concat(), array.size(), array.scatter([0], [[9.0, 9.0]]).read(0)]
    )
    assert found[0].tolist() == [[1, 2], [3, 6]] and found[1].tolist() == [0, 0, 1, 2, 2, 4, 3, 6, 4, 8]
    assert found[2] == 5 and found[3].tolist() == [9, 9]


def test_shapes_that_grow() -> None:
    x = dt.placeholder(dt.float32, [None, 2])
    shapes = [dt.TensorShape([]), dt.TensorShape([None, 2])]
    _, y = dt.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, dt.concat([y, y], 0)), [0, x], shapes)
    assert y.shape == (None, 2)
    slope, found = run([dt.gradients(y, x)[0], y], {x: [[1.0, 2.0]]})
    assert found.tolist() == [[1, 2]] * 8 and slope.tolist() == [[8, 8]]


def test_a_second_gradient() -> None:
    x = dt.placeholder(dt.float32, [4])
    y = dt.foldl(lambda a, b: a * b + b, x)
    (first,) = dt.gradients(y, x)
    (second,) = dt.gradients(first, x)
    given, delta = np.array([0.5, -1.2, 0.7, 1.1], np.float32), 1e-2
    with dt.Session(comm=None) as session:
        found = session.run(second, {x: given})
        for i in range(4):
            step = np.eye(4, dtype=np.float32)[i] * delta
            up, down = (session.run(first, {x: given + s}).sum() for s in (step, -step))
            assert found[i] == pytest.approx((up - down) / (2 * delta), abs=2e-3)


def test_a_state_is_fed_as_what_it_was_fetched_as() -> None:
    x = dt.placeholder(dt.float32, [2, 3, 4])
    layers = [dt.nn.rnn_cell.LSTMCell(3), dt.nn.rnn_cell.GRUCell(5)]
    cell = dt.nn.rnn_cell.MultiRNNCell(layers)
    first = cell.zero_state(2, dt.float32)
    outputs, last = dt.nn.dynamic_rnn(cell, x, initial_state=first)
    values = np.random.default_rng(0).standard_normal((2, 6, 4)).astype(np.float32)
    with dt.Session(comm=None) as session:
        session.run(dt.global_variables_initializer())
        state = session.run(last, {x: values[:, :3]})
        assert type(state[0]) is dt.nn.rnn_cell.LSTMStateTuple
        after = session.run(outputs, {x: values[:, 3:], first: state})
        assert (after != session.run(outputs, {x: values[:, 3:]})).all()
        with pytest.raises(InvalidArgumentError, match="for a tuple of 2 tensors"):
            session.run(outputs, {x: values[:, 3:], first: np.zeros(3)})


def test_a_net_over_time_has_one_sum_and_no_gathers(on_threads: Callable[..., list[Any]]) -> None:
    """Also where the outputs of all steps go through one product, if ranks have equal shares."""

    def body(comm: Communicator) -> dict[str, int]:
        with dt.Graph().as_default():
            x, n = dt.placeholder(dt.float32, [None, 5, 3]), dt.placeholder(dt.int32, [None])
            outputs, _ = dt.nn.dynamic_rnn(dt.nn.rnn_cell.GRUCell(4), x, n, dtype=dt.float32)
            logits = dt.matmul(dt.reshape(outputs, [-1, 4]), dt.get_variable("w", [4, 2]))
            loss = dt.reduce_mean(dt.square(logits - dt.reshape(x[:, :, :2], [-1, 2])))
            train = dt.train.GradientDescentOptimizer(0.1).minimize(loss)
            with dt.Session(comm=comm, device=Backend("numpy")) as session:
                session.run(dt.global_variables_initializer())
                rows = dt.Shard(np.ones((3, 5, 3), np.float32), 6)
                session.run([train, loss], {x: rows, n: dt.Shard([5, 3, 1], 6)})
                types = [n.type for n in last_plan(session).nodes]
        return {kind: types.count(kind) for kind in ("AllReduce", "AllGather")}

    assert on_threads(2, body) == [{"AllReduce": 1, "AllGather": 0}] * 2


def test_long_sequences() -> None:
    """Steps behind one another are more than Python's stack would hold."""
    x = dt.placeholder(dt.float32, [1, 120, 1])
    loop, _ = dt.nn.dynamic_rnn(dt.nn.rnn_cell.BasicRNNCell(1), x, dtype=dt.float32)
    with dt.variable_scope("", reuse=True):
        listed, _ = dt.nn.static_rnn(dt.nn.rnn_cell.BasicRNNCell(1), dt.unstack(x, 120, 1), dtype=dt.float32)
    both = [loop[0, :, 0], dt.stack(listed)[:, 0, 0]]
    slopes = [dt.gradients(y, dt.trainable_variables())[0] for y in both]
    a, b, da, db = run([*both, *slopes], {x: np.ones((1, 120, 1), np.float32)})
    np.testing.assert_allclose(a, b, 1e-6)
    np.testing.assert_allclose(da, db, 1e-4)


def test_one_cell_in_several_layers() -> None:
    rnn = dt.nn.rnn_cell
    for depth, names in (
        (3, {"a/multi_rnn_cell/cell_0", "a/multi_rnn_cell/cell_1"}),
        (4, {"a/multi_rnn_cell/cell_0"}),
    ):
        with dt.Graph().as_default():
            cell = rnn.MultiRNNCell([rnn.DropoutWrapper(rnn.BasicRNNCell(4), 0.5)] * 2)
            dt.nn.dynamic_rnn(cell, dt.ones([2, 5, depth]), dtype=dt.float32, scope="a")
            assert {v.op.name.rpartition("/basic_rnn_cell/")[0] for v in dt.trainable_variables()} == names
