"""What TensorFlow answers for recurrent nets and control flow: the cases, and what writes the values.

    TF_USE_LEGACY_KERAS=1 python tests/reference/tensorflow_rnn.py

needs TensorFlow 2 with tf_keras, and nothing of dtrain; it writes tensorflow_rnn.json beside itself. A case
is a function of `tf` and a batch `x` [5, 4, 3] of float32, lengths `n` [5] and a boolean `b`, which are fed.
Of its outputs the values count, the gradients of a weighted sum to x and to all variables, and the variables'
names.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

VALUES = Path(__file__).with_suffix(".json")
BATCH, TIME, DEPTH, UNITS = 5, 4, 3, 2
LENGTHS = np.array([4, 1, 3, 2, 4], np.int32)

CASES: dict[str, Callable[..., Any]] = {}


def case(function: Callable[..., Any]) -> Callable[..., Any]:
    CASES[function.__name__] = function
    return function


# -- cells and nets --------------------------------------------------------------------------------------
def _dynamic(cell: Any, **options: Any) -> Callable[..., Any]:
    def build(tf: Any, x: Any, n: Any, b: Any) -> Any:
        lengths = {"sequence_length": n} if options.get("lengths") else {}
        return tf.nn.dynamic_rnn(cell(tf.nn.rnn_cell), x, dtype=tf.float32, **lengths)

    return build


CELLS: dict[str, Callable[[Any], Any]] = {
    "basic_rnn": lambda c: c.BasicRNNCell(UNITS),
    "gru": lambda c: c.GRUCell(UNITS),
    "basic_lstm": lambda c: c.BasicLSTMCell(UNITS, forget_bias=0.5),
    "basic_lstm_side_by_side": lambda c: c.BasicLSTMCell(UNITS, state_is_tuple=False),
    "lstm": lambda c: c.LSTMCell(UNITS),
    "lstm_peepholes": lambda c: c.LSTMCell(UNITS, use_peepholes=True, cell_clip=0.3),
    "lstm_projection": lambda c: c.LSTMCell(UNITS, num_proj=3, proj_clip=0.1, forget_bias=0.0),
    "lstm_side_by_side": lambda c: c.LSTMCell(UNITS, num_proj=3, state_is_tuple=False, use_peepholes=True),
    "multi": lambda c: c.MultiRNNCell([c.GRUCell(UNITS), c.LSTMCell(3), c.BasicRNNCell(UNITS)]),
    "multi_side_by_side": lambda c: c.MultiRNNCell([c.GRUCell(2), c.GRUCell(3)], state_is_tuple=False),
    "residual": lambda c: c.ResidualWrapper(c.GRUCell(DEPTH)),
    "kept": lambda c: c.DropoutWrapper(c.BasicLSTMCell(UNITS), 1.0, 1.0, 1.0),
}
for _name, _cell in CELLS.items():
    CASES[f"dynamic_{_name}"] = _dynamic(_cell)
    CASES[f"lengths_{_name}"] = _dynamic(_cell, lengths=True)


@case
def static(tf: Any, x: Any, n: Any, b: Any) -> Any:
    return tf.nn.static_rnn(tf.nn.rnn_cell.BasicLSTMCell(UNITS), tf.unstack(x, TIME, 1), dtype=tf.float32)


@case
def static_lengths(tf: Any, x: Any, n: Any, b: Any) -> Any:
    cell = tf.nn.rnn_cell.GRUCell(UNITS)
    return tf.nn.static_rnn(cell, tf.unstack(x, TIME, 1), dtype=tf.float32, sequence_length=n, scope="net")


@case
def time_major(tf: Any, x: Any, n: Any, b: Any) -> Any:
    cell = tf.nn.rnn_cell.GRUCell(UNITS)
    first = tf.reduce_sum(x, 1)[:, :UNITS]
    return tf.nn.dynamic_rnn(cell, tf.transpose(x, [1, 0, 2]), n, first, time_major=True, scope="net")


@case
def bidirectional(tf: Any, x: Any, n: Any, b: Any) -> Any:
    c = tf.nn.rnn_cell
    return tf.nn.bidirectional_dynamic_rnn(c.GRUCell(UNITS), c.BasicLSTMCell(3), x, dtype=tf.float32)


@case
def bidirectional_lengths(tf: Any, x: Any, n: Any, b: Any) -> Any:
    c = tf.nn.rnn_cell
    return tf.nn.bidirectional_dynamic_rnn(c.LSTMCell(UNITS), c.GRUCell(3), x, n, dtype=tf.float32)


@case
def static_bidirectional(tf: Any, x: Any, n: Any, b: Any) -> Any:
    c, xs = tf.nn.rnn_cell, tf.unstack(x, TIME, 1)
    return tf.nn.static_bidirectional_rnn(c.GRUCell(UNITS), c.GRUCell(3), xs, dtype=tf.float32)


@case
def static_bidirectional_lengths(tf: Any, x: Any, n: Any, b: Any) -> Any:
    c, xs = tf.nn.rnn_cell, tf.unstack(x, TIME, 1)
    return tf.nn.static_bidirectional_rnn(
        c.BasicRNNCell(UNITS), c.GRUCell(3), xs, dtype=tf.float32, sequence_length=n
    )


@case
def shared_cell(tf: Any, x: Any, n: Any, b: Any) -> Any:
    cell = tf.nn.rnn_cell.GRUCell(UNITS)
    first = tf.nn.dynamic_rnn(cell, x, dtype=tf.float32, scope="one")
    return first, tf.nn.dynamic_rnn(cell, -x, dtype=tf.float32, scope="two")


@case
def reused_scope(tf: Any, x: Any, n: Any, b: Any) -> Any:
    with tf.variable_scope("net"):
        first = tf.nn.dynamic_rnn(tf.nn.rnn_cell.GRUCell(UNITS), x, dtype=tf.float32)
    with tf.variable_scope("net", reuse=True):
        return first, tf.nn.dynamic_rnn(tf.nn.rnn_cell.GRUCell(UNITS), 2 * x, dtype=tf.float32)


@case
def two_in_a_scope(tf: Any, x: Any, n: Any, b: Any) -> Any:
    a, c = tf.nn.rnn_cell.GRUCell(UNITS), tf.nn.rnn_cell.GRUCell(UNITS)
    h = tf.zeros([BATCH, UNITS])
    with tf.variable_scope("net"):
        return a(x[:, 0], h), c(x[:, 1], h), a(x[:, 2], h)


@case
def own_cell(tf: Any, x: Any, n: Any, b: Any) -> Any:
    class Leaky(tf.nn.rnn_cell.RNNCell):
        def __init__(self) -> None:
            super().__init__()

        @property
        def state_size(self) -> int:
            return UNITS

        @property
        def output_size(self) -> int:
            return UNITS

        def call(self, inputs: Any, state: Any) -> Any:
            w = tf.get_variable("w", [DEPTH, UNITS])
            state = 0.5 * state + tf.matmul(inputs, w)
            return tf.nn.relu(state), state

    return tf.nn.dynamic_rnn(Leaky(), x, dtype=tf.float32)


@case
def own_call(tf: Any, x: Any, n: Any, b: Any) -> Any:
    class Old(tf.nn.rnn_cell.RNNCell):
        state_size = output_size = UNITS

        def __init__(self) -> None:
            super().__init__()

        def __call__(self, inputs: Any, state: Any, scope: Any = None) -> Any:
            with tf.variable_scope(scope or "old"):
                w = tf.get_variable("w", [DEPTH, UNITS])
                state = tf.tanh(state + tf.matmul(inputs, w))
            return state, state

    return tf.nn.dynamic_rnn(Old(), x, sequence_length=n, dtype=tf.float32)


@case
def inputs_of_two(tf: Any, x: Any, n: Any, b: Any) -> Any:
    class Sum(tf.nn.rnn_cell.RNNCell):
        state_size = DEPTH
        output_size = (DEPTH, DEPTH)

        def call(self, inputs: Any, state: Any) -> Any:
            first, second = inputs
            state = state + first * second
            return (state, first - second), state

    return tf.nn.dynamic_rnn(Sum(), (x, x * x), n, dtype=tf.float32)


# -- control flow ----------------------------------------------------------------------------------------
@case
def cond_fed(tf: Any, x: Any, n: Any, b: Any) -> Any:
    w = tf.get_variable("w", [DEPTH])
    return tf.cond(b, lambda: x * w, lambda: x + w)


@case
def cond_not_fed(tf: Any, x: Any, n: Any, b: Any) -> Any:
    w = tf.get_variable("w", [DEPTH])
    return tf.cond(tf.logical_not(b), lambda: (x * w, w), lambda: (x + w, 2 * w))


@case
def cond_by_value(tf: Any, x: Any, n: Any, b: Any) -> Any:
    w = tf.get_variable("w", [DEPTH])
    above = tf.cond(tf.reduce_sum(x) > 100, lambda: tf.log(x - 9), lambda: x * w)
    return above, tf.cond(tf.reduce_sum(x) < 100, lambda: tf.exp(x * w), lambda: tf.sqrt(x))


@case
def cond_in_cond(tf: Any, x: Any, n: Any, b: Any) -> Any:
    w = tf.get_variable("w", [DEPTH])
    return tf.cond(
        b,
        lambda: tf.cond(tf.reduce_max(x) > 0, lambda: tf.square(x * w), lambda: x),
        lambda: x - 1,
    )


@case
def case_(tf: Any, x: Any, n: Any, b: Any) -> Any:
    total = tf.reduce_sum(x)
    pairs = [(total > 100, lambda: x), (total < 100, lambda: x * x)]
    return tf.case(pairs, default=lambda: -x, exclusive=True)


@case
def while_counted(tf: Any, x: Any, n: Any, b: Any) -> Any:
    w = tf.get_variable("w", [DEPTH])
    return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, tf.sin(y * w) + x), [0, x])


@case
def while_to_a_size(tf: Any, x: Any, n: Any, b: Any) -> Any:
    loop = tf.while_loop(lambda i, y: i < tf.shape(x)[1], lambda i, y: [i + 1, y + x[:, i]], [0, x[:, 0]])
    return loop[1]


@case
def while_by_value(tf: Any, x: Any, n: Any, b: Any) -> Any:
    return tf.while_loop(
        lambda y: tf.reduce_sum(tf.abs(y)) < 1000, lambda y: y * 2 * tf.cos(x), [x], maximum_iterations=30
    )


@case
def while_in_while(tf: Any, x: Any, n: Any, b: Any) -> Any:
    def row(i: Any, y: Any) -> Any:
        inner = tf.while_loop(lambda j, z: j < i, lambda j, z: (j + 1, z * x[:, j]), [0, y])
        return i + 1, inner[1] + 1

    return tf.while_loop(lambda i, y: i < TIME, row, [0, x[:, 0]])


@case
def cond_in_while(tf: Any, x: Any, n: Any, b: Any) -> Any:
    def step(i: Any, y: Any) -> Any:
        y = tf.cond(tf.equal(i % 2, 0), lambda: y * x, lambda: y + 1)
        return i + 1, tf.cond(tf.reduce_sum(y) > 0, lambda: y * 0.5, lambda: tf.exp(y))

    return tf.while_loop(lambda i, y: i < 5, step, [0, x])


@case
def while_array(tf: Any, x: Any, n: Any, b: Any) -> Any:
    first = tf.TensorArray(tf.float32, size=TIME)
    given = tf.TensorArray(tf.float32, size=TIME).unstack(tf.transpose(x, [1, 0, 2]))

    def step(i: Any, y: Any, array: Any) -> Any:
        y = tf.tanh(y + given.read(TIME - 1 - i))
        return i + 1, y, array.write(i, y * y)

    _, last, array = tf.while_loop(lambda i, y, a: i < TIME, step, [0, x[:, 0], first])
    return last, array.stack()


@case
def map_(tf: Any, x: Any, n: Any, b: Any) -> Any:
    w = tf.get_variable("w", [DEPTH, UNITS])
    return tf.map_fn(lambda row: tf.matmul(row, w) / tf.sqrt(tf.reduce_sum(row * row)), x)


@case
def map_two(tf: Any, x: Any, n: Any, b: Any) -> Any:
    return tf.map_fn(
        lambda p: (p[0] * tf.cast(p[1], tf.float32), p[1] + 1), (x, n), dtype=(tf.float32, tf.int32)
    )


@case
def scan_(tf: Any, x: Any, n: Any, b: Any) -> Any:
    w = tf.get_variable("w", [DEPTH])
    xs = tf.transpose(x, [1, 0, 2])
    started = tf.scan(lambda a, y: tf.tanh(a * w + y), xs, tf.zeros([BATCH, DEPTH]))
    return started, tf.scan(lambda a, y: a * y, xs), tf.scan(lambda a, y: a * w + y, xs, reverse=True)


@case
def scan_two(tf: Any, x: Any, n: Any, b: Any) -> Any:
    xs = tf.transpose(x, [1, 0, 2])
    return tf.scan(
        lambda a, y: (a[0] + y[0] * a[1], a[1] * 0.9),
        (xs, xs * xs),
        (tf.ones([BATCH, DEPTH]), tf.constant(2.0)),
    )


@case
def folds(tf: Any, x: Any, n: Any, b: Any) -> Any:
    w = tf.get_variable("w", [DEPTH])
    left = tf.foldl(lambda a, y: a * w + y, tf.transpose(x, [1, 0, 2]))
    return left, tf.foldr(lambda a, y: tf.sin(a) + y, x, tf.ones([TIME, DEPTH]))


# -- both sides ------------------------------------------------------------------------------------------
def flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in flat(part)]
    return [value]


def drawn(name: str, shape: Any) -> np.ndarray:
    """Numbers that follow from a name."""
    return np.random.RandomState(zlib.crc32(name.encode()) % 2**32).uniform(-1, 1, shape).astype(np.float32)


def fed() -> list[np.ndarray]:
    return [drawn("x", (BATCH, TIME, DEPTH)), LENGTHS, np.array(True)]


def build(tf: Any, name: str) -> tuple[list[Any], list[Any], list[Any]]:
    """Placeholders, what to fetch, and the variables of a case, in a graph that is empty."""
    places = [
        tf.placeholder(tf.float32, [None, TIME, DEPTH]),
        tf.placeholder(tf.int32, [None]),
        tf.placeholder(tf.bool, []),
    ]
    outs = flat(CASES[name](tf, *places))
    variables = tf.trainable_variables()
    floating = [y for y in outs if y.dtype.name.startswith("float")]
    total = tf.add_n([tf.reduce_sum(tf.sin(y + 0.5)) for y in floating])
    slopes = tf.gradients(total, [places[0], *variables])
    return places, [*outs, *(s for s in slopes if s is not None)], variables


def main() -> None:
    import tensorflow

    tf = tensorflow.compat.v1
    tf.disable_v2_behavior()
    tf.disable_control_flow_v2()
    values: dict[str, Any] = {"TensorFlow": tensorflow.__version__}
    for name in CASES:
        with tf.Graph().as_default(), tf.Session() as session:
            places, fetches, variables = build(tf, name)
            for v in variables:
                v.load(drawn(v.op.name, v.shape.as_list()), session)
            found = session.run(fetches, dict(zip(places, fed(), strict=True)))
        values[name] = {
            "variables": {v.op.name: v.shape.as_list() for v in variables},
            "values": [_text(a) for a in found],
        }
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in values.items())
    VALUES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _text(array: np.ndarray) -> str:
    """Shape, then the numbers to 6 digits."""
    return f"{list(np.shape(array))} " + " ".join(f"{v:.6g}" for v in np.ravel(array))


def read(text: str) -> np.ndarray:
    shape, _, numbers = text.partition("] ")
    dims = json.loads(f"{shape}]")
    return np.array([float(v) for v in numbers.split()]).reshape(dims)


if __name__ == "__main__":
    main()
