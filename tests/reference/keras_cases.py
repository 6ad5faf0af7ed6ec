"""What real Keras and dtrain are both asked, by the names that they share.

A case is a function of `k`, which stands for one of the two: its modules (k.layers, k.losses, ...) and

    k.model(layers)        a Sequential of them
    k.functional(ins, outs) a Model between tensors
    k.value(f, *arrays)    f of tensors with these values, as an array
    k.slope(f, array)      the gradient of the sum of f(tensor), likewise

It returns numbers, words, arrays, or a dict or list of them. keras_values.py asks Keras and writes
keras_values.json, tests/unit/test_keras_reference.py asks dtrain.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
Case = Callable[[Any], Any]
CASES: dict[str, Case] = {}
MODULES = (
    "activations",
    "callbacks",
    "constraints",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "optimizers",
    "regularizers",
    "utils",
)

INF, NAN = np.inf, np.nan


def case(name: str) -> Callable[[Case], Case]:
    def keep(function: Case) -> Case:
        assert name not in CASES, name
        CASES[name] = function
        return function

    return keep


def random(seed: int, *shape: int) -> Array:
    """Numbers from -1 to 1 that are the same everywhere: no generator's version is in them."""
    at = np.arange(1, int(np.prod(shape)) + 1, dtype=np.int64) + 1000 * seed
    drawn = at * 48271 % 2147483647 * 16807 % 2147483647 % 2001
    return (drawn / 1000 - 1).reshape(shape).astype(np.float32)


# -- activations -----------------------------------------------------------------------------------------
POINTS = np.array([-INF, -120, -30, -3, -2.5, -1, -0.5, 0, 0.5, 1, 2.5, 3, 7, 30, 120, INF, NAN], np.float32)
SMOOTH = POINTS[1:-2]


def _activation(name: str, **options: Any) -> None:
    @case(f"activations/{name}{_words(options)}")
    def _(k: Any) -> Any:
        f = getattr(k.activations, name)
        return {
            "value": k.value(lambda x: f(x, **options), POINTS),
            "slope": k.slope(lambda x: f(x, **options), SMOOTH),
        }


def _words(options: dict[str, Any]) -> str:
    return "".join(f" {key}={value}" for key, value in options.items())


ACTIVATIONS = "elu, exponential, hard_sigmoid, linear, relu, selu, sigmoid, softplus, softsign, swish, tanh"
for name in ACTIVATIONS.split(", "):
    _activation(name)
_activation("elu", alpha=0.5)
_activation("relu", max_value=6.0)


@case("activations/relu with a slope")
def _(k: Any) -> Any:
    return [
        k.value(lambda x: k.leaky_relu(x, 0.2, None), POINTS),
        k.value(lambda x: k.leaky_relu(x, 0.2, 2.0), POINTS),
    ]


@case("activations/softmax")
def _(k: Any) -> Any:
    x = np.array([[1, 2, 3], [2, 2, 2], [1000, 0, -1000], [-INF, 0, 1], [-200, -100, 0]], np.float32)
    f = k.activations.softmax
    return {
        "value": k.value(f, x),
        "along 0": k.value(lambda t: f(t, axis=0), x[:3]),
        "one class": k.value(f, x[:, :1]),
        "three axes": k.value(f, random(1, 2, 3, 2)),
        "slope": k.slope(lambda t: f(t)[:, 0], x[:3]),
    }


@case("activations/softmax of NaN")
def _(k: Any) -> Any:
    return k.value(k.activations.softmax, np.array([[NAN, 0, 1], [0, 1, 2]], np.float32))


# -- losses ----------------------------------------------------------------------------------------------
A, B = random(2, 5, 3), random(3, 5, 3)
PROBABILITIES = np.array(
    [[0.1, 0.2, 0.7], [1, 0, 0], [0.25, 0.5, 0.25], [0, 0.5, 0.5], [0.2, 0.2, 0.2]], np.float32
)
CLASSES = np.array([2, 0, 1, 0, 2])
ONE_HOT = np.eye(3, dtype=np.float32)[CLASSES]
BITS = (A > 0).astype(np.float32)
LOGITS = np.array([[1, 2, 3], [300, 0, -300], [0, 0, 0], [-5, 0, 5], [0.1, -0.2, 30]], np.float32)
WEIGHTS = np.array([1, 0, 2, 0.5, 3], np.float32)
EDGES = np.array([[INF, 0, 1], [NAN, 0, 1], [1e20, -1e20, 0], [0, 0, 0], [-INF, INF, 1]], np.float32)

DISTANCES = ("mean_squared_error", "mean_absolute_error", "huber", "kl_divergence")
CLASS_OF = {
    "mean_squared_error": "MeanSquaredError",
    "mean_absolute_error": "MeanAbsoluteError",
    "huber": "Huber",
    "kl_divergence": "KLDivergence",
    "binary_crossentropy": "BinaryCrossentropy",
    "categorical_crossentropy": "CategoricalCrossentropy",
    "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
}


def _loss(name: str, label: str, y: Array, p: Array, **options: Any) -> None:
    """A loss as a function and as an object: each example's, the mean, weighted means, the mean's slope."""

    @case(f"losses/{name} {label}{_words(options)}")
    def _(k: Any) -> Any:
        loss = getattr(k.losses, CLASS_OF[name])(**options)
        weights = WEIGHTS[: len(p)]
        found = {
            "mean": k.value(loss, y, p),
            "weighted by a column": k.value(lambda a, b: loss(a, b, sample_weight=weights[:, None]), y, p),
        }
        if p.ndim == 2:
            found["weighted"] = k.value(lambda a, b: loss(a, b, sample_weight=weights), y, p)
        if not options:
            found["each"] = k.value(getattr(k.losses, name), y, p)
        if np.isfinite(p).all() and np.isfinite(y).all():
            found["slope"] = k.slope(lambda t: loss(k.constant(y), t), p)
        return found


for name in DISTANCES:
    _loss(name, "numbers", A, B)
    _loss(name, "one output", A[:, :1], B[:, :1])
    _loss(name, "labels without an axis", A[:, 0], B[:, :1])
    _loss(name, "whole numbers", CLASSES[:, None], B[:, :1])
    _loss(name, "three axes", random(4, 2, 3, 2), random(5, 2, 3, 2))
    _loss(name, "one example", A[:1], B[:1])
    _loss(name, "edges", np.zeros((5, 3), np.float32), EDGES)
    _loss(name, "edges in labels", EDGES, np.zeros((5, 3), np.float32))
_loss("huber", "numbers", 3 * A, 3 * B, delta=0.5)
_loss("huber", "far", 3 * A, 1e5 * B, delta=2.0)
_loss("kl_divergence", "probabilities", PROBABILITIES, PROBABILITIES[::-1].copy())

for smoothing in (0.0, 0.1, 1.0):
    _loss("binary_crossentropy", "probabilities", BITS, PROBABILITIES, label_smoothing=smoothing)
    _loss("binary_crossentropy", "logits", BITS, LOGITS, from_logits=True, label_smoothing=smoothing)
    _loss("categorical_crossentropy", "probabilities", ONE_HOT, PROBABILITIES, label_smoothing=smoothing)
    _loss("categorical_crossentropy", "logits", ONE_HOT, LOGITS, from_logits=True, label_smoothing=smoothing)
