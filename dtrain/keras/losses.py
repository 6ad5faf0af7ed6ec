"""Losses: a number for each example, and what labels have to be like to fit a model's output.

A cross entropy of probabilities that a softmax (or sigmoid) made is computed from what went into it: the
logarithm of a probability that was rounded to 0 has lost what the logits still know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from dtrain.errors import UsageError
from dtrain.graph.graph import Tensor
from dtrain.graph.shape import compatible
from dtrain.keras.names import Names, as_data
from dtrain.names import module_getattr
from dtrain.ops import math
from dtrain.ops.array import expand_dims, squeeze
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.logic import where
from dtrain.ops.loss import (
    sigmoid_cross_entropy_with_logits,
    softmax_cross_entropy_with_logits_v2,
    sparse_softmax_cross_entropy_with_logits,
)
from dtrain.ops.math import Sigmoid, cast, log, maximum, minimum, square
from dtrain.ops.nn import Softmax, softplus
from dtrain.ops.reduce import reduce_all, reduce_max, reduce_mean, reduce_sum

__all__ = [
    "KLD",
    "MAE",
    "MAPE",
    "MSE",
    "MSLE",
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalHinge",
    "CosineSimilarity",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Poisson",
    "SparseCategoricalCrossentropy",
    "SquaredHinge",
    "binary_crossentropy",
    "categorical_crossentropy",
    "categorical_hinge",
    "cosine",
    "cosine_proximity",
    "cosine_similarity",
    "deserialize",
    "get",
    "hinge",
    "huber",
    "kl_divergence",
    "kld",
    "kullback_leibler_divergence",
    "log_cosh",
    "logcosh",
    "mae",
    "mape",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "mse",
    "msle",
    "poisson",
    "serialize",
    "sparse_categorical_crossentropy",
    "squared_hinge",
]

__getattr__ = module_getattr("tf.keras.losses")

#: What keeps logarithms finite, as Keras's epsilon().
EPSILON = 1e-7

Shape = tuple[int, ...]


def same_rank(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The two with as many axes, where one of them lacks a last axis of size 1 that the other has.

    Rows are kept: two of shape [n, 1] rather than of [n], so that a mean over the last axis leaves [n].
    """
    ranks = a.shape.ndims, b.shape.ndims
    if None in ranks or abs(ranks[0] - ranks[1]) != 1:  # type: ignore[operator]  # none is None
        return a, b
    if ranks[0] < ranks[1]:  # type: ignore[operator]  # none is None
        return same_rank(b, a)[::-1]
    if a.shape.as_list()[-1] != 1:
        return a, b
    return (a, expand_dims(b, -1)) if ranks[1] == 1 else (squeeze(a, [-1]), b)


