"""Keras's layers, initializers, regularizers and activations, against NumPy in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import GraphError, UsageError
from dtrain.keras import activations, initializers, regularizers
from dtrain.keras.layers import (
    Activation,
    AveragePooling2D,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    Layer,
    MaxPooling2D,
    Reshape,
)
from dtrain.keras.models import Sequential
from dtrain.ops.base import apply
from dtrain.ops.normalize import MeanOfShard
from dtrain.ops.placement import shard_bounds

Array = np.ndarray


def draw(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).uniform(-1, 1, shape)


def on(layer: Layer, x: Array, weights: list[Array] | None = None) -> Array:
    """The layer's output for x, while testing."""
    model = Sequential([Input(x.shape[1:]), layer], comm=None)
    if weights is not None:
        model.set_weights(weights)
    return model.predict(x.astype(np.float32))


# -- references ------------------------------------------------------------------------------------------
def windows(x: Array, size: tuple[int, int], strides: tuple[int, int], same: bool) -> tuple[Array, Array]:
    """[n, down, across, h, w, channels] of padded x (zeros), and the same of where it is not padding."""
    (h, w), (sy, sx) = size, strides
    inside = np.ones_like(x)
    if same:
        pads = []
        for length, k, s in ((x.shape[1], h, sy), (x.shape[2], w, sx)):
            total = max((-(-length // s) - 1) * s + k - length, 0)
            pads.append((total // 2, total - total // 2))
        x, inside = (np.pad(a, [(0, 0), *pads, (0, 0)]) for a in (x, inside))
    rows, columns = range(0, x.shape[1] - h + 1, sy), range(0, x.shape[2] - w + 1, sx)

    def cut(a: Array) -> Array:
        return np.array([[a[:, i : i + h, j : j + w] for j in columns] for i in rows]).transpose(
            2, 0, 1, 3, 4, 5
        )

    return cut(x), cut(inside)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# -- layers ----------------------------------------------------------------------------------------------
def test_dense() -> None:
    x, w, b = draw(3, 5), draw(5, 4), draw(4)
    np.testing.assert_allclose(on(Dense(4, "tanh"), x, [w, b]), np.tanh(x @ w + b), rtol=1e-5)
    np.testing.assert_allclose(on(Dense(4, use_bias=False), x, [w]), x @ w, rtol=1e-5, atol=1e-6)


def test_dense_works_along_the_last_axis() -> None:
    x, w, b = draw(3, 2, 5), draw(5, 4), draw(4)
    np.testing.assert_allclose(on(Dense(4), x, [w, b]), x @ w + b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
def test_conv2d(padding: str, strides: tuple[int, int]) -> None:
    x, w, b = draw(2, 6, 5, 3), draw(3, 2, 3, 4), draw(4)
    cut, _ = windows(x, (3, 2), strides, padding == "same")
    right = np.maximum(np.einsum("nijhwc,hwco->nijo", cut, w) + b, 0)
    found = on(Conv2D(4, (3, 2), strides, padding, activation="relu"), x, [w, b])
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)


def test_conv2d_with_gaps() -> None:
    x, w = draw(2, 6, 5, 3), draw(2, 2, 3, 4)
    spread = np.zeros((3, 3, 3, 4))
    spread[::2, ::2] = w
    cut, _ = windows(x, (3, 3), (1, 1), False)
    found = on(Conv2D(4, 2, dilation_rate=2, use_bias=False), x, [w])
    np.testing.assert_allclose(found, np.einsum("nijhwc,hwco->nijo", cut, spread), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_pooling(padding: str) -> None:
    x = draw(2, 5, 7, 3)
    cut, inside = windows(x, (2, 3), (2, 3), padding == "same")
    largest = np.where(inside > 0, cut, -np.inf).max((3, 4))
    np.testing.assert_allclose(on(MaxPooling2D((2, 3), padding=padding), x), largest, rtol=1e-6)
    mean = cut.sum((3, 4)) / inside.sum((3, 4))
    np.testing.assert_allclose(on(AveragePooling2D((2, 3), padding=padding), x), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(on(GlobalAveragePooling2D(), x), x.mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_layers_that_only_move() -> None:
    x = draw(3, 4, 6)
    single = x.astype(np.float32)
    np.testing.assert_array_equal(on(Flatten(), x), single.reshape(3, 24))
    np.testing.assert_array_equal(on(Reshape((2, -1, 3)), x), single.reshape(3, 2, 4, 3))
    np.testing.assert_array_equal(on(Dropout(0.5), x), single)
    np.testing.assert_allclose(on(Activation("softmax"), x), softmax(x), rtol=1e-5)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "exponential": np.exp,
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softmax": softmax,
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def test_activations() -> None:
    x = np.linspace(-4, 4, 12).reshape(3, 4)
    assert set(ACTIVATIONS) == set(activations.__all__) - {"get", "deserialize", "serialize"}
    session = dt.Session(comm=None)
    for name, right in ACTIVATIONS.items():
        np.testing.assert_allclose(session.run(activations.get(name)(dt.constant(x))), right(x), err_msg=name)
    leaky = activations.relu(dt.constant(x), alpha=0.1, max_value=2.0)
    np.testing.assert_allclose(session.run(leaky), np.minimum(np.where(x > 0, x, 0.1 * x), 2))
    assert activations.get(None) is activations.linear


# -- batch normalisation ---------------------------------------------------------------------------------
def normalised(x: Array, mean: Array, variance: Array, gamma: Array, beta: Array) -> Array:
    return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta


@pytest.mark.parametrize("shape", [(7, 3), (7, 4, 5, 3)])
def test_batch_normalization_tests_with_moving_averages_of_the_training_batches(
    shape: tuple[int, ...],
) -> None:
    layer = BatchNormalization(momentum=0.7)
    model = Sequential([Input(shape[1:]), layer, Flatten(), Dense(2)], comm=None)
    model.compile("sgd", "mse")
    model.optimizer.learning_rate = 0.0
    x = (3 * draw(*shape) + 1).astype(np.float32)
    axes = tuple(range(len(shape) - 1))
    mean, variance = np.zeros(3), np.ones(3)
    for _ in range(2):
        model.train_on_batch(x, np.zeros((7, 2)))
        mean = 0.7 * mean + 0.3 * x.mean(axes, dtype=float)
        variance = 0.7 * variance + 0.3 * x.var(axes, dtype=float)
    gamma, beta, moving_mean, moving_variance, *dense = model.get_weights()
    np.testing.assert_allclose(moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(moving_variance, variance, rtol=1e-5)
    np.testing.assert_array_equal([gamma, beta], [[1, 1, 1], [0, 0, 0]])
    hidden = normalised(x, mean, variance, gamma, beta).reshape(7, -1)
    np.testing.assert_allclose(model.predict(x), hidden @ dense[0] + dense[1], rtol=1e-4, atol=1e-5)
    assert layer.trainable_weights + layer.non_trainable_weights == layer.weights
    assert [w.op.name.rpartition("/")[2] for w in layer.non_trainable_weights] == [
        "moving_mean",
        "moving_variance",
    ]


def trained_by(layer: Any, x: Array, dy: Array, comm: Any) -> tuple[Array, Array, list[Array]]:
    """(output, gradient to x for dy, moving averages after it) of a layer that trains on the rows of x."""
    rows = dt.placeholder("float64", [None, *x.shape[1:]])
    flow = dt.placeholder("float64", [None, *x.shape[1:]])
    y = dt.cast(layer(dt.cast(rows, "float32"), training=True), "float64")
    (gradient,) = dt.gradients(dt.reduce_sum(y * flow), [rows])
    session = dt.Session(comm=comm)
    session.run(dt.global_variables_initializer())
    low, high = (0, len(x)) if comm is None else shard_bounds(len(x), comm.rank, comm.size)
    feeds = {rows: dt.Shard(x[low:high], len(x)), flow: dt.Shard(dy[low:high], len(x))}
    found = session.run([y, gradient, dt.group(layer.updates)], feeds)
    return found[0], found[1], [np.asarray(v) for v in session.run(layer.weights[2:])]


def gradient_by_hand(x: Array, dy: Array) -> Array:
    """To x, of sum(dy (x - mean) / sqrt(var + eps)) over rows: Ioffe & Szegedy 2015, section 3."""
    s = np.sqrt(x.var(0) + 1e-3)
    n = (x - x.mean(0)) / s
    return (dy - dy.mean(0) - n * (dy * n).mean(0)) / s


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_synchronized_statistics_are_those_of_the_global_batch(
    size: int, on_threads: Callable[..., list[Any]]
) -> None:
    x, dy = 2 * draw(7, 3) + 5, draw(7, 3)
    right = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
    for y, gradient, moving in on_threads(size, lambda c: trained_by(BatchNormalization(), x, dy, c)):
        np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(gradient, gradient_by_hand(x, dy), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(moving[0], 0.01 * x.mean(0), rtol=1e-5)
        np.testing.assert_allclose(moving[1], 0.99 + 0.01 * x.var(0), rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_local_statistics_are_those_of_a_ranks_own_rows(
    size: int, on_threads: Callable[..., list[Any]]
) -> None:
    x, dy = 2 * draw(9, 3) + 5, draw(9, 3)
    bounds = [shard_bounds(9, r, size) for r in range(size)]
    own = [x[a:b] for a, b in bounds]
    right = np.concatenate([(p - p.mean(0)) / np.sqrt(p.var(0) + 1e-3) for p in own])
    flow = np.concatenate([gradient_by_hand(p, dy[a:b]) for p, (a, b) in zip(own, bounds, strict=True)])
    variance = sum(len(p) * p.var(0) for p in own) / 9
    layer = lambda: BatchNormalization(synchronized=False)  # noqa: E731
    for y, gradient, moving in on_threads(size, lambda c: trained_by(layer(), x, dy, c)):
        np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(gradient, flow, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(moving[0], 0.01 * x.mean(0), rtol=1e-5)
        np.testing.assert_allclose(moving[1], 0.99 + 0.01 * variance, rtol=1e-5)


def test_local_statistics_wait_for_no_other_rank(on_threads: Callable[..., list[Any]]) -> None:
    """What the option is for: the forward and backward pass send nothing."""

    def sent(comm: Any, synchronized: bool) -> int:
        layer = BatchNormalization(synchronized=synchronized)
        x = dt.placeholder("float32", [None, 3])
        y = dt.reduce_sum(dt.square(layer(x, training=True)))
        (gradient,) = dt.gradients(y, [x])
        session = dt.Session(comm=comm)
        session.run(dt.global_variables_initializer())
        low, high = shard_bounds(5, comm.rank, comm.size)
        step = session.make_callable([gradient], [x])
        rows = draw(5, 3).astype(np.float32)[low:high]
        for _ in range(3):  # the third run compares nothing between the ranks
            before = len(comm.calls)
            step(dt.Shard(rows, 5))
        return sum(call[0] == "allreduce" for call in comm.calls[before:])

    assert on_threads(2, lambda comm: sent(comm, False)) == [0, 0]
    assert min(on_threads(2, lambda comm: sent(comm, True))) > 0


def test_mean_of_shard_is_its_own_transpose() -> None:
    x, y = draw(4, 5, 3), draw(4, 5, 3)
    feed = dt.placeholder("float64", [None, 5, 3])
    mean = apply(MeanOfShard(), feed)
    (gradient,) = dt.gradients(mean, [feed], grad_ys=[dt.constant(y)])
    found, flow = dt.Session(comm=None).run([mean, gradient], {feed: x})
    np.testing.assert_allclose(found, np.broadcast_to(x.mean((0, 1)), x.shape))
    np.testing.assert_allclose((flow * x).sum(), (y * x.mean((0, 1))).sum())


def test_a_training_flag_may_be_a_tensor() -> None:
    """As `dtrain train` feeds it: 1 takes the batch's statistics and drops, 0 neither."""
    flag = dt.placeholder("float32", [])
    x = dt.constant((2 * draw(50, 3) + 5).astype(np.float32))
    y = BatchNormalization()(x, flag)
    z = Dropout(0.5)(x, flag)
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    rows = session.run(x)
    trained, dropped = session.run([y, z], {flag: 1.0})
    np.testing.assert_allclose(trained.mean(0), 0, atol=1e-5)
    assert set(np.unique((dropped / rows).round(5))) == {0.0, 2.0}
    tested, kept = session.run([y, z], {flag: 0.0})
    np.testing.assert_allclose(tested, rows / np.sqrt(1 + 1e-3), rtol=1e-5)
    np.testing.assert_array_equal(kept, rows)


# -- weights ---------------------------------------------------------------------------------------------
def test_initializers_have_keras_defaults() -> None:
    made = {
        "zeros": (0.0, 0.0),
        "ones": (1.0, 0.0),
        "random_normal": (0.0, 0.05),
        "random_uniform": (0.0, 0.1 / np.sqrt(12)),
        "glorot_uniform": (0.0, np.sqrt(2 / 500)),
        "he_normal": (0.0, np.sqrt(2 / 200)),
        "lecun_uniform": (0.0, np.sqrt(1 / 200)),
        "glorot_normal": (0.0, np.sqrt(2 / 500)),
    }
    dt.set_random_seed(0)
    session = dt.Session(comm=None)
    for name, (mean, deviation) in made.items():
        values = session.run(initializers.get(name)((200, 300), "float32"))
        assert abs(values.mean() - mean) < 1e-3 and abs(values.std() - deviation) < 2e-2 * deviation + 1e-9, (
            name
        )
    np.testing.assert_array_equal(session.run(initializers.Identity(2.0)((3, 2))), 2 * np.eye(3, 2))
    np.testing.assert_array_equal(session.run(initializers.Constant(3)((2,))), [3, 3])


def test_a_layers_first_weights_are_its_initializers() -> None:
    layer = Dense(200, kernel_initializer="he_uniform", bias_initializer=initializers.Constant(0.5))
    kernel, bias = Sequential([Input((300,)), layer], comm=None).get_weights()
    assert abs(kernel.max() - np.sqrt(6 / 300)) < 1e-3 and abs(kernel.std() - np.sqrt(2 / 300)) < 2e-3
    np.testing.assert_array_equal(bias, np.full(200, 0.5, np.float32))


def test_regularizers_add_to_the_loss_once_and_to_the_gradient(on_threads: Callable[..., list[Any]]) -> None:
    """One step of gradient descent, by hand: the data's gradient is 0, so the penalty alone moves them."""
    w, b = draw(3, 2), draw(2)

    def body(comm: Any) -> Any:
        dense = Dense(2, kernel_regularizer=regularizers.l1_l2(0.1, 0.2), bias_regularizer="l2")
        model = Sequential([Input((3,)), dense], comm=comm)
        model.compile(dt.keras.optimizers.SGD(0.5), "mse")
        model.set_weights([w, b])
        x, y = np.zeros((5, 3)), np.tile(b, (5, 1))
        tested = model.evaluate(x, y, verbose=0, batch_size=2)
        trained = model.fit(x, y, batch_size=5, verbose=0).history["loss"][0]
        return tested, trained, model.get_weights()

    penalty = 0.1 * np.abs(w).sum() + 0.2 * (w**2).sum() + 0.01 * (b**2).sum()
    for tested, trained, (kernel, bias) in itertools.chain(on_threads(1, body), on_threads(3, body)):
        np.testing.assert_allclose([tested, trained], penalty, rtol=1e-5)
        np.testing.assert_allclose(kernel, w - 0.5 * (0.1 * np.sign(w) + 0.4 * w), rtol=1e-5)
        np.testing.assert_allclose(bias, b - 0.5 * 0.02 * b, rtol=1e-5)


def test_a_frozen_layer_stays() -> None:
    model = Sequential([Dense(4, input_shape=(3,), name="kept"), Dense(2)], comm=None)
    model.get_layer("kept").trainable = False
    model.compile("sgd", "mse")
    before = model.get_weights()
    model.fit(draw(5, 3), draw(5, 2), verbose=0)
    after = model.get_weights()
    moved = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [False, False, True, True]
    model.get_layer("kept").trainable = True
    model.fit(draw(5, 3), draw(5, 2), verbose=0)
    np.testing.assert_array_equal(after[0], model.get_weights()[0])  # as it was compiled, as in Keras 2
    model.compile("sgd", "mse")
    model.fit(draw(5, 3), draw(5, 2), verbose=0)
    assert not np.array_equal(after[0], model.get_weights()[0])


def test_a_frozen_model_stays_and_does_not_stop_training() -> None:
    """All its layers are frozen: no step is taken, and what is measured is what a test measures."""
    model = Sequential([Dense(3, kernel_regularizer="l2", input_shape=(2,)), BatchNormalization()], comm=None)
    model.trainable = False
    assert not model.trainable and not any(layer.trainable for layer in model.layers)
    model.compile("adam", "mse")
    assert model.trainable_weights == []
    before, (x, y) = model.get_weights(), np.random.default_rng(0).normal(size=(2, 6, 3)).astype("f")
    loss = model.fit(x[:, :2], y, verbose=0).history["loss"][0]
    assert loss == pytest.approx(model.evaluate(x[:, :2], y, verbose=0), rel=1e-6)
    for found, right in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, right)


def test_a_layer_of_ones_own_and_its_name() -> None:
    class Scale(Layer):
        arguments = ("start",)

        def __init__(self, start: float = 1.0, **options: Any) -> None:
            super().__init__(**options)
            self.start = start

        def build(self, input_shape: tuple[int, ...]) -> None:
            self.factor = self.add_weight("factor", input_shape[-1:], initializers.Constant(self.start))

        def call(self, x: dt.Tensor, training: Any) -> dt.Tensor:
            return x * self.factor

    x = draw(4, 3)
    np.testing.assert_allclose(on(Scale(3.0), x), 3 * x, rtol=1e-6)
    assert Scale(2.0).get_config() == {"name": "scale", "trainable": True, "start": 2.0}
    names = [Conv2D(1, 1).name, MaxPooling2D().name, BatchNormalization().name, GlobalAveragePooling2D().name]
    assert names == ["conv2d", "max_pooling2d", "batch_normalization", "global_average_pooling2d"]


# -- errors ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Dense(0), ["dense: units=0", "an integer >= 1"]),
        (lambda: Dense(2.5), ["units=2.5", "whole numbers"]),
        (lambda: Dense(3, "rulu"), ["'rulu' is no activation", "did you mean 'relu'?"]),
        (lambda: Dense(3, kernel_initializer="he"), ["'he' is no initializer"]),
        (lambda: Dropout(1.0), ["rate=1.0", "less than 1"]),
        (lambda: Conv2D(3, (2, 2, 2)), ["kernel_size=(2, 2, 2)"]),
        (lambda: Conv2D(3, 3, padding="full"), ["padding='full'", "'same'"]),
        (lambda: Conv2D(3, 3, data_format="first"), ["data_format='first'", "channels_first"]),
        (lambda: Reshape((-1, -1)), ["one size at most"]),
        (lambda: Input(), ["Input(shape=(28, 28))"]),
        (lambda: regularizers.l2(-1.0), ["0 or more"]),
    ],
)
def test_bad_arguments(make: Callable[[], Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([Conv2D(3, 3)], ["layer conv2d (Conv2D)", "[batch, 784]", "Reshape((height, width, channels))"]),
        ([Reshape((3, 5))], ["layer reshape", "784", "(3, 5)"]),
        ([Reshape((28, 28, 1)), Conv2D(2, 29)], ["layer conv2d", "window"]),
        ([Reshape((28, 28, 1)), BatchNormalization(axis=4)], ["axis=4", "none of the axes of channels"]),
    ],
)
def test_layers_that_do_not_fit(layers: list[Layer], words: list[str]) -> None:
    with pytest.raises(GraphError) as caught:
        Sequential([Input((784,)), *layers], comm=None).build()
    for word in words:
        assert word in str(caught.value)


def test_a_layer_used_again_has_to_fit_its_weights() -> None:
    layer = Dense(2)
    layer(dt.placeholder("float32", [None, 3]))
    with pytest.raises(GraphError, match=r"layer dense.*weights are for \[batch, 3\].* is \[batch, 4\]"):
        layer(dt.placeholder("float32", [None, 4]))
    with dt.Graph().as_default(), pytest.raises(GraphError, match="weights in another graph"):
        layer(dt.placeholder("float32", [None, 3]))
    with pytest.raises(GraphError, match="all sizes but the first have to be known"):
        Dense(2)(dt.placeholder("float32", [None, None]))