_loss("binary_crossentropy", "probabilities", BITS, PROBABILITIES)
_loss("binary_crossentropy", "soft labels", PROBABILITIES, PROBABILITIES[::-1].copy())
_loss("binary_crossentropy", "labels without an axis", BITS[:, 0], PROBABILITIES[:, :1], from_logits=False)
_loss("binary_crossentropy", "edges", BITS, EDGES)
_loss("binary_crossentropy", "logits at the edges", BITS, EDGES, from_logits=True)
_loss("categorical_crossentropy", "probabilities", ONE_HOT, PROBABILITIES)
_loss("categorical_crossentropy", "not normalised", ONE_HOT, 3 * PROBABILITIES + 0.1)
_loss("categorical_crossentropy", "soft labels", PROBABILITIES, PROBABILITIES[::-1].copy())
_loss("categorical_crossentropy", "labels that do not add up to 1", 2 * BITS, PROBABILITIES)
_loss("categorical_crossentropy", "three axes", np.eye(2)[[[0, 1, 1], [1, 0, 0]]], np.abs(random(6, 2, 3, 2)))
_loss("sparse_categorical_crossentropy", "probabilities", CLASSES, PROBABILITIES)
_loss("sparse_categorical_crossentropy", "a column of labels", CLASSES[:, None], PROBABILITIES)
_loss("sparse_categorical_crossentropy", "not normalised", CLASSES, 3 * PROBABILITIES + 0.1)
_loss("sparse_categorical_crossentropy", "logits", CLASSES, LOGITS, from_logits=True)
_loss("sparse_categorical_crossentropy", "labels in float", CLASSES.astype("f"), PROBABILITIES)
_loss(
    "sparse_categorical_crossentropy",
    "three axes",
    np.array([[0, 1, 1], [1, 0, 0]]),
    np.abs(random(6, 2, 3, 2)),
)


# -- metrics that are functions --------------------------------------------------------------------------
TIES = np.array([[0.4, 0.4, 0.2], [0.5, 0.5, 0.5], [0, 0, 1], [0.3, 0.4, 0.3], [0, 0.5, 0.5]], np.float32)


def _metric(name: str, label: str, y: Array, p: Array, **options: Any) -> None:
    @case(f"metrics/{name} {label}{_words(options)}")
    def _(k: Any) -> Any:
        found = k.value(lambda a, b: getattr(k.metrics, name)(a, b, **options), y, p)
        return {"value": found, "dtype is float32": found.dtype == np.float32}


for label, p in (("numbers", B), ("ties", TIES), ("edges", EDGES[2:4])):
    n = len(p)
    _metric("categorical_accuracy", label, ONE_HOT[:n], p)
    _metric("sparse_categorical_accuracy", label, CLASSES[:n], p)
    _metric("sparse_categorical_accuracy", f"{label}, a column of labels", CLASSES[:n, None], p)
    _metric("top_k_categorical_accuracy", label, ONE_HOT[:n], p, k=2)
    _metric("sparse_top_k_categorical_accuracy", label, CLASSES[:n], p, k=2)
    _metric("sparse_top_k_categorical_accuracy", label, CLASSES[:n], p)
    _metric("sparse_top_k_categorical_accuracy", f"{label}, a column of labels", CLASSES[:n, None], p, k=1)
_metric("categorical_accuracy", "whole numbers", ONE_HOT.astype(np.int64), B)
_metric("categorical_accuracy", "soft labels", TIES, B)
_metric("categorical_accuracy", "three axes", np.eye(2)[[[0, 1, 1], [1, 0, 0]]], random(7, 2, 3, 2))
_metric("sparse_categorical_accuracy", "three axes", np.array([[0, 1, 1], [1, 0, 0]]), random(7, 2, 3, 2))
_metric("sparse_categorical_accuracy", "labels in float", CLASSES.astype("f"), B)
_metric(
    "top_k_categorical_accuracy", "three axes", np.eye(3)[[[0, 1, 2], [1, 0, 2]]], random(7, 2, 3, 3), k=2
)
for label, y in (("bits", BITS), ("numbers", A), ("whole numbers", BITS.astype(np.int32))):
    _metric("binary_accuracy", label, y, B)
    _metric("binary_accuracy", label, y, B, threshold=0.3)
_metric("binary_accuracy", "at the threshold", BITS, np.full((5, 3), 0.5, np.float32))
_metric("binary_accuracy", "edges", BITS, EDGES)
_metric("binary_accuracy", "labels without an axis", BITS[:, 0], B[:, :1])
_metric("binary_accuracy", "outputs without an axis", BITS[:, :1], B[:, 0])
_metric("binary_accuracy", "labels beyond 0 and 1", CLASSES[:, None].astype("f"), 3 * B[:, :1])


# -- models whose output is their input ------------------------------------------------------------------
def identity(k: Any, shape: tuple[int, ...], loss: Any, activation: str = "linear", **compiled: Any) -> Any:
    """A model whose output is the activation of its input."""
    model = k.model(
        [k.layers.Input(shape), k.layers.Dense(shape[-1], use_bias=False), k.layers.Activation(activation)]
    )
    model.compile(k.optimizers.SGD(0.0), loss, **compiled)
    model.set_weights([np.eye(shape[-1], dtype=np.float32)])
    return model


def _evaluated(
    label: str, y: Array, p: Array, loss: str, metrics: Callable[[Any], list[Any]], **options: Any
) -> None:
    """The loss and the metrics of outputs p by evaluate, in batches of 2, weighted and not."""

    @case(f"evaluate/{label}")
    def _(k: Any) -> Any:
        found = {}
        kinds = {"plain": None, "weighted": WEIGHTS[: len(p)]}
        for key, weights in list(kinds.items())[: 2 if y.ndim < 3 and p.ndim < 3 else 1]:
            model = identity(k, p.shape[1:], loss, metrics=metrics(k), weighted_metrics=metrics(k), **options)
            found[key] = model.evaluate(
                p, y, batch_size=2, verbose=0, sample_weight=weights, return_dict=True
            )
        return found


def accuracy(k: Any) -> list[Any]:
    return ["accuracy"]


POSITIVE = np.abs(B) / 2
for label, y, p, loss in (
    ("one output, numbers", A[:, :1], B[:, :1], "mse"),
    ("one output, labels without an axis", A[:, 0], B[:, :1], "mse"),
    ("one output, whole numbers", CLASSES.astype("f"), np.round(3 * B[:, :1]), "mse"),
    ("one output, bits", BITS[:, :1], POSITIVE[:, :1], "mse"),
    ("one output, bits, cross entropy", BITS[:, 0], POSITIVE[:, :1], "binary_crossentropy"),
    ("three outputs, bits, cross entropy", BITS, POSITIVE, "binary_crossentropy"),
    ("three outputs, numbers", A, B, "mse"),
    ("three outputs, mae", A, B, "mae"),
    ("classes", CLASSES, POSITIVE, "sparse_categorical_crossentropy"),
    ("classes in a column", CLASSES[:, None], POSITIVE, "sparse_categorical_crossentropy"),
    ("one-hot", ONE_HOT, POSITIVE, "categorical_crossentropy"),
    ("kld", TIES, POSITIVE, "kl_divergence"),
    ("three axes, numbers", random(4, 4, 3, 2), random(5, 4, 3, 2), "mse"),
    (
        "three axes, classes",
        np.array([[0, 1]] * 4),
        np.abs(random(6, 4, 2, 3)),
        "sparse_categorical_crossentropy",
    ),
):
    activation = "hard_sigmoid" if loss.endswith("entropy") else "linear"
    _evaluated(f"accuracy, {label}", y, p, loss, accuracy, activation=activation)


@case("evaluate/names")
def _(k: Any) -> Any:
    names = [
        "mse",
        "MSE",
        "mean_squared_error",
        "mae",
        "AUC",
        "Precision",
        "recall",
        "binary_accuracy",
        "acc",
    ]
    model = identity(k, (1,), "mse", metrics=names, weighted_metrics=["mae", "accuracy"])
    return model.evaluate(POSITIVE[:, :1], BITS[:, :1], verbose=0, sample_weight=WEIGHTS, return_dict=True)