class Loss:
    """Base of the losses. A subclass defines `each`, and `labels` where labels are not like the output.

    Called with (y_true, y_pred, sample_weight=None) a loss is the mean over all examples, a scalar tensor.

    Attributes:
        name: its name for compile.
        after: the activation that its probabilities come from, or ''.
    """

    name: ClassVar[str] = ""
    after: ClassVar[str] = ""
    from_logits = False

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of each example, [batch], or [batch, ...] where outputs have more axes."""
        raise NotImplementedError

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        """The mean over all examples, of each loss times its weight.

        Labels are cast to the dtype of the outputs. Where labels or weights lack a last axis of size 1, or
        have one too many, they are taken as if they had the right shape.
        """
        losses = self.each(*self._compared(y_true, y_pred))
        if sample_weight is None:
            return reduce_mean(losses)
        losses, weights = same_rank(losses, cast(convert_to_tensor(sample_weight), losses.dtype))
        return reduce_mean(losses * weights)

    def _compared(self, y_true: Any, y_pred: Any) -> tuple[Tensor, Tensor]:
        """What the two are for `each`."""
        y_pred = convert_to_tensor(y_pred)
        return same_rank(cast(convert_to_tensor(y_true), y_pred.dtype), y_pred)

    def labels(self, y: np.ndarray, output: Shape, layer: str, what: str) -> np.ndarray:
        """Labels as `each` takes them, for outputs [batch, *output] of a layer; what: the array's name.

        Raises:
            UsageError: they do not fit, with the array or layer and what to do.
        """
        if y.ndim == len(output) and output[-1:] == (1,):
            y = y[..., None]
        if not compatible(y.shape[1:], output):
            raise UsageError(
                f"{what} has labels of shape {y.shape[1:]}, and loss {self.name!r} compares them with the "
                f"output of layer {layer}, {output}: reshape y, or let the layer have as many units as a "
                f"label has numbers.{self._other_labels(y, output)}"
            )
        return y.astype(np.float32, copy=False)

    def _other_labels(self, y: np.ndarray, output: Shape) -> str:
        """A hint on labels of another kind."""
        return ""

    def fits(self, layer: str, activation: str | None, output: Shape) -> None:
        """Raise UsageError where a last layer with this activation (None: not known) does not fit."""
        wanted = self.after
        if not wanted or activation is None:
            return
        cls = type(self).__name__
        if self.from_logits and activation == wanted:
            raise UsageError(
                f"loss {cls}(from_logits=True) applies {wanted}, which layer {layer} has done: leave out its "
                f"activation={wanted!r}, or from_logits=True."
            )
        if not self.from_logits and activation not in (wanted, "softmax", "sigmoid", "hard_sigmoid"):
            raise UsageError(
                f"loss {self.name!r} takes probabilities, and the output of layer {layer} is {activation}: "
                f"give it activation={wanted!r}, or compile with loss={cls}(from_logits=True)."
            )

    def get_config(self) -> dict[str, Any]:
        """Its arguments as plain data."""
        return {}


# -- cross entropies -------------------------------------------------------------------------------------
def logits_of(y_pred: Tensor, kind: type) -> Tensor | None:
    """What a softmax or sigmoid was applied to, where the tensor is its output."""
    return y_pred.op.inputs[0] if isinstance(y_pred.op.kind, kind) else None


def _probabilities(y_pred: Tensor) -> Tensor:
    return minimum(maximum(y_pred, EPSILON), 1 - EPSILON)


class _CrossEntropy(Loss):
    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing <= 1:
            raise UsageError(f"label_smoothing={label_smoothing}: give a share from 0 to 1.")
        self.from_logits, self.label_smoothing = bool(from_logits), float(label_smoothing)

    def get_config(self) -> dict[str, Any]:
        return {"from_logits": self.from_logits, "label_smoothing": self.label_smoothing}

    def fits(self, layer: str, activation: str | None, output: Shape) -> None:
        if self.after == "softmax" and (not output or output[-1] < 2):
            raise UsageError(
                f"loss {self.name!r} takes an output for each class, and layer {layer} has "
                f"{output[-1] if output else 0}: give it a unit for each, or compile with "
                "loss='binary_crossentropy' after activation='sigmoid'."
            )
        super().fits(layer, activation, output)


class SparseCategoricalCrossentropy(_CrossEntropy):
    """-log(probability of the label), labels being class numbers [batch] or [batch, 1].

    Args:
        from_logits: whether outputs are logits instead of probabilities.
    """

    name, after = "sparse_categorical_crossentropy", "softmax"

    def __init__(self, from_logits: bool = False) -> None:
        super().__init__(from_logits)

    def get_config(self) -> dict[str, Any]:
        return {"from_logits": self.from_logits}

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        logits = y_pred if self.from_logits else logits_of(y_pred, Softmax)
        if logits is None:
            logits = log(_probabilities(y_pred))  # the loss divides by their sum
        return sparse_softmax_cross_entropy_with_logits(labels=y_true, logits=logits)

    def _compared(self, y_true: Any, y_pred: Any) -> tuple[Tensor, Tensor]:
        y_true, y_pred = cast(convert_to_tensor(y_true), "int32"), convert_to_tensor(y_pred)
        column = y_true.shape.ndims == y_pred.shape.ndims and y_true.shape.as_list()[-1] == 1
        return squeeze(y_true, [-1]) if column else y_true, y_pred

    def labels(self, y: np.ndarray, output: Shape, layer: str, what: str) -> np.ndarray:
        if y.ndim == len(output) + 1 and y.shape[-1] == 1:
            y = y[..., 0]
        if not compatible(y.shape[1:], output[:-1]):
            raise UsageError(
                f"{what} has labels of shape {y.shape[1:]}, and loss {self.name!r} takes class numbers of "
                f"shape {output[:-1]}: y.argmax(-1) makes them from rows with a single 1, or compile with "
                "loss='categorical_crossentropy'."
            )
        return class_numbers(y, output[-1], layer, what)


class CategoricalCrossentropy(_CrossEntropy):
    """-sum(labels * log(probabilities)), labels being rows of probabilities, mostly with a single 1.

    Args:
        from_logits: whether outputs are logits instead of probabilities.
        label_smoothing: this fraction of each label is spread evenly over the classes.

    Raises:
        UsageError: label_smoothing is not in 0..1.
    """

    name, after = "categorical_crossentropy", "softmax"

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.label_smoothing:
            classes = y_pred.spec.shape[-1]  # type: ignore[index]  # its rank is known
            y_true = y_true * (1 - self.label_smoothing) + self.label_smoothing / classes  # type: ignore[operator]  # known, as classes are
        logits = y_pred if self.from_logits else logits_of(y_pred, Softmax)
        if logits is not None:
            return softmax_cross_entropy_with_logits_v2(labels=y_true, logits=logits)
        p = _probabilities(y_pred / reduce_sum(y_pred, -1, keepdims=True))
        return -reduce_sum(y_true * log(p), -1)

    def _other_labels(self, y: np.ndarray, output: Shape) -> str:
        return (
            f" For class numbers compile with loss='sparse_categorical_crossentropy', or pass "
            f"to_categorical(y, {output[-1]})."
        )


class BinaryCrossentropy(_CrossEntropy):
    """The mean over an example's outputs of -log(probability of the label), labels being 0 or 1.

    Args:
        from_logits: whether outputs are logits instead of probabilities.
        label_smoothing: moves labels towards 1/2 by this fraction.

    Raises:
        UsageError: label_smoothing is not in 0..1.
    """

    name, after = "binary_crossentropy", "sigmoid"

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.label_smoothing:
            y_true = y_true * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        logits = y_pred if self.from_logits else logits_of(y_pred, Sigmoid)
        if logits is not None:
            return reduce_mean(sigmoid_cross_entropy_with_logits(labels=y_true, logits=logits), -1)
        p = _probabilities(y_pred)
        return reduce_mean(-y_true * log(p) - (1 - y_true) * log(1 - p), -1)

    def labels(self, y: np.ndarray, output: Shape, layer: str, what: str) -> np.ndarray:
        y = super().labels(y, output, layer, what)
        if y.size and not (y.min() >= 0 and y.max() <= 1):
            bad = y[~((y >= 0) & (y <= 1))].flat[0]
            raise UsageError(
                f"{what} has a label {bad:g}, and loss {self.name!r} takes labels from 0 to 1: for classes "
                "0, 1, 2, ... give the last layer a unit for each and compile with "
                "loss='sparse_categorical_crossentropy'."
            )
        return y

    def _other_labels(self, y: np.ndarray, output: Shape) -> str:
        return (
            " For class numbers compile with loss='sparse_categorical_crossentropy'." if y.ndim == 1 else ""
        )


def class_numbers(y: np.ndarray, classes: int, layer: str, what: str) -> np.ndarray:
    """Labels as int32; raises UsageError for one that is no class of the layer's output."""
    with np.errstate(invalid="ignore"):
        numbers = y.astype(np.int32)
        wrong = (numbers < 0) | (numbers >= classes) | (numbers != y)
    if wrong.any():
        at = np.argwhere(wrong)[0]
        raise UsageError(
            f"{what}[{', '.join(map(str, at))}] is {y[tuple(at)]}, and layer {layer} has outputs for the "
            f"classes 0 to {classes - 1}: correct y, or give the layer a unit for each class."
        )
    return numbers


