"""Keras's losses and metrics: against NumPy in float64, stable, and exact on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import UsageError
from dtrain.keras import losses, metrics
from dtrain.keras.layers import Activation, Dense, Dropout, Input, Reshape
from dtrain.keras.models import Sequential

Array = np.ndarray
N, CLASSES = 11, 4
RANDOM = np.random.default_rng(4)
LOGITS = RANDOM.normal(0, 2, (N, CLASSES))
CLASS = RANDOM.integers(0, CLASSES, N)
ONE_HOT = np.eye(CLASSES)[CLASS]
BITS = RANDOM.integers(0, 2, (N, CLASSES)).astype(float)
TARGETS = RANDOM.normal(0, 2, (N, CLASSES))
WEIGHTS = RANDOM.uniform(0, 2, N)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def model_of(activation: str, loss: Any, comm: Any = None, **options: Any) -> Sequential:
    """A model whose output is the activation of its input, its kernel being the identity."""
    model = Sequential([Input((CLASSES,)), Dense(CLASSES, use_bias=False), Activation(activation)], comm=comm)
    model.compile("sgd", loss, **options)
    model.set_weights([np.eye(CLASSES)])
    return model


# -- losses ----------------------------------------------------------------------------------------------
def log_softmax(x: Array) -> Array:
    return np.log(softmax(x))


def huber(e: Array, delta: float) -> Array:
    return np.where(np.abs(e) <= delta, e * e / 2, delta * (np.abs(e) - delta / 2))


SMOOTH = 0.8 * ONE_HOT + 0.2 / CLASSES
#: (activation, loss, labels, the loss of each example by hand)
LOSSES: list[tuple[str, Any, Array, Array]] = [
    ("softmax", "sparse_categorical_crossentropy", CLASS, -(ONE_HOT * log_softmax(LOGITS)).sum(1)),
    ("softmax", "sparse_categorical_crossentropy", CLASS[:, None], -(ONE_HOT * log_softmax(LOGITS)).sum(1)),
    (
        "linear",
        losses.SparseCategoricalCrossentropy(from_logits=True),
        CLASS,
        -(ONE_HOT * log_softmax(LOGITS)).sum(1),
    ),
    (
        "sigmoid",
        "sparse_categorical_crossentropy",
        CLASS,
        -np.log((ONE_HOT * sigmoid(LOGITS)).sum(1) / sigmoid(LOGITS).sum(1)),
    ),
    ("softmax", "categorical_crossentropy", ONE_HOT, -(ONE_HOT * log_softmax(LOGITS)).sum(1)),
    (
        "linear",
        losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2),
        ONE_HOT,
        -(SMOOTH * log_softmax(LOGITS)).sum(1),
    ),
    (
        "sigmoid",
        "binary_crossentropy",
        BITS,
        -(BITS * np.log(sigmoid(LOGITS)) + (1 - BITS) * np.log(1 - sigmoid(LOGITS))).mean(1),
    ),
    (
        "softmax",
        losses.binary_crossentropy,
        BITS,
        -(BITS * np.log(softmax(LOGITS)) + (1 - BITS) * np.log(1 - softmax(LOGITS))).mean(1),
    ),
    (
        "linear",
        losses.BinaryCrossentropy(from_logits=True),
        BITS,
        (np.log1p(np.exp(LOGITS)) - BITS * LOGITS).mean(1),
    ),
    ("linear", "mse", TARGETS, ((LOGITS - TARGETS) ** 2).mean(1)),
    ("linear", "mean_absolute_error", TARGETS, np.abs(LOGITS - TARGETS).mean(1)),
    ("linear", losses.Huber(1.5), TARGETS, huber(LOGITS - TARGETS, 1.5).mean(1)),
    (
        "softmax",
        "kld",
        softmax(TARGETS),
        (softmax(TARGETS) * np.log(softmax(TARGETS) / softmax(LOGITS))).sum(1),
    ),
    ("linear", lambda y, p: dt.square(y - p) * 3.0, TARGETS, 3 * ((LOGITS - TARGETS) ** 2).mean(1)),
    (
        "linear",
        lambda y, p: dt.reduce_mean(dt.abs(y - p)),
        TARGETS,
        np.abs(LOGITS - TARGETS).mean(1),
    ),
]
IDS = [f"{i}-{losses.get(case[1]).name}" for i, case in enumerate(LOSSES)]


@pytest.mark.parametrize(("activation", "loss", "labels", "right"), LOSSES, ids=IDS)
def test_losses_are_exact_for_any_batches(activation: str, loss: Any, labels: Array, right: Array) -> None:
    model = model_of(activation, loss)
    for batch_size in (None, 3, N):
        found = model.evaluate(LOGITS, labels, batch_size=batch_size, verbose=0)
        assert found == pytest.approx(right.mean(), rel=2e-6)


@pytest.mark.parametrize(("activation", "loss", "labels", "right"), LOSSES[:-1], ids=IDS[:-1])
def test_weights_weigh_each_example(activation: str, loss: Any, labels: Array, right: Array) -> None:
    model = model_of(activation, loss)
    found = model.evaluate(LOGITS, labels, batch_size=4, verbose=0, sample_weight=WEIGHTS)
    assert found == pytest.approx((right * WEIGHTS).mean(), rel=2e-6)


def test_a_mean_over_the_batch_cannot_be_weighted() -> None:
    model = model_of("linear", lambda y, p: dt.reduce_mean(dt.abs(y - p)))
    with pytest.raises(UsageError, match="one number for a batch, which cannot be weighted"):
        model.evaluate(LOGITS, TARGETS, verbose=0, sample_weight=WEIGHTS)


@pytest.mark.parametrize(
    ("activation", "loss", "labels"),
    [
        ("softmax", "sparse_categorical_crossentropy", [0, 1]),
        ("softmax", "categorical_crossentropy", np.eye(4)[[0, 1]]),
        ("sigmoid", "binary_crossentropy", 1 - np.eye(4)[[1, 2]]),
    ],
)
def test_probabilities_that_round_to_0_lose_nothing(activation: str, loss: str, labels: Any) -> None:
    """Logits 300 apart: a probability is 0 in float32, its logarithm -300 and the gradient not 0."""
    model = model_of(activation, loss)
    logits = np.array([[-300.0, 0, 0, 0], [300.0, 0, 0, 0]])
    if activation == "softmax":
        right = np.mean([300 + np.log(3), 300])
    else:
        right = np.mean([(3 * np.log(2)) / 4 + 300 / 4, (3 * np.log(2)) / 4])
        labels = np.array([[1, 0, 0, 0], [1, 0, 0, 0]], float)
    assert model.evaluate(logits, labels, verbose=0) == pytest.approx(right, rel=1e-5)
    model.fit(logits, labels, verbose=0)
    kernel = model.get_weights()[0]
    assert np.isfinite(kernel).all() and abs(kernel - np.eye(4)).max() > 0.1


def test_a_loss_can_be_called_on_tensors() -> None:
    y, p = dt.constant(TARGETS.astype("f")), dt.constant(LOGITS.astype("f"))
    session = dt.Session(comm=None)
    right = ((LOGITS - TARGETS) ** 2).mean(1)
    np.testing.assert_allclose(session.run(losses.mean_squared_error(y, p)), right, rtol=1e-5)
    assert session.run(losses.MeanSquaredError()(y, p)) == pytest.approx(right.mean(), rel=1e-5)
    weighted = losses.MeanSquaredError()(y, p, sample_weight=WEIGHTS.astype("f"))
    assert session.run(weighted) == pytest.approx((right * WEIGHTS).mean(), rel=1e-5)


# -- metrics ---------------------------------------------------------------------------------------------
def auc_by_hand(y: Array, p: Array, thresholds: int) -> float:
    limits = [-1e-7, *(i / (thresholds - 1) for i in range(1, thresholds - 1)), 1 + 1e-7]
    tpr = [(p[y == 1] > t).mean() for t in limits]
    fpr = [(p[y == 0] > t).mean() for t in limits]
    return float(sum((fpr[i] - fpr[i + 1]) * (tpr[i] + tpr[i + 1]) / 2 for i in range(thresholds - 1)))


ORDER = np.argsort(-LOGITS, 1)
TOP = {k: np.array([c in row[:k] for c, row in zip(CLASS, ORDER, strict=True)]) for k in (1, 2)}
CHOSEN = sigmoid(LOGITS) > 0.5
SURE = sigmoid(LOGITS) > 0.8

#: (activation, loss, labels, metric, its value by hand)
METRICS: list[tuple[str, str, Array, Any, float]] = [
    ("softmax", "sparse_categorical_crossentropy", CLASS, "accuracy", TOP[1].mean()),
    ("softmax", "categorical_crossentropy", ONE_HOT, "acc", TOP[1].mean()),
    ("sigmoid", "binary_crossentropy", BITS, "binary_accuracy", (CHOSEN == BITS).mean()),
    ("softmax", "mse", ONE_HOT, "accuracy", TOP[1].mean()),
    ("softmax", "sparse_categorical_crossentropy", CLASS, "sparse_categorical_accuracy", TOP[1].mean()),
    (
        "softmax",
        "sparse_categorical_crossentropy",
        CLASS,
        metrics.SparseTopKCategoricalAccuracy(2),
        TOP[2].mean(),
    ),
    ("softmax", "categorical_crossentropy", ONE_HOT, metrics.TopKCategoricalAccuracy(k=2), TOP[2].mean()),
    ("softmax", "categorical_crossentropy", ONE_HOT, "top_k_categorical_accuracy", 1.0),
    ("sigmoid", "binary_crossentropy", BITS, "precision", (BITS[CHOSEN]).mean()),
    ("sigmoid", "binary_crossentropy", BITS, metrics.Recall(thresholds=0.8), SURE[BITS == 1].mean()),
    ("sigmoid", "binary_crossentropy", BITS, metrics.AUC(50), auc_by_hand(BITS, sigmoid(LOGITS), 50)),
    (
        "softmax",
        "sparse_categorical_crossentropy",
        CLASS,
        metrics.Precision(),
        ONE_HOT[softmax(LOGITS) > 0.5].mean(),
    ),
    ("linear", "mse", TARGETS, "mae", np.abs(LOGITS - TARGETS).mean()),
    ("linear", "mse", TARGETS, losses.huber, huber(LOGITS - TARGETS, 1.0).mean()),
    ("linear", "mse", TARGETS, lambda y, p: dt.reduce_max(p, 1), LOGITS.max(1).mean()),
    ("linear", "mse", TARGETS, lambda y, p: dt.reduce_mean(p), LOGITS.mean()),
]


@pytest.mark.parametrize(("activation", "loss", "labels", "metric", "right"), METRICS)
def test_metrics_are_exact_for_any_batches_and_ranks(
    activation: str, loss: str, labels: Array, metric: Any, right: float, on_threads: Callable[..., list[Any]]
) -> None:
    def body(comm: Any) -> list[float]:
        model = model_of(activation, loss, comm, metrics=[metric])
        return [model.evaluate(LOGITS, labels, size, verbose=0)[1] for size in (None, 3, 2)]

    for found in (*on_threads(1, body), *on_threads(4, body)):
        assert found == pytest.approx([right] * 3, rel=1e-6)


def test_weighted_metrics_weigh() -> None:
    model = model_of(
        "sigmoid",
        "binary_crossentropy",
        metrics=["binary_accuracy"],
        weighted_metrics=["binary_accuracy", "precision", "auc"],
    )
    names = ["loss", "binary_accuracy", "weighted_binary_accuracy", "precision", "auc"]
    assert model.metrics_names == names
    weights = np.arange(N) % 3
    found = model.evaluate(LOGITS, BITS, 3, verbose=0, sample_weight=weights)
    each = (CHOSEN == BITS).mean(1)
    assert found[1] == pytest.approx(each.mean(), rel=1e-6)
    assert found[2] == pytest.approx((each * weights).sum() / weights.sum(), rel=1e-6)
    spread = np.repeat(weights[:, None], CLASSES, 1)
    assert found[3] == pytest.approx((BITS * spread)[CHOSEN].sum() / spread[CHOSEN].sum(), rel=1e-6)
    again = np.repeat(np.arange(N), weights)  # a weight of 2 is the example twice
    assert found[4] == pytest.approx(auc_by_hand(BITS[again], sigmoid(LOGITS[again]), 200), rel=1e-6)


def test_metrics_where_nothing_counts_are_0() -> None:
    model = model_of("sigmoid", "binary_crossentropy", metrics=["precision", "recall", "auc"])
    found = model.evaluate(np.full((3, 4), -9.0), np.zeros((3, 4)), verbose=0)
    assert found[1:] == [0, 0, 0]


# -- errors ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("layers", "loss", "words"),
    [
        (
            [Dense(3)],
            "sparse_categorical_crossentropy",
            [
                "layer dense is linear",
                "activation='softmax'",
                "SparseCategoricalCrossentropy(from_logits=True)",
            ],
        ),
        ([Dense(3, "relu"), Dropout(0.1)], "categorical_crossentropy", ["layer dense is relu"]),
        ([Dense(1)], "binary_crossentropy", ["layer dense is linear", "activation='sigmoid'"]),
        (
            [Dense(3, "softmax", name="end")],
            losses.CategoricalCrossentropy(from_logits=True),
            ["applies softmax, which layer end has done"],
        ),
        (
            [Dense(1, "softmax")],
            "sparse_categorical_crossentropy",
            ["layer dense has 1", "binary_crossentropy"],
        ),
    ],
)
def test_a_loss_that_does_not_fit_the_last_layer(layers: list[Any], loss: Any, words: list[str]) -> None:
    model = Sequential([Input((5,)), *layers], comm=None)
    model.compile("sgd", loss)  # it may be trained within another model alone
    with pytest.raises(UsageError) as caught:
        model.fit(np.zeros((4, 5)), np.zeros(4), verbose=0)
    for word in words:
        assert word in str(caught.value)


def test_an_activation_of_ones_own_is_trusted() -> None:
    model = Sequential([Dense(3, lambda x: dt.nn.softmax(2.0 * x), input_shape=(5,))], comm=None)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model = Sequential([Dense(6, "softmax", input_shape=(5,)), Reshape((6,))], comm=None)
    model.compile("sgd", "sparse_categorical_crossentropy")


@pytest.mark.parametrize(
    ("activation", "loss", "labels", "words"),
    [
        (
            "softmax",
            "sparse_categorical_crossentropy",
            [0, 4, 1],
            ["y[1] is 4", "classes 0 to 3", "layer activation"],
        ),
        ("softmax", "sparse_categorical_crossentropy", [0, -1, 1], ["y[1] is -1"]),
        ("softmax", "sparse_categorical_crossentropy", [0.5, 1, 1], ["y[0] is 0.5"]),
        ("softmax", "sparse_categorical_crossentropy", [0, 1, np.nan], ["y[2] is nan"]),
        ("softmax", "sparse_categorical_crossentropy", ONE_HOT[:3], ["shape (4,)", "y.argmax(-1)"]),
        (
            "softmax",
            "categorical_crossentropy",
            [0, 1, 2],
            ["sparse_categorical_crossentropy", "to_categorical(y, 4)"],
        ),
        ("sigmoid", "binary_crossentropy", np.full((3, 4), 2), ["a label 2", "from 0 to 1"]),
        ("linear", "mse", np.ones((3, 5)), ["shape (5,)", "layer activation, (4,)"]),
        ("linear", "mse", np.ones(3), ["shape ()", "(4,)"]),
    ],
)
def test_labels_that_do_not_fit(activation: str, loss: str, labels: Any, words: list[str]) -> None:
    model = model_of(activation, loss)
    for method in (model.fit, model.evaluate):
        with pytest.raises(UsageError) as caught:
            method(LOGITS[:3], labels, verbose=0)
        for word in words:
            assert word in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("adm", "mse"), ["'adm' is no optimizer", "did you mean 'adam'?"]),
        (("adam", "msr"), ["'msr' is no loss", "did you mean 'mse'?"]),
        (("adam", "sparse_crossentropy"), ["did you mean 'sparse_categorical_crossentropy'?"]),
        (("adam", None), ["loss is missing"]),
        (("adam", "mse", ["acuracy"]), ["'acuracy' is no metric", "did you mean 'accuracy'?"]),
        (("adam", 7), ["7 is no loss"]),
    ],
)
def test_names_that_compile_does_not_know(arguments: tuple[Any, ...], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        Sequential([Dense(3, input_shape=(2,))], comm=None).compile(*arguments)
    for word in words:
        assert word in str(caught.value)