@case("evaluate/objects")
def _(k: Any) -> Any:
    m, losses = k.metrics, k.losses

    def own_distance(y: Any, p: Any) -> Any:
        return (y - p) ** 2

    def objects() -> list[Any]:
        return [m.BinaryAccuracy(threshold=0.2), losses.huber, own_distance]

    metrics = [losses.MeanAbsoluteError(), *objects()]
    model = identity(k, (3,), losses.Huber(delta=0.3), metrics=metrics, weighted_metrics=objects())
    return model.evaluate(POSITIVE, BITS, verbose=0, sample_weight=WEIGHTS, return_dict=True)


SCORES = np.array([[0.0], [0.25], [0.5], [0.5], [0.75], [1.0], [0.1], [0.9]], np.float32)
MARKS = np.array([[0], [1], [0], [1], [1], [0], [0], [1]], np.float32)


def _counted(label: str, y: Array, p: Array, make: Callable[[Any], list[Any]]) -> None:
    @case(f"counts/{label}")
    def _(k: Any) -> Any:
        weights = np.arange(len(p), dtype=np.float32) % 3
        model = identity(k, p.shape[1:], "mse", metrics=make(k.metrics), weighted_metrics=make(k.metrics))
        return model.evaluate(p, y, batch_size=3, verbose=0, sample_weight=weights, return_dict=True)


def counts(m: Any) -> list[Any]:
    return [
        m.Precision(name="p"),
        m.Recall(name="r"),
        m.Precision(thresholds=0.5 - 1e-6, name="p1"),
        m.Recall(thresholds=0.75, name="r1"),
        m.AUC(name="a"),
        m.AUC(num_thresholds=5, name="a1"),
        m.AUC(num_thresholds=2, name="a2"),
        m.AUC(num_thresholds=11, name="a3"),
    ]


_counted("one output", MARKS, SCORES, counts)
_counted("labels without an axis", MARKS[:, 0], SCORES, counts)
_counted("whole numbers", MARKS.astype(np.int64), SCORES, counts)
_counted("several outputs", BITS, POSITIVE, counts)
_counted("soft labels", MARKS * 0.75, SCORES, counts)
_counted("no label is 1", MARKS * 0, SCORES, counts)
_counted("no label is 0", MARKS * 0 + 1, SCORES, counts)
_counted("no score", MARKS, SCORES * 0, counts)
_counted("one example", MARKS[1:2], SCORES[4:5], counts)


# -- layers ----------------------------------------------------------------------------------------------
def weights_of(model: Any) -> list[Array]:
    """Weights of the model's shapes, all from one series."""
    return [random(20 + i, *w.shape) / 2 for i, w in enumerate(model.get_weights())]


def _layer(label: str, shape: tuple[int, ...], make: Callable[[Any], Any], scale: float = 1.0) -> None:
    @case(f"layers/{label}")
    def _(k: Any) -> Any:
        model = k.model([k.layers.Input(shape), make(k.layers)])
        model.set_weights(weights_of(model))
        output = model.predict(scale * random(8, 3, *shape), verbose=0)
        return {"shape": list(output.shape), "output": output}


_layer("Dense", (4,), lambda la: la.Dense(3, "tanh"))
_layer("Dense without bias", (4,), lambda la: la.Dense(2, use_bias=False))
_layer("Dense of one", (1,), lambda la: la.Dense(1))
_layer("Dense along the last of three axes", (2, 3), lambda la: la.Dense(2))
_layer("Activation", (4,), lambda la: la.Activation("softmax"))
_layer("Dropout", (4,), lambda la: la.Dropout(0.5))
_layer("Flatten", (2, 3, 2), lambda la: la.Flatten())
_layer("Flatten of rows", (3,), lambda la: la.Flatten())
_layer("Reshape", (2, 6), lambda la: la.Reshape((3, 4)))
_layer("Reshape with a size to find", (2, 6), lambda la: la.Reshape((-1, 2)))
_layer("Reshape to a row", (2, 6), lambda la: la.Reshape((-1,)))
for padding in ("valid", "same"):
    for size, strides in ((3, 1), (2, 1), ((2, 3), (2, 1)), (3, 2), (1, 2), (5, 3)):
        _layer(
            f"Conv2D {padding} {size} {strides}",
            (6, 5, 2),
            lambda la, p=padding, z=size, s=strides: la.Conv2D(2, z, strides=s, padding=p, activation="relu"),
        )
        _layer(
            f"MaxPooling2D {padding} {size} {strides}",
            (6, 5, 2),
            lambda la, p=padding, z=size, s=strides: la.MaxPooling2D(z, strides=s, padding=p),
        )
        _layer(
            f"AveragePooling2D {padding} {size} {strides}",
            (6, 5, 2),
            lambda la, p=padding, z=size, s=strides: la.AveragePooling2D(z, strides=s, padding=p),
        )
    _layer(
        f"Conv2D {padding} with gaps",
        (7, 6, 1),
        lambda la, p=padding: la.Conv2D(2, (3, 2), dilation_rate=(2, 1), padding=p, use_bias=False),
    )
_layer("MaxPooling2D by default", (5, 4, 2), lambda la: la.MaxPooling2D())
_layer("AveragePooling2D of three", (5, 4, 2), lambda la: la.AveragePooling2D(3))
_layer("MaxPooling2D of negative numbers, padded", (3, 3, 1), lambda la: la.MaxPooling2D(2, 1, "same"), 0.01)
_layer("GlobalAveragePooling2D", (3, 4, 2), lambda la: la.GlobalAveragePooling2D())


def _normalized(label: str, shape: tuple[int, ...], examples: int = 4, **options: Any) -> None:
    """BatchNormalization: its weights after two steps, then the outputs of a test."""

    @case(f"layers/BatchNormalization {label}")
    def _(k: Any) -> Any:
        layer = k.layers.BatchNormalization(**options)
        model = k.model([k.layers.Input(shape), layer])
        model.compile(k.optimizers.SGD(0.1), "mse")
        x, y = 2 * random(9, examples, *shape) + 1, random(10, examples, *shape)
        losses = [model.train_on_batch(x, y) for _ in range(2)]
        return {
            "losses": losses,
            "weights": model.get_weights(),
            "output": model.predict(x, verbose=0),
            "loss": model.evaluate(x, y, verbose=0),
        }


_normalized("by default", (3,))
_normalized("of images", (2, 3, 2))
_normalized("of one example", (3,), 1)
_normalized("momentum", (3,), momentum=0.5, epsilon=0.1)
_normalized("without center", (3,), center=False)
_normalized("without scale", (3,), scale=False)
_normalized("with neither", (3,), center=False, scale=False)
_normalized(
    "with starts",
    (3,),
    gamma_initializer="zeros",
    beta_initializer="ones",
    moving_variance_initializer="zeros",
)
_normalized("that is frozen", (3,), trainable=False)


def frozen(k: Any, before: bool, trained: bool) -> Any:
    """A network whose first normalization is frozen: before compile or behind it, behind a fit or not."""
    la = k.layers
    norm = la.BatchNormalization(momentum=0.5)
    model = k.model([la.Input((3,)), la.Dense(2), norm, la.Dense(2), la.BatchNormalization(momentum=0.5)])
    model.compile(k.optimizers.SGD(0.1), "mse")
    model.set_weights([np.abs(w) for w in weights_of(model)])
    x, y = random(11, 6, 3), random(12, 6, 2)
    if trained:
        model.fit(x, y, batch_size=4, verbose=0, shuffle=False)
    norm.trainable = False
    if before:
        model.compile(k.optimizers.SGD(0.1), "mse")
    history = model.fit(x, y, batch_size=4, epochs=2, verbose=0, shuffle=False).history
    found = {"loss": history["loss"], "weights": model.get_weights(), "test": model.evaluate(x, y, verbose=0)}
    norm.trainable = True
    model.compile(k.optimizers.SGD(0.1), "mse")
    found["thawed"] = model.fit(x, y, batch_size=4, epochs=1, verbose=0, shuffle=False).history["loss"]
    return found