# -- distances -------------------------------------------------------------------------------------------
class MeanSquaredError(Loss):
    """The mean of (prediction - label)^2 over an example's outputs."""

    name = "mean_squared_error"

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return reduce_mean(square(y_pred - y_true), -1)


class MeanAbsoluteError(Loss):
    """The mean of |prediction - label| over an example's outputs."""

    name = "mean_absolute_error"

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return reduce_mean(math.abs(y_pred - y_true), -1)


class Huber(Loss):
    """Half the squared error up to an error of delta, linear above it (Huber 1964); mean over outputs.

    Args:
        delta: a number > 0.

    Raises:
        UsageError: delta is not positive.
    """

    name = "huber"

    def __init__(self, delta: float = 1.0) -> None:
        if not delta > 0:
            raise UsageError(f"Huber: delta={delta}: give a number above 0.")
        self.delta = float(delta)

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        error = math.abs(y_pred - y_true)
        near = minimum(error, self.delta)
        return reduce_mean(0.5 * square(near) + self.delta * (error - near), -1)

    def get_config(self) -> dict[str, Any]:
        return {"delta": self.delta}


class KLDivergence(Loss):
    """sum(labels * log(labels / predictions)) over an example's outputs, both cut off at 1e-7 and 1."""

    name = "kl_divergence"

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        p, q = (minimum(maximum(y, EPSILON), 1) for y in (y_true, y_pred))
        return reduce_sum(p * log(p / q), -1)


