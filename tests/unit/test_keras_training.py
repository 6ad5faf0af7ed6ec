"""fit, evaluate, predict and the files: against NumPy, on one rank and on several."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import dtrain as dt
from dtrain.comm import SingleCommunicator
from dtrain.data.order import epoch_order
from dtrain.errors import CheckpointError, EnvironmentProblem, GraphError, UsageError
from dtrain.keras import optimizers, regularizers, utils
from dtrain.keras.callbacks import Callback
from dtrain.keras.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Layer
from dtrain.keras.models import Sequential, clone_model, load_model, model_from_json
from dtrain.native import compiler
from dtrain.ops.base import apply
from dtrain.ops.lend import LentRows, Table
from dtrain.runtime.backend import Backend
from dtrain.runtime.plan import Plan

Array = np.ndarray
RANDOM = np.random.default_rng(2)
N, CLASSES = 23, 3
X = RANDOM.normal(size=(N, 5)).astype(np.float32)
Y = RANDOM.integers(0, CLASSES, N)
WEIGHTS = RANDOM.uniform(0, 2, N)


def small(comm: Any = None, **compiled: Any) -> Sequential:
    """5-4-3, compiled for classes; always the same."""
    dt.reset_default_graph()
    dt.set_random_seed(3)
    model = Sequential([Dense(4, "tanh", input_shape=(5,)), Dense(CLASSES, "softmax")], comm=comm)
    options = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    model.compile(**{**options, **compiled})
    return model


# -- one rank, against NumPy -----------------------------------------------------------------------------
class ByHand:
    """Softmax regression by gradient descent, in float64."""

    def __init__(self, w: Array, b: Array, rate: float) -> None:
        self.w, self.b, self.rate = w.astype(float), b.astype(float), rate

    def step(self, x: Array, y: Array, weights: Array) -> tuple[Array, Array]:
        """(loss of each example, whether it is right), then a step against the mean of the losses."""
        logits = x @ self.w + self.b
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        losses, right = -np.log(p[np.arange(len(y)), y]) * weights, logits.argmax(1) == y
        d = (p - np.eye(CLASSES)[y]) * weights[:, None] / len(y)
        self.w -= self.rate * x.T @ d
        self.b -= self.rate * d.sum(0)
        return losses, right


def epoch_by_hand(reference: ByHand, order: Array, size: int, weights: Array) -> tuple[float, float]:
    steps = [order[i : i + size] for i in range(0, len(order), size)]
    pairs = [reference.step(X[some].astype(float), Y[some], weights[some]) for some in steps]
    return tuple(float(np.concatenate(values).mean()) for values in zip(*pairs, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("weighted", [False, True])
def test_fit_is_gradient_descent_over_the_epochs_batches(weighted: bool) -> None:
    """Two epochs of batches of 5, the last of 3, in the order of (seed, epoch)."""
    dt.set_random_seed(7)
    model = Sequential([Dense(CLASSES, "softmax", input_shape=(5,))], comm=None)
    model.compile(optimizers.SGD(0.3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    reference = ByHand(*model.get_weights(), rate=0.3)
    given: dict[str, Any] = {}
    weights = np.ones(N)
    if weighted:
        by_class = {0: 0.5, 1: 1.0, 2: 3.0}
        given = {"sample_weight": WEIGHTS, "class_weight": by_class}
        weights = WEIGHTS * [by_class[int(c)] for c in Y]
    history = model.fit(X, Y, batch_size=5, epochs=2, verbose=0, **given)
    for epoch in range(2):
        loss, accuracy = epoch_by_hand(reference, epoch_order(7, epoch + 1, range(N)), 5, weights)
        assert history.history["loss"][epoch] == pytest.approx(loss, rel=1e-5)
        assert history.history["accuracy"][epoch] == pytest.approx(accuracy, rel=1e-9)
    for found, right in zip(model.get_weights(), (reference.w, reference.b), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-6)


def test_without_shuffle_the_order_is_that_of_the_arrays() -> None:
    model = Sequential([Dense(CLASSES, "softmax", input_shape=(5,))], comm=None)
    model.compile(optimizers.SGD(0.3), "sparse_categorical_crossentropy")
    reference = ByHand(*model.get_weights(), rate=0.3)
    model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    epoch_by_hand(reference, np.arange(N), 4, np.ones(N))
    np.testing.assert_allclose(model.get_weights()[0], reference.w, rtol=1e-4, atol=1e-6)


def test_the_batch_size_is_32_by_default() -> None:
    model = small()
    model.fit(np.tile(X, (3, 1)), np.tile(Y, 3), verbose=0)
    assert model.optimizer.iterations == 3  # 69 examples


def test_the_optimizers_are_those_of_dt_train() -> None:
    """Keras's names and defaults, each a step of the optimizer that the surface's own tests check."""
    own = {
        "sgd": lambda: dt.train.GradientDescentOptimizer(0.01),
        "adam": lambda: dt.train.AdamOptimizer(0.001, epsilon=1e-7),
        "adadelta": lambda: dt.train.AdadeltaOptimizer(0.001, epsilon=1e-7),
        "adamax": lambda: dt.train.AdaMaxOptimizer(0.001, epsilon=1e-7),
    }
    start = small().get_weights()
    for given, make in own.items():
        found = []
        for optimizer in (given, make()):
            model = small(optimizer=optimizer)
            model.set_weights(start)
            model.fit(X, Y, epochs=2, batch_size=10, verbose=0)
            found.append(model.get_weights())
        for a, b in zip(*found, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=str(given))
        assert not np.array_equal(found[0][0], start[0])


def test_rmsprop_starts_from_a_mean_square_of_0() -> None:
    model = Sequential([Dense(1, use_bias=False, input_shape=(1,))], comm=None)
    model.compile(optimizers.RMSprop(0.1), "mae")
    model.set_weights([np.zeros((1, 1))])
    model.fit(np.full((2, 1), 2.0), np.full((2, 1), 9.0), verbose=0)
    assert model.get_weights()[0][0, 0] == pytest.approx(0.1 * 2 / np.sqrt(0.1 * 4), rel=1e-4)


def test_clipping_and_decay() -> None:
    """The gradient is -2 for each of two weights: cut to a norm, a value, or together."""
    for options, step in (
        ({"clipvalue": 0.5}, 0.5),
        ({"clipnorm": 1.0}, 1 / np.sqrt(2)),
        ({"global_clipnorm": 2.0}, np.sqrt(2)),
        ({"decay": 1.0}, 2.0),
    ):
        model = Sequential([Dense(1, use_bias=False, input_shape=(2,))], comm=None)
        model.compile(optimizers.SGD(lr=0.1, **options), "mae")
        model.set_weights([np.zeros((2, 1))])
        x, y = np.full((3, 2), 2.0), np.full((3, 1), 9.0)
        model.fit(x, y, verbose=0)
        np.testing.assert_allclose(model.get_weights()[0], 0.1 * step, rtol=1e-5, err_msg=str(options))
    model.fit(x, y, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], 0.1 * 2 + 0.1 / 2 * 2, rtol=1e-5)


@pytest.mark.parametrize("kernels", ["numpy", "c"])
def test_decay_counts_each_step_of_many(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels == "c" and not compiler.command():
        pytest.skip("no C compiler")
    monkeypatch.setenv("DTRAIN_KERNELS", kernels)
    model = Sequential([Dense(1, use_bias=False, input_shape=(1,))], comm=None)
    model.compile(optimizers.SGD(0.01, decay=0.1), "mse")
    model.set_weights([np.ones((1, 1))])
    model.fit(np.ones((64, 1)), np.zeros((64, 1)), batch_size=1, verbose=0)
    right = np.prod(1 - 2 * 0.01 / (1 + 0.1 * np.arange(64)))
    np.testing.assert_allclose(model.get_weights()[0][0, 0], right, rtol=1e-5)


def test_integers_are_trained_on_as_numbers() -> None:
    bytes_ = RANDOM.integers(0, 255, (N, 5))
    found = []
    for x in (
        bytes_.astype(np.uint8),
        bytes_,
        bytes_.astype(float),
        bytes_.astype(np.uint16),
        bytes_.tolist(),
    ):
        model = small()
        model.fit(x, Y.tolist(), verbose=0)
        found.append(model.predict(x))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_predict_is_the_network_on_every_example() -> None:
    model = small()
    w, b, v, c = model.get_weights()
    logits = np.tanh(X.astype(float) @ w + b) @ v + c
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for batch_size in (None, 4):
        np.testing.assert_allclose(model.predict(X, batch_size), p, rtol=1e-5)
    np.testing.assert_array_equal(model.predict_classes(X), p.argmax(1))
    np.testing.assert_allclose(model.predict_on_batch(X[:2]), p[:2], rtol=1e-5)


def test_dropout_drops_in_fit_alone() -> None:
    dt.set_random_seed(1)
    model = Sequential([Dropout(0.5, input_shape=(4,)), Dense(1, use_bias=False)], comm=None)
    model.compile(optimizers.SGD(0.0), "mse")
    model.set_weights([np.ones((4, 1))])
    x, y = np.ones((200, 4)), np.full((200, 1), 4.0)
    assert model.evaluate(x, y, verbose=0) == 0
    loss = model.fit(x, y, verbose=0).history["loss"][0]
    assert 3 < loss < 5  # the variance of a sum of four that are 0 or 2


# -- epochs ----------------------------------------------------------------------------------------------
def test_history() -> None:
    model = small()
    history = model.fit(X, Y, epochs=3, verbose=0, validation_split=0.3)
    assert history is model.history and history.epoch == [0, 1, 2]
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(len(values) == 3 for values in history.history.values())
    assert history.history["acc"] == history.history["accuracy"]
    assert history.history.get("val_acc") == history.history["val_accuracy"]
    assert history.history.get("auc") is None
    assert history.params["samples"] == 16 and history.params["epochs"] == 3
    tested = model.evaluate(X[16:], Y[16:], verbose=0)
    assert [history.history["val_loss"][-1], history.history["val_accuracy"][-1]] == pytest.approx(tested)


def test_validation_split_trains_on_the_first_alone() -> None:
    found = []
    for x, y, options in ((X, Y, {"validation_split": 0.3}), (X[:16], Y[:16], {})):
        model = small()
        model.fit(x, y, batch_size=5, verbose=0, **options)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_validation_data_with_weights() -> None:
    model = small(metrics=None)
    history = model.fit(X, Y, verbose=0, validation_data=(X[:7], Y[:7], WEIGHTS[:7]))
    right = model.evaluate(X[:7], Y[:7], verbose=0, sample_weight=WEIGHTS[:7])
    assert history.history["val_loss"] == pytest.approx([right])


@pytest.mark.parametrize(("freq", "tested"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), ([1, 5, 9], [1, 5])])
def test_validation_freq_is_keras_3s(freq: Any, tested: list[int]) -> None:
    """By the number of the epoch, from 1; the list of val_loss has those epochs alone."""
    epochs: list[int] = []
    told = dt.keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: epochs.extend([epoch + 1] * ("val_loss" in logs))
    )
    history = small().fit(
        X, Y, epochs=5, verbose=0, validation_data=(X, Y), validation_freq=freq, callbacks=[told],
        validation_batch_size=3,
    )  # fmt: skip
    assert epochs == tested and len(history.history["val_loss"]) == len(tested)
    assert len(history.history["loss"]) == 5


def test_each_epoch_has_an_order_of_its_own_however_fit_is_called() -> None:
    """Three epochs at once, one by one, or going on from a saved model: the same steps."""
    at_once = small()
    at_once.fit(X, Y, batch_size=5, epochs=3, verbose=0)
    one_by_one = small()
    for _ in range(3):
        one_by_one.fit(X, Y, batch_size=5, verbose=0)
    counted = small()
    counted.fit(X, Y, batch_size=5, epochs=1, verbose=0)
    history = counted.fit(X, Y, batch_size=5, epochs=3, initial_epoch=1, verbose=0)
    assert history.epoch == [1, 2]
    for other in (one_by_one, counted):
        for a, b in zip(at_once.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_numpys_seed_makes_the_order_where_there_is_no_other() -> None:
    dt.reset_default_graph()
    seeds = []
    for seed in (5, 5, 6):
        np.random.seed(seed)
        model = Sequential([Dense(1, input_shape=(5,))], comm=None)
        model._settle_order()
        seeds.append(model._order(0, range(100)).tolist())
    assert seeds[0] == seeds[1] != seeds[2]


def test_models_of_one_seed_differ_from_one_another_and_repeat() -> None:
    def two() -> list[Array]:
        dt.reset_default_graph()
        utils.set_random_seed(1)
        return [Sequential([Dense(4, input_shape=(5,))], comm=None).get_weights()[0] for _ in range(2)]

    first, second = two()
    assert not np.array_equal(first, second)
    for a, b in zip(two(), (first, second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_batch_at_a_time() -> None:
    model = small(optimizer=optimizers.SGD(0.3))
    same = small(optimizer=optimizers.SGD(0.3))
    loss, accuracy = model.train_on_batch(X[:6], Y[:6])
    assert [loss, accuracy] == pytest.approx(same.test_on_batch(X[:6], Y[:6]), rel=1e-5)
    assert model.optimizer.iterations == 1
    assert model.test_on_batch(X[:6], Y[:6])[0] < loss


def test_what_is_trained_on_is_not_kept() -> None:
    """The arrays are lent: after fit nothing of the model holds them, and another set makes no new plan."""
    model = small()
    x = X.copy()
    model.fit(x, Y, batch_size=23, verbose=0)
    plans, nodes = len(model.session.plans), len(model.graph.operations)
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None
    model.fit(X[::-1].copy(), Y[::-1].copy(), batch_size=23, verbose=0)
    assert (len(model.session.plans), len(model.graph.operations)) == (plans, nodes)


@pytest.mark.parametrize("kernels", ["numpy", "c"])
def test_lent_rows(kernels: str) -> None:
    if kernels == "c" and not compiler.command():
        pytest.skip("there is no C compiler")
    table = Table("x", (2,), dt.float32)
    indices = dt.placeholder("int32", [None])
    rows = apply(LentRows(table), indices)
    assert rows.shape.as_list() == [None, 2] and rows.dtype == "float32"
    session = dt.Session(comm=None, device=Backend(kernels))
    for n in (3, 5):
        table.rows = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
        np.testing.assert_array_equal(session.run(rows, {indices: [n - 1, 0]}), table.rows[[n - 1, 0]])
        with pytest.raises(dt.errors.InvalidArgumentError, match=f"x has {n} rows, and row {n} is read"):
            session.run(rows, {indices: [0, n]})
    [plan] = session.plans.values()
    assert [bool(symbol) for symbol in plan.kernel_symbols] == [kernels == "c"]
    table.rows = None
    with pytest.raises(AssertionError, match="nothing is lent to Table"):
        session.run(rows, {indices: [0]})
    with pytest.raises(GraphError, match="not integers"):
        apply(LentRows(table), dt.constant([0.5]))


@pytest.mark.skipif(not compiler.command(), reason="there is no C compiler")
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_step_is_one_call_of_c_and_ends_where_numpys_does(optimizer: str) -> None:
    found = []
    for kernels in ("numpy", "c"):
        dt.reset_default_graph()
        dt.set_random_seed(3)
        model = Sequential([Dense(5, "relu", input_shape=X.shape[1:]), Dense(3, "softmax")])
        model.home.session = dt.Session(graph=model.graph, comm=None, device=Backend(kernels))
        model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"])
        model.fit(X, Y, batch_size=11, epochs=4, verbose=0)
        plans = [p for p in model.session.plans.values() if p.kernels and "LentRows" in _kinds(p)]
        assert {len(p.calls) == 1 for p in plans} == {kernels == "c"}
        found.append([*model.get_weights(), model.history.history["loss"]])
    for ours, right in zip(*found, strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-4, atol=1e-6)


def _kinds(plan: Any) -> set[str]:
    return {type(node.kind).__name__ for node in plan.kernel_nodes}


# -- several ranks ---------------------------------------------------------------------------------------
@pytest.mark.skipif(not compiler.command(), reason="no C compiler")
def test_several_steps_of_a_call_are_those_of_single_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback that listens to batches has each step to itself; else several are one call."""
    calls: list[int] = []
    run_steps = Plan.run_steps

    def counted(self: Plan, rows: np.ndarray, *rest: Any) -> Any:
        calls.append(len(rows))
        return run_steps(self, rows, *rest)

    monkeypatch.setattr(Plan, "run_steps", counted)
    found = []
    for listens in (False, True):
        model = small(SingleCommunicator())
        model.session.backend = Backend("c")
        heard: list[int] = []
        listener = dt.keras.callbacks.LambdaCallback(on_batch_end=lambda batch, logs: heard.append(batch))  # noqa: B023
        rows = np.tile(np.arange(N), 20)
        history = model.fit(X[rows], Y[rows], 6, epochs=2, verbose=0, callbacks=[listener] if listens else [])
        assert heard == [*range(77)] * (2 * listens)
        found.append((history.history, model.get_weights(), model.optimizer.iterations, sum(calls)))
    several, single = found
    assert several[0] == single[0] and several[2] == single[2] == 2 * 77
    for a, b in zip(several[1], single[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert several[3] > 77 and single[3] == several[3]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_train_as_one_does(size: int, on_threads: Callable[..., list[Any]]) -> None:
    """Convolution, normalisation, dropout, a penalty, weights; a last batch of 2, so that some ranks idle."""
    images = RANDOM.normal(size=(N, 4, 4, 2)).astype(np.float32)

    def body(comm: Any) -> Any:
        dt.set_random_seed(11)
        model = Sequential(
            [
                Conv2D(3, 2, activation="relu", input_shape=(4, 4, 2)),
                BatchNormalization(),
                Flatten(),
                Dropout(0.3),
                Dense(CLASSES, "softmax", kernel_regularizer=regularizers.l2(0.01)),
            ],
            comm=comm,
        )
        model.compile(
            optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        history = model.fit(
            images, Y, 7, epochs=2, verbose=0, sample_weight=WEIGHTS, validation_data=(images[:3], Y[:3])
        )
        tested = model.evaluate(images, Y, batch_size=3, verbose=0)
        return history.history, tested, model.predict(images, batch_size=9), model.get_weights()

    expected = body(None)
    for history, tested, outputs, weights in on_threads(size, body):
        assert history == {k: pytest.approx(v, rel=1e-4) for k, v in expected[0].items()}
        assert tested == pytest.approx(expected[1], rel=1e-4)
        np.testing.assert_allclose(outputs, expected[2], rtol=1e-3, atol=1e-5)
        for a, b in zip(weights, expected[3], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_an_array_that_differs_among_ranks_is_named_on_all(on_threads: Callable[..., list[Any]]) -> None:
    def body(comm: Any) -> str:
        y = Y.copy()
        y[0] = comm.rank % 2
        with pytest.raises(UsageError) as caught:
            small(comm).fit(X, y, verbose=0)
        assert caught.value.agreed
        return str(caught.value)

    messages = on_threads(3, body)
    assert messages == messages[:1] * 3 and "fit: y is not the same on rank 1 as on rank 0" in messages[0]


def test_an_error_is_the_same_on_all_ranks(on_threads: Callable[..., list[Any]]) -> None:
    def body(comm: Any) -> str:
        with pytest.raises(UsageError) as caught:
            small(comm).fit(X, Y[:-1], verbose=0)
        assert caught.value.agreed
        return str(caught.value)

    assert set(on_threads(2, body)) == {"fit: x has 23 examples and y has 22: give one entry of y for each."}


# -- what is printed -------------------------------------------------------------------------------------
SUMMARY = """\
Model: "sequential"
_________________________________________________________________
Layer (type)                 Output Shape              Param #
=================================================================
flatten (Flatten)            (None, 784)               0
_________________________________________________________________
dense (Dense)                (None, 256)               200960
_________________________________________________________________
dense_1 (Dense)              (None, 256)               65792
_________________________________________________________________
dense_2 (Dense)              (None, 10)                2570
=================================================================
Total params: 269,322
Trainable params: 269,322
Non-trainable params: 0
_________________________________________________________________
"""


def test_summary(capsys: pytest.CaptureFixture[str], on_threads: Callable[..., list[Any]]) -> None:
    def body(comm: Any) -> None:
        layers = [Flatten(input_shape=(28, 28)), Dense(256, "relu"), Dense(256, "relu"), Dense(10, "softmax")]
        Sequential(layers, comm=comm).summary()

    on_threads(2, body)
    out = capsys.readouterr().out
    assert "".join(line.rstrip() + "\n" for line in out.splitlines()) == SUMMARY
    lines: list[str] = []
    model = Sequential([BatchNormalization(input_shape=(3,))], comm=None)
    model.summary(print_fn=lines.append)
    assert lines[-3:-1] == ["Trainable params: 6", "Non-trainable params: 6"] and model.count_params() == 12


def test_a_model_can_grow_after_its_summary() -> None:
    model = Sequential([Dense(4, input_shape=(3,))], comm=None)
    model.summary(print_fn=lambda line: None)
    before = model.get_weights()
    model.add(Dense(2))
    assert model.output_shape == (None, 2) and len(model.get_weights()) == 4
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    model.pop()
    assert model.output_shape == (None, 4)


def test_verbose(capsys: pytest.CaptureFixture[str], on_threads: Callable[..., list[Any]]) -> None:
    """0 is silent, 1 a bar and 2 a line for each epoch; of several ranks one speaks."""
    small().fit(X, Y, epochs=2, verbose=0)
    assert capsys.readouterr().out == ""
    on_threads(2, lambda comm: small(comm).fit(X, Y, epochs=2, validation_data=(X, Y)))
    first, epoch, bar, *rest = capsys.readouterr().out.splitlines()
    assert first == "Train on 23 samples, validate on 23 samples" and epoch == "Epoch 1/2" and len(rest) == 2
    assert bar.startswith("23/23 [==============================] - ") and "/sample - loss: " in bar
    assert [part.split(":")[0] for part in bar.split(" - ")[2:]] == [
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
    ]
    small().fit(X, Y, verbose=2)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(" - 0s - loss: ") or line.startswith(" - 1s - loss: ")
    small().evaluate(X, Y)
    assert capsys.readouterr().out.startswith("23/23 [====")


def test_a_bar_moves_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DTRAIN_TERMINAL", "1")
    monkeypatch.setattr("dtrain.keras.progress.EVERY", 0.0)
    small().fit(X, Y, batch_size=10, verbose=1)
    pictures = capsys.readouterr().out.split("\r")[1:]
    assert [p.split(" [")[0] for p in pictures] == ["10/23", "20/23", "23/23", "23/23"]
    assert "[============>.................] - ETA: " in pictures[0] and pictures[-1].endswith("\n")


# -- files -----------------------------------------------------------------------------------------------
def mixed(comm: Any = None) -> Sequential:
    dt.set_random_seed(2)
    model = Sequential(
        [
            Conv2D(3, (2, 2), padding="same", activation="relu", input_shape=(4, 4, 1), name="first"),
            BatchNormalization(),
            Flatten(),
            Dropout(0.2),
            Dense(CLASSES, "softmax", kernel_regularizer="l2"),
        ],
        name="mixed",
        comm=comm,
    )
    model.compile(
        optimizers.Adam(0.01, clipnorm=1.0), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


IMAGES = RANDOM.normal(size=(N, 4, 4, 1)).astype(np.float32)


@pytest.mark.parametrize("size", [1, 3])
def test_a_saved_model_comes_back_and_trains_on_as_if_it_had_not_gone(
    size: int, tmp_path: Path, on_threads: Callable[..., list[Any]]
) -> None:
    """Layers, weights, the optimizer with its state, and the number of the next epoch."""

    def body(comm: Any) -> None:
        comm = SingleCommunicator() if size == 1 else comm
        model = mixed(comm)
        model.get_layer("dropout").rate = 0.0  # its stream begins anew in another session
        model.fit(IMAGES, Y, 5, epochs=2, verbose=0)
        model.save(tmp_path / "model.safetensors")
        again = load_model(str(tmp_path / "model.safetensors"), comm=comm)
        assert again.get_config() == model.get_config() and again.name == "mixed"
        assert again.evaluate(IMAGES, Y, verbose=0) == pytest.approx(model.evaluate(IMAGES, Y, verbose=0))
        np.testing.assert_array_equal(again.predict(IMAGES), model.predict(IMAGES))
        for each in (model, again):
            each.fit(IMAGES, Y, 5, epochs=3, initial_epoch=2, verbose=0)
        for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)

    on_threads(size, body)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["m.h5", "m.keras", "M.ONNX", "w.hdf5"])
def test_a_name_that_promises_another_format_is_told(name: str, tmp_path: Path) -> None:
    model = small()
    with pytest.warns(UserWarning, match=rf"{name} is written as safetensors.* no {name[1:].lower()}"):
        model.save(tmp_path / name)
    assert load_model(tmp_path / name, comm=None).get_config() == model.get_config()


def huber(y_true: Any, y_pred: Any) -> Any:
    return dt.reduce_mean(dt.square(y_pred)) * 7.0


def test_a_custom_object_is_taken_before_the_built_in_of_its_name(tmp_path: Path) -> None:
    model = small()
    model.compile("sgd", huber)
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors", custom_objects={"huber": huber}, comm=None)
    assert again.evaluate(X, Y, verbose=0) == pytest.approx(model.evaluate(X, Y, verbose=0))


def test_weights_alone(tmp_path: Path) -> None:
    model, other = small(), small()
    other.fit(X, Y, verbose=0)
    model.save_weights(tmp_path / "deep" / "w")
    other.load_weights(tmp_path / "deep" / "w")
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(CheckpointError, match=r"holds weights without a model: .*load_weights"):
        load_model(tmp_path / "deep" / "w", comm=None)
    with pytest.raises(UsageError, match="is there already"):
        model.save_weights(tmp_path / "deep" / "w", overwrite=False)


def test_the_file_is_safetensors_with_json(tmp_path: Path) -> None:
    from safetensors import safe_open

    model = small()
    model.save(tmp_path / "m", include_optimizer=False)
    with safe_open(tmp_path / "m", "np") as file:
        assert set(file.keys()) == {"dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias"}
        np.testing.assert_array_equal(file.get_tensor("dense_1/kernel"), model.get_weights()[2])
        assert '"units": 4' in file.metadata()["dtrain"]
    with pytest.raises(UsageError, match="not compiled"):
        load_model(tmp_path / "m", comm=None).fit(X, Y)


def test_json_and_clones() -> None:
    model = mixed()
    for other in (model_from_json(model.to_json(), comm=None), clone_model(model)):
        assert other.get_config()["layers"] == model.get_config()["layers"]
        assert other.count_params() == model.count_params()
    with pytest.raises(UsageError, match="not what to_json"):
        model_from_json("{}")


class Twice(Layer):
    def call(self, x: dt.Tensor, training: Any) -> dt.Tensor:
        return 2 * x


def half(y: Any, p: Any) -> Any:
    return 0.5 * dt.square(y - p)


def test_objects_of_ones_own_are_named_when_they_come_back(tmp_path: Path) -> None:
    model = Sequential([Twice(input_shape=(2,)), Dense(1)], comm=None)
    model.compile("sgd", half, metrics=[half, "mae"])
    model.fit(X[:, :2], X[:, 2], verbose=0)
    model.save(tmp_path / "m")
    with pytest.raises(UsageError, match=r"'Twice' is no layer .* custom_objects"):
        load_model(tmp_path / "m", comm=None)
    again = load_model(tmp_path / "m", custom_objects={"Twice": Twice, "half": half}, comm=None)
    assert again.metrics_names == ["loss", "half", "mae"]
    np.testing.assert_array_equal(again.predict(X[:, :2]), model.predict(X[:, :2]))


def test_files_that_do_not_fit(tmp_path: Path, on_threads: Callable[..., list[Any]]) -> None:
    small().save(tmp_path / "m")
    data = (tmp_path / "m").read_bytes()
    (tmp_path / "cut").write_bytes(data[:-5])
    (tmp_path / "text").write_text("hello")
    flipped = bytearray(data)
    flipped[-3] ^= 1
    (tmp_path / "flipped").write_bytes(flipped)
    save_file({"dense/kernel": X}, tmp_path / "former", {"dtrain": "{}", "sha256": "0"})
    wide = lambda: [Dense(4, input_shape=(5,)), Dense(6)]  # noqa: E731
    more = lambda: [Dense(4, input_shape=(5,)), Dense(CLASSES), Dense(2, name="end")]  # noqa: E731
    less = lambda: [Dense(4, input_shape=(5,))]  # noqa: E731

    def body(comm: Any) -> list[str]:
        messages = []
        for name in ("gone", "cut", "text", "flipped", "former"):
            with pytest.raises(CheckpointError) as caught:
                load_model(tmp_path / name, comm=comm)
            assert caught.value.agreed, "told once, and all ranks end"
            messages.append(str(caught.value))
        for layers in (wide, more, less):
            with pytest.raises(CheckpointError) as caught:
                Sequential(layers(), comm=comm).load_weights(tmp_path / "m")
            messages.append(str(caught.value))
        return messages

    alone, *others = [body(None), *on_threads(2, body)]
    words = [
        "gone is missing. Give a file that save() wrote.",
        "cut cannot be read: Error while deserializing",
        "text is damaged: its header would have",
        "flipped is damaged: the value of dense_1/bias does not have its digest",
        "former is damaged, or this dtrain did not write it: a value has no digest",
        "dense_1/kernel should be (4, 6) and is (4, 3): give layer dense_1",
        "end/kernel should be (3, 2) and is not there: give layer end",
        "has no layer for dense_1/bias",
    ]
    for message, word in zip(alone, words, strict=True):
        assert word in message
    for other in others:
        assert other[5:] == alone[5:]  # of an error on rank 0 alone the message says so
        assert all(a.endswith(b) for a, b in zip(other, alone, strict=True))


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="file/m cannot be written: "):
        small().save(tmp_path / "file" / "m")


# -- errors ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.fit(X, Y[:3]), ["x has 23 examples and y has 3"]),
        (lambda m: m.fit(X), ["fit: y is missing"]),
        (lambda m: m.fit(X, iter([Y])), ["y is a generator"]),
        (lambda m: m.fit(iter([(X, Y)]), Y), ["x gives batches", "leave out y"]),
        (lambda m: m.fit(iter([(X, Y)]), validation_split=0.5), ["and validation_split"]),
        (lambda m: m.fit(iter([])), ["fit: the list_iterator gives no batch"]),
        (lambda m: m.fit(iter([X])), ["a batch is a ndarray", "tuple (x, y)"]),
        (lambda m: m.fit(iter([(X, Y), (X, Y[:3])])), ["x has 23 examples and y has 3"]),
        (lambda m: m.fit(X, Y, validation_data=iter([])), ["validation_data: the list_iterator"]),
        (lambda m: m.evaluate(iter([(X, Y)]), Y), ["evaluate: x gives batches"]),
        (lambda m: m.fit(X[:0], Y[:0]), ["x has no examples"]),
        (lambda m: m.fit([[1, 2], [3]], Y), ["x is ragged"]),
        (lambda m: m.fit(np.array(["a"] * N), Y), ["numbers are needed"]),
        (lambda m: m.fit(X[:, :4], Y), ["shape (4,)", "takes (5,)"]),
        (lambda m: m.fit(X[:, :, None], Y), ["shape (5, 1)", "x.reshape(-1, 5)"]),
        (lambda m: m.fit(X, Y, batch_size=0), ["batch_size=0"]),
        (lambda m: m.fit(X, Y, verbose=3), ["verbose=3"]),
        (lambda m: m.fit(X, Y, validation_split=1.0), ["validation_split=1.0"]),
        (lambda m: m.fit(X[:2], Y[:2], validation_split=0.9), ["leaves none of 2"]),
        (lambda m: m.fit(X, Y, validation_data=X), ["(x, y) or (x, y, sample_weight)"]),
        (lambda m: m.fit(X, Y, validation_freq=0), ["validation_freq=0", "an integer >= 1"]),
        (lambda m: m.fit(X, Y, class_weight="balanced"), ["class_weight='balanced'", "{0: 1.0"]),
        (lambda m: m.fit(X, Y, validation_data=(X, Y[:4])), ["fit: validation_data", "y has 4"]),
        (lambda m: m.fit(X, Y, sample_weight=WEIGHTS[:4]), ["sample_weight has 4"]),
        (lambda m: m.fit(X, Y, sample_weight=-WEIGHTS), ["negative or not finite"]),
        (lambda m: m.fit(X, Y, class_weight={0: 1, 1: -1}), ["negative or not finite"]),
        (lambda m: m.fit(X, Y, steps_per_epoch=0), ["steps_per_epoch=0: give an integer >= 1"]),
        (lambda m: m.fit(X, Y, validation_steps=0.5), ["validation_steps=0.5"]),
        (lambda m: m.evaluate(X, Y, steps=-1), ["evaluate: steps=-1"]),
        (lambda m: m.predict(X, callbacks=[]), ["predict: callbacks=[] is not supported", "leave it out"]),
        (
            lambda m: m.compile("sgd", "mse", loss_weights=[1, 2]),
            ["compile: loss_weights has 2 entries"],
        ),
        (
            lambda m: m.compile("sgd", "mse", metrcs=["mae"]),
            ["metrcs=['mae'] is not supported", "mean metrics?"],
        ),
        (lambda m: m.fit(X, Y, callbacks=[print]), ["is no callback"]),
        (lambda m: m.evaluate(X, Y[:3]), ["evaluate: x has 23"]),
        (lambda m: m.predict(X[:, :4]), ["predict: x has examples of shape (4,)"]),
        (lambda m: m.set_weights([X]), ["1 arrays for 4 weights", "dense/kernel"]),
        (lambda m: m.set_weights([X, X, X, X]), ["dense/kernel has shape (5, 4)"]),
        (lambda m: m.add(Dense), ["write Dense(...)"]),
        (lambda m: m.add(3), ["3", "is no layer"]),
        (lambda m: m.add(Dense(2, name="dense")), ["has a layer dense already"]),
        (lambda m: m.get_layer("dens"), ["no layer 'dens'", "dense, dense_1"]),
    ],
)
def test_mistakes(call: Callable[[Sequential], Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        call(small())
    for word in words:
        assert word in str(caught.value)


def test_what_comes_before_its_time() -> None:
    model = Sequential([Dense(2)], comm=None)
    for call in (lambda: model.fit(X, Y), lambda: model.evaluate(X, Y), lambda: model.train_on_batch(X, Y)):
        with pytest.raises(UsageError, match=r"sequential is not compiled: call sequential\.compile\("):
            call()
    for call in (model.summary, model.get_weights, model.count_params):
        with pytest.raises(
            UsageError, match="does not know the shape of an example yet: give its first layer"
        ):
            call()
    with pytest.raises(UsageError, match="has no layers: add some"):
        Sequential(comm=None).summary()
    model.build((None, 5))
    assert model.input_shape == (None, 5) and model.count_params() == 12


def test_a_model_whose_shape_fit_finds_out() -> None:
    model = Sequential([Flatten(), Dense(CLASSES, "softmax")], comm=None)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(X.reshape(N, 5, 1), Y, verbose=0)
    assert model.input_shape == (None, 5, 1)
    model = Sequential([Dense(CLASSES)], comm=None)
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(UsageError, match="layer dense is linear"):
        model.fit(X, Y, verbose=0)


def test_a_model_in_a_graph_of_the_users_own() -> None:
    """Called on a tensor it lives in that graph; built before, it moves there."""
    x = dt.placeholder("float32", [None, 5])
    model = Sequential([Dense(4, "tanh"), Dense(2)], comm=None)
    y = model(x)
    assert {v.op.name for v in dt.trainable_variables()} == {
        "dense/kernel",
        "dense/bias",
        "dense_1/kernel",
        "dense_1/bias",
    }
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    w, b, v, c = session.run(dt.trainable_variables())
    np.testing.assert_allclose(session.run(y, {x: X}), np.tanh(X @ w + b) @ v + c, rtol=1e-4, atol=1e-6)
    built = small()
    weights = built.get_weights()
    z = built(x)
    assert built.graph is x.graph  # where it lives from here on
    for a, b in zip(built.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(built.session.run(z, {x: X}), built.predict(X), rtol=1e-6)


def test_to_categorical() -> None:
    np.testing.assert_array_equal(utils.to_categorical([2, 0]), [[0, 0, 1], [1, 0, 0]])
    assert utils.to_categorical(Y[:, None], 4).shape == (N, 4)
    assert utils.to_categorical([[0, 1], [1, 1]]).shape == (2, 2, 2)
    with pytest.raises(UsageError, match="3 is no class of 0 to 2"):
        utils.to_categorical([0, 3], 3)


# -- the learning rate and the weights, as Keras 3's variables -------------------------------------------
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_rate_that_is_set_is_that_of_the_next_step(size: int, on_threads: Callable[..., list[Any]]) -> None:
    """Between fits, in a callback, and one kept from before; the loss's gradient is 2."""

    class InFit(Callback):
        def on_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.optimizer.learning_rate.assign(0.25 * (batch + 2))

    def body(comm: Any) -> list[float]:
        model = Sequential([Dense(1, use_bias=False, input_shape=(1,))], comm=comm)
        model.compile(optimizers.SGD(0.25), lambda y, z: 2 * z)
        rate, ones, found = model.optimizer.learning_rate, np.ones((6, 1), np.float32), [0.0]
        model.build()
        model.weights[0].assign([[0.0]])

        def step(**options: Any) -> None:
            model.fit(ones, ones, 2 if options else 6, verbose=0, **options)
            found.append(float(model.weights[0].numpy()[0, 0]))

        step()
        rate.assign(0.5), step()
        model.optimizer.lr = np.float32(1.0)
        step()
        model.optimizer.learning_rate *= 2
        step()
        model.optimizer.learning_rate = rate / 8
        rate.assign_sub(0.125), step()
        step(callbacks=[InFit()])  # 0.125, 0.5, 0.75
        assert rate == model.optimizer.lr == 1.0 and rate.numpy().dtype == np.float32
        assert f"{float(rate):.1f} {rate:.1f} {rate}" == "1.0 1.0 1.0"
        assert int(model.optimizer.iterations) == 8 == model.optimizer.iterations.numpy()
        return np.diff(found).tolist()

    for moves in on_threads(size, body):
        assert moves == [-0.5, -1.0, -2.0, -4.0, -0.25, -2 * (0.125 + 0.5 + 0.75)]


def test_a_rate_that_differs_between_ranks_is_told(on_threads: Callable[..., list[Any]]) -> None:
    def body(comm: Any) -> str:
        model = small(comm)
        model.fit(X, Y, verbose=0)
        model.optimizer.learning_rate.assign(0.1 * (comm.rank + 1))
        with pytest.raises(UsageError) as told:
            model.train_on_batch(X, Y)
        return str(told.value)

    for text in on_threads(2, body):
        assert text.startswith("train_on_batch: optimizer.learning_rate is not the same on rank 1 as on rank")


@pytest.mark.parametrize("value", ["fast", None, [0.1, 0.2], lambda epoch: 0.1])
def test_a_rate_that_is_no_number_is_refused_where_it_is_set(value: Any) -> None:
    optimizer = optimizers.Adam()
    for way in (optimizer.learning_rate.assign, lambda v: setattr(optimizer, "learning_rate", v)):
        with pytest.raises(UsageError, match=r"Adam: learning_rate=.*: give a number"):
            way(value)
    assert optimizer.learning_rate == 0.001


def test_a_weight_is_read_and_set_as_in_keras_3() -> None:
    model = small()
    model.build()
    kernel = model.layers[0].kernel
    np.testing.assert_array_equal(kernel.numpy(), model.get_weights()[0])
    assert (kernel.assign(np.ones((5, 4))) == 1).all()
    kernel.assign_sub(np.full((5, 4), 0.25))
    assert (model.get_weights()[0] == 0.75).all() and (model.weights[0].eval() == 0.75).all()
    with pytest.raises(ValueError, match=r"\(4, 5\) for the variable dense/kernel"):
        kernel.assign(np.ones((4, 5)))
    with dt.Graph().as_default(), dt.Session(comm=None) as session:  # of another graph
        assert (kernel.numpy() == 0.75).all()
        weight = Dense(2)  # in a graph of one's own an assign is an operation, as in TensorFlow 1
        weight(dt.placeholder("float", [None, 3]))
        zero = weight.kernel.assign(np.zeros((3, 2)))
        session.run(dt.global_variables_initializer())
        assert weight.kernel.numpy().any()
        session.run(zero)
        assert not weight.kernel.numpy().any()


def test_arguments_of_keras_that_change_no_result_are_taken() -> None:
    model = small()
    options = {"run_eagerly": False, "jit_compile": True, "steps_per_execution": 2}
    model.compile("sgd", "sparse_categorical_crossentropy", **options)
    model.fit(X, Y, verbose=0, workers=2, use_multiprocessing=True)
    loss = model.evaluate(X, Y, verbose="auto", callbacks=None)
    assert model.test_on_batch(X, Y, return_dict=True) == {"loss": loss}
    assert model.train_on_batch(X, Y, return_dict=True)["loss"] == pytest.approx(loss, rel=1e-6)