for trained in (False, True):
    for before in (False, True):
        words = f"{'compiled anew' if before else 'compiled before'}, {'trained' if trained else 'new'}"
        CASES[f"frozen/normalization, {words}"] = lambda k, b=before, t=trained: frozen(k, b, t)


@case("frozen/the whole model")
def _(k: Any) -> Any:
    la = k.layers
    model = k.model(
        [
            la.Input((3,)),
            la.BatchNormalization(momentum=0.5),
            la.Dense(2, kernel_regularizer="l2"),
            la.Dense(2),
        ]
    )
    model.layers[0].trainable = model.layers[1].trainable = False
    model.compile(k.optimizers.SGD(0.1), "mse")
    model.set_weights([np.abs(w) for w in weights_of(model)])
    x, y = random(11, 6, 3), random(12, 6, 2)
    loss = model.fit(x, y, batch_size=4, epochs=2, verbose=0, shuffle=False).history["loss"]
    counts = [len(model.trainable_weights), len(model.non_trainable_weights)]
    return {"loss": loss, "weights": model.get_weights(), "counts": counts}


# -- layers of Keras 2, and networks of several inputs and outputs ---------------------------------------
def stepped(k: Any, model: Any, x: Any, y: Any) -> Any:
    """Outputs before and after two steps, their losses, and the weights behind them."""
    model.set_weights(weights_of(model))
    found = {"before": model.predict(x, verbose=0), "shapes": [list(w.shape) for w in model.get_weights()]}
    model.compile(k.optimizers.SGD(0.1), "mse")
    found["losses"] = [model.train_on_batch(x, y) for _ in range(2)]
    found["weights"] = model.get_weights()
    return found | {"after": model.predict(x, verbose=0), "loss": model.evaluate(x, y, verbose=0)}


def _layered(label: str, shape: tuple[int, ...], make: Callable[[Any], Any], rows: Any = None) -> None:
    """A layer, between the examples and two outputs, in two steps."""

    @case(f"layers2/{label}")
    def _(k: Any) -> Any:
        la = k.layers
        model = k.model([la.Input(shape), make(la), la.Flatten(), la.Dense(2)])
        x = random(30, 4, *shape) if rows is None else np.array(rows)
        return stepped(k, model, x, random(31, 4, 2))


IMAGE, STEPS = (5, 4, 3), (5, 3)
for name, shape, make in (
    ("LeakyReLU", (4,), lambda la: la.LeakyReLU(negative_slope=0.3)),
    ("PReLU", IMAGE, lambda la: la.PReLU()),
    ("PReLU shared", IMAGE, lambda la: la.PReLU(shared_axes=[1, 2])),
    ("ELU", (4,), lambda la: la.ELU(0.7)),
    ("ReLU cut off", (4,), lambda la: la.ReLU(0.5, 0.1)),
    ("Softmax", (4,), lambda la: la.Softmax()),
    ("Permute", IMAGE, lambda la: la.Permute((3, 1, 2))),
    ("RepeatVector", (4,), lambda la: la.RepeatVector(3)),
    ("ActivityRegularization", (4,), lambda la: la.ActivityRegularization(0.1, 0.2)),
    ("Dense penalised", (4,), lambda la: la.Dense(3, activity_regularizer="l2", kernel_regularizer="l1")),
    ("LayerNormalization", STEPS, lambda la: la.LayerNormalization()),
    ("Conv1D", STEPS, lambda la: la.Conv1D(2, 3, activation="tanh")),
    ("Conv1D same strides", STEPS, lambda la: la.Conv1D(2, 2, strides=2, padding="same")),
    ("Conv1D causal", STEPS, lambda la: la.Conv1D(2, 2, padding="causal", dilation_rate=2)),
    ("Conv2DTranspose", IMAGE, lambda la: la.Conv2DTranspose(2, 3)),
    ("Conv2DTranspose strides", IMAGE, lambda la: la.Conv2DTranspose(2, (2, 3), strides=2)),
    ("Conv2DTranspose same", IMAGE, lambda la: la.Conv2DTranspose(2, 3, strides=2, padding="same")),
    ("DepthwiseConv2D", IMAGE, lambda la: la.DepthwiseConv2D(3, depth_multiplier=2)),
    ("DepthwiseConv2D same", IMAGE, lambda la: la.DepthwiseConv2D(2, strides=2, padding="same")),
    ("SeparableConv2D", IMAGE, lambda la: la.SeparableConv2D(2, 3, depth_multiplier=2, padding="same")),
    ("MaxPooling1D", STEPS, lambda la: la.MaxPooling1D()),
    ("AveragePooling1D", STEPS, lambda la: la.AveragePooling1D(3, strides=1, padding="same")),
    ("GlobalMaxPooling1D", STEPS, lambda la: la.GlobalMaxPooling1D()),
    ("GlobalAveragePooling1D", STEPS, lambda la: la.GlobalAveragePooling1D()),
    ("GlobalMaxPooling2D", IMAGE, lambda la: la.GlobalMaxPooling2D()),
    ("UpSampling1D", STEPS, lambda la: la.UpSampling1D(3)),
    ("UpSampling2D", IMAGE, lambda la: la.UpSampling2D((2, 3))),
    ("ZeroPadding1D", STEPS, lambda la: la.ZeroPadding1D((1, 2))),
    ("ZeroPadding2D", IMAGE, lambda la: la.ZeroPadding2D(((1, 0), (2, 3)))),
    ("Cropping1D", STEPS, lambda la: la.Cropping1D((1, 2))),
    ("Cropping2D", IMAGE, lambda la: la.Cropping2D(((1, 1), (0, 2)))),
    ("SimpleRNN", STEPS, lambda la: la.SimpleRNN(4)),
    ("SimpleRNN sequences", STEPS, lambda la: la.SimpleRNN(4, "relu", return_sequences=True)),
    ("LSTM", STEPS, lambda la: la.LSTM(4)),
    ("LSTM sequences", STEPS, lambda la: la.LSTM(4, return_sequences=True, use_bias=False)),
    ("LSTM backwards", STEPS, lambda la: la.LSTM(3, go_backwards=True, recurrent_activation="hard_sigmoid")),
    ("GRU", STEPS, lambda la: la.GRU(4)),
    ("GRU without bias", STEPS, lambda la: la.GRU(4, use_bias=False)),
    ("GRU reset before", STEPS, lambda la: la.GRU(4, reset_after=False, return_sequences=True)),
    ("RNN of cells", STEPS, lambda la: la.RNN([la.LSTMCell(3), la.GRUCell(2)])),
    ("Bidirectional", STEPS, lambda la: la.Bidirectional(la.LSTM(3))),
    ("Bidirectional sum", STEPS, lambda la: la.Bidirectional(la.GRU(3, return_sequences=True), "sum")),
    ("TimeDistributed Dense", STEPS, lambda la: la.TimeDistributed(la.Dense(2, "tanh"))),
    ("TimeDistributed Conv2D", (3, 4, 4, 1), lambda la: la.TimeDistributed(la.Conv2D(2, 3))),
    (
        "Conv2DTranspose padded",
        (4, 3, 2),
        lambda la: la.Conv2DTranspose(2, 3, 2, "same", output_padding=(1, 0)),
    ),
    (
        "Conv2DTranspose padded, valid",
        (3, 3, 2),
        lambda la: la.Conv2DTranspose(2, 2, strides=3, output_padding=1),
    ),
    ("Conv2DTranspose dilated", (4, 3, 2), lambda la: la.Conv2DTranspose(2, 2, dilation_rate=2)),
    ("Conv3DTranspose", (2, 3, 2, 2), lambda la: la.Conv3DTranspose(2, (2, 3, 2))),
    (
        "Conv3DTranspose strides",
        (2, 2, 3, 1),
        lambda la: la.Conv3DTranspose(2, 3, strides=(2, 1, 2), padding="same"),
    ),
    ("Conv3DTranspose apart", (2, 2, 2, 1), lambda la: la.Conv3DTranspose(1, 2, strides=3)),
    ("DepthwiseConv2D dilated", (5, 5, 2), lambda la: la.DepthwiseConv2D(2, padding="same", dilation_rate=2)),
    ("SeparableConv2D dilated", (5, 5, 2), lambda la: la.SeparableConv2D(2, 2, dilation_rate=(1, 2))),
    (
        "SeparableConv1D",
        STEPS,
        lambda la: la.SeparableConv1D(2, 3, depth_multiplier=2, strides=2, padding="same"),
    ),
    ("UpSampling2D bilinear", IMAGE, lambda la: la.UpSampling2D((2, 3), interpolation="bilinear")),
    ("ConvLSTM1D", (3, 5, 2), lambda la: la.ConvLSTM1D(2, 2, strides=2, padding="same")),
    ("ConvLSTM2D", (3, 4, 4, 2), lambda la: la.ConvLSTM2D(2, (3, 2))),
    (
        "ConvLSTM2D sequences",
        (3, 4, 3, 1),
        lambda la: la.ConvLSTM2D(2, 3, padding="same", return_sequences=True),
    ),
    ("ConvLSTM2D dilated", (2, 5, 5, 1), lambda la: la.ConvLSTM2D(2, 2, dilation_rate=2, go_backwards=True)),
    ("ConvLSTM3D", (2, 3, 2, 3, 1), lambda la: la.ConvLSTM3D(2, 2, padding="same")),
):
    _layered(name, shape, make)