class MeanAbsolutePercentageError(Loss):
    """100 times the mean of |prediction - label| / |label| over an example's outputs."""

    name = "mean_absolute_percentage_error"

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return 100 * reduce_mean(math.abs((y_true - y_pred) / maximum(math.abs(y_true), EPSILON)), -1)


class MeanSquaredLogarithmicError(Loss):
    """The mean of (log(1 + prediction) - log(1 + label))^2 over an example's outputs, cut off at 0."""

    name = "mean_squared_logarithmic_error"

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        a, b = (log(maximum(y, EPSILON) + 1) for y in (y_true, y_pred))
        return reduce_mean(square(b - a), -1)


def _signs(y_true: Tensor) -> Tensor:
    """Labels of -1 and 1, of which 0 stands for -1 where all are 0 or 1."""
    binary = reduce_all(math.equal(y_true * (y_true - 1), 0.0))
    return where(binary, 2 * y_true - 1, y_true)


class Hinge(Loss):
    """The mean of max(1 - label * prediction, 0) over an example's outputs; labels are -1 or 1, or 0 or 1."""

    name = "hinge"

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return reduce_mean(maximum(1 - _signs(y_true) * y_pred, 0.0), -1)


class SquaredHinge(Loss):
    """The mean of max(1 - label * prediction, 0)^2 over an example's outputs; labels as for hinge."""

    name = "squared_hinge"

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return reduce_mean(square(maximum(1 - _signs(y_true) * y_pred, 0.0)), -1)


class CategoricalHinge(Loss):
    """max(1 + largest output of another class - output of the label's class, 0); labels are one-hot."""

    name = "categorical_hinge"

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        right = reduce_sum(y_true * y_pred, -1)
        wrong = reduce_max((1 - y_true) * y_pred, -1)
        return maximum(wrong - right + 1, 0.0)


class LogCosh(Loss):
    """The mean of log(cosh(prediction - label)) over an example's outputs."""

    name = "log_cosh"

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        error = y_pred - y_true
        return reduce_mean(error + softplus(-2.0 * error) - 0.6931471805599453, -1)


class Poisson(Loss):
    """The mean of prediction - label * log(prediction) over an example's outputs."""

    name = "poisson"

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return reduce_mean(y_pred - y_true * log(y_pred + EPSILON), -1)


class CosineSimilarity(Loss):
    """Minus the cosine of the angle between labels and outputs."""

    name = "cosine_similarity"

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        a, b = (
            y * math.rsqrt(maximum(reduce_sum(square(y), -1, keepdims=True), 1e-12)) for y in (y_true, y_pred)
        )
        return -reduce_sum(a * b, -1)