WORDS = [[1, 2, 0, 0], [3, 0, 0, 0], [4, 1, 2, 3], [0, 2, 0, 1]]
_layered("Embedding", (4,), lambda la: la.Embedding(5, 3), WORDS)


@case("layers2/Embedding with a mask")
def _(k: Any) -> Any:
    la = k.layers
    recurrent = [la.LSTM(3, return_sequences=True), la.GRU(4)]
    model = k.model([la.Input((4,)), la.Embedding(5, 3, mask_zero=True), *recurrent, la.Dense(2)])
    return stepped(k, model, np.array(WORDS), random(31, 4, 2))


@case("layers2/Masking")
def _(k: Any) -> Any:
    la = k.layers
    model = k.model([la.Input(STEPS), la.Masking(), la.SimpleRNN(3), la.Dense(2)])
    x = random(30, 4, *STEPS)
    x[0, 3:], x[1, 1], x[2, 0] = 0, 0, 0
    return stepped(k, model, x, random(31, 4, 2))


@case("layers2/a mask as far as the loss")
def _(k: Any) -> Any:
    la = k.layers
    rnn = la.SimpleRNN(2, return_sequences=True)
    model = k.model([la.Input((4,)), la.Embedding(5, 3, mask_zero=True), rnn])
    return stepped(k, model, np.array(WORDS), random(31, 4, 4, 2))


for name, constraint in (
    ("MaxNorm", [0.7]),
    ("NonNeg", []),
    ("UnitNorm", []),
    ("MinMaxNorm", [0.2, 0.8, 0.5]),
):

    @case(f"layers2/Dense of {name}")
    def _(k: Any, name: str = name, arguments: Any = constraint) -> Any:
        la, kept = k.layers, getattr(k.constraints, name)(*arguments)
        model = k.model([la.Input((4,)), la.Dense(3, kernel_constraint=kept), la.Dense(2)])
        return stepped(k, model, random(30, 4, 4), random(31, 4, 2))


for name, options in (
    ("Add", {}),
    ("Subtract", {}),
    ("Multiply", {}),
    ("Average", {}),
    ("Maximum", {}),
    ("Minimum", {}),
    ("Concatenate", {}),
    ("Concatenate", {"axis": 1}),
    ("Dot", {"axes": 2}),
    ("Dot", {"axes": (1, 1), "normalize": True}),
):

    @case(f"merge/{name}{_words(options)}")
    def _(k: Any, name: str = name, options: Any = options) -> Any:
        la = k.layers
        a, b = la.Input((3, 4)), la.Input((3, 4))
        merged = getattr(la, name)(**options)([la.Dense(4)(a), b])
        model = k.functional([a, b], la.Dense(2)(la.Flatten()(merged)))
        return stepped(k, model, [random(40, 4, 3, 4), random(41, 4, 3, 4)], random(42, 4, 2))


def several(k: Any) -> Any:
    """Two inputs, a layer that both share, and two outputs."""
    la = k.layers
    a, b = la.Input((3,), name="a"), la.Input((3,), name="b")
    shared = la.Dense(4, "tanh", name="shared", kernel_regularizer="l2")
    h = la.Concatenate(name="both")([shared(a), shared(b)])
    return k.functional([a, b], [la.Dense(2, "softmax", name="kind")(h), la.Dense(1, name="size")(h)])


@case("models/two inputs and two outputs")
def _(k: Any) -> Any:
    model = several(k)
    model.set_weights(weights_of(model))
    kinds = np.eye(2, dtype=np.float32)[np.array([0, 1, 1, 0, 1, 0])]
    # batches of one size: Keras 3 counts each batch alike in the losses of outputs, and Keras 2 each example
    x, y = {"a": random(43, 6, 3), "b": random(44, 6, 3)}, {"kind": kinds, "size": random(45, 6, 1)}
    model.compile(
        k.optimizers.SGD(0.1),
        {"kind": "categorical_crossentropy", "size": "mse"},
        loss_weights={"kind": 0.7, "size": 0.2},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )
    history = model.fit(
        x, y, batch_size=3, epochs=2, shuffle=False, verbose=0, validation_data=(x, y)
    ).history
    tested = model.evaluate(x, y, verbose=0, return_dict=True)
    outputs = model.predict([x["a"], x["b"]], verbose=0)
    return {"history": history, "tested": tested, "outputs": list(outputs), "weights": model.get_weights()}


@case("models/weights of examples, of two outputs")
def _(k: Any) -> Any:
    model = several(k)
    model.set_weights(weights_of(model))
    kinds = np.array([0, 1, 1, 0, 1])
    model.compile(k.optimizers.SGD(0.1), ["sparse_categorical_crossentropy", "mae"])
    weights = [np.array([1, 2, 0.5, 0, 1], np.float32), np.array([0.1, 1, 3, 1, 1], np.float32)]
    x, y = [random(43, 5, 3), random(44, 5, 3)], [kinds, random(45, 5, 1)]
    return [model.train_on_batch(x, y, sample_weight=weights), model.get_weights()]


@case("models/a model as a layer, twice")
def _(k: Any) -> Any:
    la = k.layers
    inner = k.model([la.Input((3,)), la.Dense(4, "relu"), la.Dense(2)])
    a, b = la.Input((3,)), la.Input((3,))
    model = k.functional([a, b], la.Subtract()([inner(a), inner(b)]))
    return stepped(k, model, [random(46, 5, 3), random(47, 5, 3)], random(48, 5, 2))


@case("models/states of an LSTM, handed on")
def _(k: Any) -> Any:
    la = k.layers
    a, b = la.Input((4, 3)), la.Input((2, 3))
    _, h, c = la.LSTM(5, return_state=True)(a)
    y = la.LSTM(5, return_sequences=True)(b, initial_state=[h, c])
    return stepped(
        k, k.functional([a, b], y), [random(49, 3, 4, 3), random(50, 3, 2, 3)], random(51, 3, 2, 5)
    )


@case("losses/of Keras 2")
def _(k: Any) -> Any:
    y, p = np.abs(random(52, 4, 3)) + 0.1, np.abs(random(53, 4, 3)) + 0.2
    marks, signs = (y > 0.5).astype(np.float32), np.sign(random(54, 4, 3)).astype(np.float32)
    found = {
        name: k.value(getattr(k.losses, name), y, p)
        for name in (
            "mean_absolute_percentage_error",
            "mean_squared_logarithmic_error",
            "poisson",
            "log_cosh",
        )
    }
    for name in ("hinge", "squared_hinge", "categorical_hinge"):
        found[name] = [k.value(getattr(k.losses, name), marks, p)]
        found[name] += [k.value(getattr(k.losses, name), signs, p)] * (name != "categorical_hinge")
    return found | {"cosine": k.value(k.losses.cosine_similarity, y, random(55, 4, 3))}


@case("orthogonal matrices")
def _(k: Any) -> Any:
    found = []
    for shape in ((5, 9), (9, 5), (6, 6)):
        w = k.draw(k.initializers.get("orthogonal"), shape)
        w = w if shape[0] <= shape[1] else w.T
        found.append(np.round(w @ w.T, 4) + 0.0)
    return found


# -- regularizers and initializers -----------------------------------------------------------------------
@case("regularizers")
def _(k: Any) -> Any:
    r = k.regularizers
    w = np.array([[-2, 0, 0.5], [1e-3, 3, -1]], np.float32)
    made = [
        r.get("l1"),
        r.get("l2"),
        r.l1(0.3),
        r.l2(0.3),
        r.l1_l2(0.1, 0.2),
        r.l1_l2(),
        r.L1L2(l1=0.1),
        r.L1L2(0.0, 0.5),
        r.L1L2(),
    ]
    return {
        "value": [float(np.ravel(k.value(f, w))[0]) for f in made],
        "slope": [k.slope(f, w) for f in made[:5]],
    }


def _spread(name: str, make: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
    """What tells a distribution from others; the draws of the two differ."""

    @case(f"initializers/{name} {shape}")
    def _(k: Any) -> Any:
        w = k.draw(make(k.initializers), shape)
        return {
            "mean": w.mean(),
            "deviation": w.std(),
            "least": w.min(),
            "greatest": w.max(),
            "kurtosis": ((w - w.mean()) ** 4).mean() / w.std() ** 4,
        }


DISTRIBUTIONS = [
    f"{who}_{how}" for who in ("glorot", "he", "lecun", "random") for how in ("uniform", "normal")
]
for shape in ((200, 300), (3, 3, 40, 60)):
    for name in [*DISTRIBUTIONS, "truncated_normal"]:
        _spread(name, lambda i, n=name: i.get(n), shape)
    for mode in ("fan_in", "fan_out", "fan_avg"):
        for distribution in ("truncated_normal", "untruncated_normal", "uniform"):
            _spread(
                f"VarianceScaling {mode} {distribution}",
                lambda i, m=mode, d=distribution: i.VarianceScaling(0.5, m, d),
                shape,
            )
    _spread("RandomNormal", lambda i: i.RandomNormal(0.5, 0.1), shape)
    _spread("RandomUniform", lambda i: i.RandomUniform(-1, 3), shape)
    _spread("TruncatedNormal", lambda i: i.TruncatedNormal(0.5, 0.1), shape)


@case("initializers/values")
def _(k: Any) -> Any:
    i = k.initializers
    made = [i.get("zeros"), i.get("ones"), i.Constant(0.25), i.Identity(), i.Identity(gain=2.0)]
    return [k.draw(f, (3, 3)) for f in made] + [k.draw(i.Identity(), (2, 4))]


# -- optimizers ------------------------------------------------------------------------------------------
START = np.array([[0.5], [-1], [0], [2]], np.float32)
TO = np.array([[1, 0, 0, 0], [0, 0, 0, 3], [2, -1, 0, 0.5], [0, 1e-4, 0, -2], [0.5, 0.5, 0, 0]], np.float32)


def _stepped(
    label: str, make: Callable[[Any], Any], rates: dict[int, float] | None = None, x: Array = TO
) -> None:
    """A weight that never has a gradient, one that seldom has one, and rates that change on the way."""

    @case(f"optimizers/{label}")
    def _(k: Any) -> Any:
        model = k.model([k.layers.Input((4,)), k.layers.Dense(1, use_bias=True)])
        model.compile(make(k.optimizers), "mse")
        model.set_weights([START, np.array([0.25], np.float32)])
        found = []
        for step in range(8):
            if step in (rates or {}):
                model.optimizer.learning_rate = rates[step]  # type: ignore[index]
            row = slice(step % 5, step % 5 + 1)
            model.train_on_batch(x[row], np.array([[1.0]], np.float32))
            found.append(np.concatenate([w.ravel() for w in model.get_weights()]))
        return found


RATES = {2: 0.02, 5: 0.2}
OPTIMIZERS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}],
    "RMSprop": [
        {"rho": 0.5},
        {"momentum": 0.9},
        {"centered": True},
        {"centered": True, "momentum": 0.5},
        {"epsilon": 0.1},
    ],
    "Adagrad": [{"initial_accumulator_value": 0.5}, {"initial_accumulator_value": 0.0}, {"epsilon": 0.1}],
    "Adadelta": [{"rho": 0.5}, {"epsilon": 0.01}],
    "Adam": [{"beta_1": 0.5}, {"beta_2": 0.9}, {"epsilon": 0.1}],
    "Adamax": [{"beta_1": 0.5}, {"beta_2": 0.9}, {"epsilon": 0.1}],
    "Nadam": [{"beta_1": 0.5}, {"beta_2": 0.9}, {"epsilon": 0.1}],
}
for name, variants in OPTIMIZERS.items():
    _stepped(f"{name} by name", lambda o, n=name: n.lower())
    _stepped(f"{name} by default", lambda o, n=name: getattr(o, n)())
    for options in [{}, *variants]:
        _stepped(
            f"{name}{_words(options)}",
            lambda o, n=name, c=options: getattr(o, n)(learning_rate=0.1, **c),
            RATES,
        )
    _stepped(
        f"{name} with small gradients", lambda o, n=name: getattr(o, n)(learning_rate=0.1, clipvalue=1e-6)
    )
for clip in ("clipnorm", "clipvalue", "global_clipnorm"):
    _stepped(f"SGD {clip}", lambda o, c=clip: o.SGD(0.1, **{c: 0.5}))
    _stepped(f"SGD {clip} far", lambda o, c=clip: o.SGD(0.1, **{c: 100.0}))
    bad = TO.copy()
    bad[2, 0] = INF
    if clip != "global_clipnorm":
        _stepped(f"SGD {clip} with an infinity", lambda o, c=clip: o.SGD(0.1, **{c: 0.5}), x=bad)


@case("optimizers/Nadam on one weight")
def _(k: Any) -> Any:
    """The case of the report: the derivative of w^2 from 1 on, at a rate of 0.1."""
    model = k.model([k.layers.Input((1,)), k.layers.Dense(1, use_bias=False)])
    model.compile(k.optimizers.Nadam(learning_rate=0.1), "mse")
    model.set_weights([np.array([[1.0]], np.float32)])
    x, found = np.array([[1.0]], np.float32), []
    for _ in range(30):
        model.train_on_batch(x, 0 * x)
        found.append(float(model.get_weights()[0][0, 0]))
    return found


# -- training --------------------------------------------------------------------------------------------
N = 23
X = random(13, N, 4)
Y = (np.arange(N) * 7) % 3
TARGETS = random(14, N, 2)