class FunctionLoss(Loss):
    """A user's function of (y_true, y_pred): a loss for each example, or a mean over all of them."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)  # type: ignore[misc]  # an instance's own name

    def each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return convert_to_tensor(self.function(y_true, y_pred))

    def labels(self, y: np.ndarray, output: Shape, layer: str, what: str) -> np.ndarray:
        y = y[..., None] if y.ndim == len(output) and output[-1:] == (1,) else y
        return y.astype(np.float32, copy=False)


def per_example(losses: Tensor, axes: int | None = 1) -> Tensor:
    """The mean over all axes but the first one or, with axes=2, the first two: of steps."""
    ndim, kept = losses.shape.ndims or 1, axes or 1
    return reduce_mean(losses, list(range(kept, ndim))) if ndim > kept else losses


# -- Keras's names ---------------------------------------------------------------------------------------
def _function(loss: Loss) -> Callable[[Any, Any], Tensor]:
    def function(y_true: Any, y_pred: Any) -> Tensor:
        return loss.each(*loss._compared(y_true, y_pred))

    function.__name__ = function.__qualname__ = loss.name
    function.__doc__ = (
        f"{(loss.__doc__ or '').split(chr(10))[0]}\n\n"
        f"The loss of each example; dt.keras.losses.{type(loss).__name__} is the mean over examples.\n\n"
        "Args:\n    y_true: the labels.\n    y_pred: the outputs [batch, ...].\n\n"
        "Returns:\n    Tensor: [batch], or [batch, ...] where outputs have more axes.\n"
    )
    function.loss = loss  # type: ignore[attr-defined]  # a function has attributes
    return function


sparse_categorical_crossentropy = _function(SparseCategoricalCrossentropy())
categorical_crossentropy = _function(CategoricalCrossentropy())
binary_crossentropy = _function(BinaryCrossentropy())
mse = mean_squared_error = _function(MeanSquaredError())
mae = mean_absolute_error = _function(MeanAbsoluteError())
huber = _function(Huber())
kl_divergence = kld = kullback_leibler_divergence = _function(KLDivergence())

mape = mean_absolute_percentage_error = _function(MeanAbsolutePercentageError())
msle = mean_squared_logarithmic_error = _function(MeanSquaredLogarithmicError())
hinge, squared_hinge, categorical_hinge = (_function(c()) for c in (Hinge, SquaredHinge, CategoricalHinge))
log_cosh = logcosh = _function(LogCosh())
poisson = _function(Poisson())
cosine_similarity = cosine = cosine_proximity = _function(CosineSimilarity())

#: Those with a name of their own, in the order of this file.
CLASSES: dict[str, type[Loss]] = {
    name: cls
    for name, cls in list(globals().items())
    if isinstance(cls, type) and issubclass(cls, Loss) and cls.name
}
_NAMES = Names(
    "loss",
    {cls.name: cls for cls in CLASSES.values()}
    | {
        "mse": MeanSquaredError,
        "MSE": MeanSquaredError,
        "mae": MeanAbsoluteError,
        "MAE": MeanAbsoluteError,
        "huber_loss": Huber,
        "kld": KLDivergence,
        "KLD": KLDivergence,
        "kullback_leibler_divergence": KLDivergence,
        "mape": MeanAbsolutePercentageError,
        "MAPE": MeanAbsolutePercentageError,
        "msle": MeanSquaredLogarithmicError,
        "MSLE": MeanSquaredLogarithmicError,
        "logcosh": LogCosh,
        "cosine": CosineSimilarity,
        "cosine_proximity": CosineSimilarity,
    }
    | CLASSES,
)


def get(identifier: Any) -> Any:
    """The loss of a name.

    Args:
        identifier: a name such as "mse", a function (y_true, y_pred), or a Loss, which is returned itself.

    Returns:
        Loss: the loss.

    Raises:
        UsageError: there is no loss of this name.
    """
    found = _NAMES.get(identifier)
    if found is None or isinstance(found, Loss):
        return found
    return getattr(found, "loss", None) or FunctionLoss(found)


deserialize, serialize = get, as_data
MSE, MAE, MAPE, MSLE, KLD = mse, mae, mape, msle, kld