def network(
    k: Any, loss: Any = "sparse_categorical_crossentropy", optimizer: Any = None, **options: Any
) -> Any:
    """4-5-3 for classes, or 4-5-2 for numbers, always with the same weights."""
    la = k.layers
    classes = "sparse" in str(loss) or "categorical" in str(loss)
    last = la.Dense(3, "softmax") if classes else la.Dense(2)
    model = k.model([la.Input((4,)), la.Dense(5, "tanh", kernel_regularizer=k.regularizers.l2(0.01)), last])
    model.compile(optimizer or k.optimizers.SGD(0.5), loss, **{"metrics": ["accuracy"], **options})
    model.set_weights([2 * w for w in weights_of(model)])
    return model


def _fitted(label: str, **fitted: Any) -> None:
    @case(f"fit/{label}")
    def _(k: Any) -> Any:
        given = dict(fitted)
        model = network(k, **given.pop("compiled", {}))
        x, y = given.pop("x", X), given.pop("y", Y)
        history = model.fit(x, y, verbose=0, shuffle=False, **{"batch_size": 5, "epochs": 3, **given})
        return {
            "history": history.history,
            "epochs": history.epoch,
            "weights": model.get_weights(),
            "test": model.evaluate(x, y, verbose=0, return_dict=True),
        }


BY_CLASS = {0: 0.5, 1: 1.0, 2: 3.0}
LONG = np.linspace(0, 2, N).astype(np.float32)
_fitted("plain")
_fitted("one batch", batch_size=100)
_fitted("a remainder of one", batch_size=11)
_fitted("batches of one", batch_size=1, epochs=1)
_fitted("validation split", validation_split=0.3)
_fitted("a small validation split", validation_split=0.05)
_fitted("validation split and class weights", validation_split=0.3, class_weight=BY_CLASS)
_fitted(
    "validation split, class weights and weighted metrics",
    validation_split=0.3,
    class_weight=BY_CLASS,
    compiled={"weighted_metrics": ["accuracy"]},
)
_fitted(
    "validation split and sample weights",
    validation_split=0.3,
    sample_weight=LONG,
    compiled={"weighted_metrics": ["accuracy"]},
)
_fitted("class weights", class_weight=BY_CLASS, compiled={"weighted_metrics": ["accuracy"]})
_fitted("class weights for some", class_weight={1: 4.0})
_fitted("class weights, a column of labels", class_weight=BY_CLASS, y=Y[:, None])
_fitted("sample weights", sample_weight=LONG, compiled={"weighted_metrics": ["accuracy"]})
_fitted("weights of 0", sample_weight=(LONG > 1).astype("f"), compiled={"weighted_metrics": ["accuracy"]})
_fitted("validation data", validation_data=(X[:7], Y[:7]))
_fitted(
    "validation data with weights",
    validation_data=(X[:7], Y[:7], LONG[:7]),
    compiled={"weighted_metrics": ["accuracy"]},
)
_fitted("validation data and split", validation_data=(X[:7], Y[:7]), validation_split=0.5)
_fitted("initial epoch", initial_epoch=1)
_fitted("no epochs", epochs=0)
_fitted("initial epoch behind the last", initial_epoch=5)
_fitted("numbers", y=TARGETS, compiled={"loss": "mse", "metrics": ["mae", "accuracy"]})
_fitted("x of doubles and labels of bytes", x=X.astype(np.float64), y=Y.astype(np.uint8))
_fitted("x of whole numbers", x=np.round(9 * X).astype(np.int64))
_fitted(
    "one-hot and class weights",
    y=np.eye(3, dtype="f")[Y],
    class_weight=BY_CLASS,
    compiled={"loss": "categorical_crossentropy"},
)


@case("fit/several times, and batch by batch")
def _(k: Any) -> Any:
    model = network(k, optimizer=k.optimizers.Adam(0.05))
    found: dict[str, Any] = {}
    for name in ("first", "second"):
        found[name] = model.fit(X, Y, batch_size=8, epochs=2, verbose=0, shuffle=False).history
    found["train"] = [model.train_on_batch(X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)]
    found["weighted"] = model.train_on_batch(X[:4], Y[:4], sample_weight=LONG[-4:])
    found["by class"] = model.train_on_batch(X[:4], Y[:4], class_weight=BY_CLASS)
    found["test"] = [model.test_on_batch(X[i : i + 4], Y[i : i + 4]) for i in (0, 4)]
    found["test weighted"] = model.test_on_batch(X[:4], Y[:4], sample_weight=LONG[-4:])
    found["predict"] = model.predict_on_batch(X[:3])
    found["steps"] = int(model.optimizer.iterations)
    return found


@case("fit/what methods return without metrics")
def _(k: Any) -> Any:
    model = network(k, metrics=None)
    return [model.train_on_batch(X, Y), model.test_on_batch(X, Y), model.evaluate(X, Y, verbose=0)]


# -- callbacks -------------------------------------------------------------------------------------------
def reports(k: Any, values: dict[str, list[float]]) -> Any:
    """A callback that puts numbers in the place of those that the epochs reached."""

    class Reports(k.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            for name, numbers in values.items():
                logs[name] = numbers[epoch]

    return Reports()


def watched(
    k: Any, values: list[float], callback: Any, key: str = "val_loss", epochs: int | None = None
) -> dict[str, Any]:
    """A fit whose epochs report these values: which epochs ran, at which rates, and whose weights stayed."""
    model = network(k)
    weights: list[Any] = []
    watch = k.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append(model.get_weights()))
    given = {"validation_data": (X[:7], Y[:7]), "batch_size": 8, "verbose": 0, "shuffle": False}
    history = model.fit(
        X,
        Y,
        epochs=len(values) if epochs is None else epochs,
        callbacks=[reports(k, {key: values}), watch, callback],
        **given,
    )
    last = model.get_weights()
    same = [all(np.array_equal(a, b) for a, b in zip(w, last, strict=True)) for w in weights]
    rates = history.history.get("learning_rate", [])
    return {
        "epochs": history.epoch,
        "weights of": [i for i, s in enumerate(same) if s],
        "rates": rates,
        "keys": sorted(history.history),
    }


SERIES = {
    "falling": [5.0, 4.0, 3.0, 2.0, 1.0, 0.5],
    "rising": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "valley": [5.0, 3.0, 2.0, 4.0, 4.5, 4.0],
    "flat": [2.0] * 6,
    "two valleys": [5.0, 3.0, 4.0, 2.0, 4.5, 4.0],
    "nan first": [NAN, 3.0, 2.0, 4.0, 4.5, 4.0],
    "nan behind": [3.0, NAN, 2.0, NAN, NAN, NAN],
    "infinite": [INF, INF, 2.0, INF, -INF, 1.0],
    "one epoch": [1.0],
}
STOPPING: list[dict[str, Any]] = [
    {},
    {"patience": 2, "restore_best_weights": True},
    {"patience": 50, "restore_best_weights": True},
    {"patience": 1, "min_delta": 1.5, "restore_best_weights": True},
    {"patience": 2, "baseline": 2.5, "restore_best_weights": True},
    {"patience": 2, "baseline": 0.1, "restore_best_weights": True},
    {"patience": 2, "mode": "max", "min_delta": -0.5, "restore_best_weights": True},
]
for label, values in SERIES.items():
    for options in STOPPING:

        @case(f"callbacks/EarlyStopping {label}{_words(options)}")
        def _(k: Any, v: list[float] = values, c: dict[str, Any] = options) -> Any:
            stopping = k.callbacks.EarlyStopping(**c)
            found = watched(k, v, stopping)
            return {**found, "stopped": stopping.stopped_epoch, "best": stopping.best_epoch}


@case("callbacks/EarlyStopping, and another callback stops")
def _(k: Any) -> Any:
    stopping = k.callbacks.EarlyStopping(patience=9, restore_best_weights=True)

    class Stop(k.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = epoch == 3

    model = network(k)
    weights: list[Any] = []
    watch = k.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append(model.get_weights()))
    values = reports(k, {"val_loss": SERIES["valley"]})
    history = model.fit(
        X,
        Y,
        epochs=6,
        verbose=0,
        shuffle=False,
        validation_split=0.3,
        callbacks=[values, watch, stopping, Stop()],
    )
    last = model.get_weights()
    return [history.epoch, [i for i, w in enumerate(weights) if np.array_equal(w[0], last[0])]]


@case("callbacks/EarlyStopping in two fits")
def _(k: Any) -> Any:
    stopping = k.callbacks.EarlyStopping(monitor="loss", patience=1, restore_best_weights=True)
    model = network(k)
    found = []
    for values in ([3.0, 2.0, 2.5, 2.2], [9.0, 8.0, 8.5, 7.0]):
        history = model.fit(
            X, Y, epochs=4, verbose=0, shuffle=False, callbacks=[reports(k, {"loss": values}), stopping]
        )
        found.append([history.epoch, stopping.best_epoch, stopping.best, model.evaluate(X, Y, verbose=0)[0]])
    return found


for label, values in SERIES.items():
    for options in (
        {"patience": 1, "factor": 0.5},
        {"patience": 2, "factor": 0.5, "cooldown": 1, "min_lr": 0.2},
        {"patience": 1, "mode": "max", "min_delta": 1.0},
    ):

        @case(f"callbacks/ReduceLROnPlateau {label}{_words(options)}")
        def _(k: Any, v: list[float] = values, c: dict[str, Any] = options) -> Any:
            found = watched(k, v, k.callbacks.ReduceLROnPlateau(**c))
            return {"epochs": found["epochs"], "rates": found["rates"], "keys": found["keys"]}


def kept(folder: Path) -> list[str]:
    return sorted(p.name.removesuffix(".keras") for p in folder.iterdir())


for label, values in SERIES.items():
    for options in ({"save_best_only": True}, {"save_best_only": True, "mode": "max"}):

        @case(f"callbacks/ModelCheckpoint {label}{_words(options)}")
        def _(k: Any, v: list[float] = values, c: dict[str, Any] = options) -> Any:
            with tempfile.TemporaryDirectory() as folder:
                watched(k, v, k.callbacks.ModelCheckpoint(f"{folder}/{{epoch:02d}}.keras", **c))
                return [int(name) for name in kept(Path(folder))]


@case("callbacks/ModelCheckpoint in two fits")
def _(k: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        saver = k.callbacks.ModelCheckpoint(
            f"{folder}/{{epoch:02d}}.keras", monitor="loss", save_best_only=True
        )
        model = network(k)
        for first, values in ((0, [3.0, 2.0, 2.5]), (3, [9.0, 8.0, 1.5])):
            report = reports(k, {"loss": [0.0] * first + values})
            model.fit(X, Y, epochs=first + 3, initial_epoch=first, verbose=0, callbacks=[report, saver])
        return [int(name) for name in kept(Path(folder))] + [saver.best]


@case("callbacks/LearningRateScheduler")
def _(k: Any) -> Any:
    found = []
    for schedule in (lambda epoch: [0.5, 0.0, 0.25][epoch], lambda epoch, rate: rate / 2):
        model = network(k)
        scheduler = k.callbacks.LearningRateScheduler(schedule)
        history = model.fit(X, Y, epochs=3, batch_size=8, verbose=0, shuffle=False, callbacks=[scheduler])
        found.append([history.history["learning_rate"], history.history["loss"], sorted(history.history)])
    return found


@case("callbacks/TerminateOnNaN")
def _(k: Any) -> Any:
    found = []
    for bad in (NAN, INF):
        x, seen = X.copy(), []
        x[9] = bad
        model = network(k, loss="mse", metrics=["mae"])
        watch = k.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs, s=seen: s.append(batch))
        history = model.fit(
            x,
            TARGETS,
            batch_size=5,
            epochs=3,
            verbose=0,
            shuffle=False,
            callbacks=[k.callbacks.TerminateOnNaN(), watch],
        )
        found.append([seen, history.epoch])
    return found


@case("callbacks/stopping inside an epoch")
def _(k: Any) -> Any:
    model, events = network(k), []

    class Stop(k.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            events.append(batch)
            if batch == 1:
                self.model.stop_training = True

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            events.append([logs["loss"], logs["val_loss"]])

    history = model.fit(
        X, Y, batch_size=5, epochs=3, verbose=0, shuffle=False, validation_data=(X, Y), callbacks=[Stop()]
    )
    return [events, history.history, int(model.optimizer.iterations)]


@case("callbacks/order and logs")
def _(k: Any) -> Any:
    events: list[Any] = []

    class Tells(k.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            events.append("train begins")

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            events.append(f"epoch {epoch} begins")

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            events.append(f"batch {batch} begins")

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            events.extend([f"batch {batch} ends", logs["loss"], logs["accuracy"]])

        def on_test_begin(self, logs: Any = None) -> None:
            events.append("test begins")

        def on_test_end(self, logs: Any = None) -> None:
            events.extend(["test ends", *sorted(logs.items())])

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            events.extend([f"epoch {epoch} ends", *sorted(logs.items())])

        def on_train_end(self, logs: Any = None) -> None:
            events.append("train ends")

    model = network(k)
    model.fit(
        X,
        Y,
        batch_size=8,
        epochs=3,
        initial_epoch=1,
        verbose=0,
        shuffle=False,
        validation_split=0.2,
        callbacks=[Tells()],
    )
    return events


@case("callbacks/CSVLogger")
def _(k: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path, found = Path(folder) / "log.csv", []
        for append in (False, True, False):
            model = network(k)
            logger = k.callbacks.CSVLogger(str(path), append=append)
            model.fit(
                X,
                Y,
                batch_size=8,
                epochs=2,
                verbose=0,
                shuffle=False,
                validation_split=0.2,
                callbacks=[logger],
            )
            rows = [line.split(",") for line in path.read_text().split()]
            found += [
                rows[0],
                [[float(cell) for cell in row] for row in rows[1:] if row[0] != "epoch"],
                len(rows),
            ]
        return found


# -- utils -----------------------------------------------------------------------------------------------
@case("utils")
def _(k: Any) -> Any:
    u = k.utils
    return [
        u.to_categorical([0, 2, 1]),
        u.to_categorical([0, 2, 1], num_classes=4),
        u.to_categorical([[0], [2]], num_classes=3),
        u.to_categorical([[0, 1], [2, 0]], num_classes=3),
        u.normalize(np.array([[3.0, 4.0], [0.0, 0.0]])),
        u.normalize(np.array([[3.0, -4.0], [0.0, 2.0]]), order=1),
    ]


@case("utils/normalize along 0")
def _(k: Any) -> Any:
    return k.utils.normalize(np.array([[3.0, 4.0], [1.0, 0.0]]), axis=0)


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and words of what a case returned, each with the way to it."""
    if isinstance(value, np.ndarray) and value.ndim:
        value = value.tolist()
    if isinstance(value, dict):
        yield f"{path} keys", sorted(map(str, value))
        for key in sorted(value):
            yield from flat(value[key], f"{path}/{key}")
    elif isinstance(value, list | tuple) and not all(isinstance(v, str) for v in value):
        yield f"{path} length", len(value)
        for i, v in enumerate(value):
            yield from flat(v, f"{path}/{i}")
    elif isinstance(value, list | tuple | str):
        yield path, value
    else:
        yield path, np.asarray(value)
