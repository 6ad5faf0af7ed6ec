"""dt.losses: losses that are one number, weighted, averaged, and kept in the collection GraphKeys.LOSSES.

As in TensorFlow 1, `weights` is a number or a tensor that broadcasts to the losses of the examples, and an
average is by default over the losses whose weight is not 0. Counts are those of the global batch.
"""

from __future__ import annotations

from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.graph import Tensor, TensorLike, get_default_graph
from dtrain.graph.shape import Dims, shape_text
from dtrain.names import module_getattr
from dtrain.ops.array import ones_like, reshape, squeeze, zeros_like
from dtrain.ops.base import convert_to_tensor, same_shape
from dtrain.ops.loss import (
    sigmoid_cross_entropy_with_logits,
    softmax_cross_entropy_with_logits,
    sparse_softmax_cross_entropy_with_logits,
)
from dtrain.ops.math import abs, cast, log, maximum, minimum, multiply, not_equal, square
from dtrain.ops.nn import relu
from dtrain.ops.reduce import reduce_mean, reduce_sum

__all__ = [
    "Reduction",
    "absolute_difference",
    "add_loss",
    "compute_weighted_loss",
    "cosine_distance",
    "get_losses",
    "get_regularization_loss",
    "get_regularization_losses",
    "get_total_loss",
    "hinge_loss",
    "huber_loss",
    "log_loss",
    "mean_pairwise_squared_error",
    "mean_squared_error",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "sparse_softmax_cross_entropy",
]

__getattr__ = module_getattr("tf.losses")


class Reduction:
    """How the weighted losses become one number, if they do."""

    NONE = "none"
    SUM = "weighted_sum"
    MEAN = "weighted_mean"
    SUM_OVER_BATCH_SIZE = "weighted_sum_over_batch_size"
    SUM_BY_NONZERO_WEIGHTS = "weighted_sum_by_nonzero_weights"
    SUM_OVER_NONZERO_WEIGHTS = SUM_BY_NONZERO_WEIGHTS


def compute_weighted_loss(
    losses: Any,
    weights: Any = 1.0,
    scope: str | None = None,
    loss_collection: str | None = GraphKeys.LOSSES,
    reduction: str = Reduction.SUM_BY_NONZERO_WEIGHTS,
) -> Tensor:
    """losses * weights, reduced: by default their sum over the number of weights that are not 0.

    weights: a number, or a tensor of the losses' rank with their sizes or 1.

    Raises:
        GraphError: weights do not broadcast to the losses, or the reduction has another name.
    """
    losses = convert_to_tensor(losses)
    weights = convert_to_tensor(weights) if isinstance(weights, TensorLike) else weights
    weights = cast(weights, losses.dtype)
    own, full = weights.spec.shape, losses.spec.shape
    if own and full is not None and not _fits(own, full):
        raise GraphError(
            f"weights {shape_text(own)} do not weigh losses {shape_text(full)}: give a number, or the "
            "same rank with these sizes or 1"
        )
    weighted = losses * weights
    if reduction == Reduction.NONE:
        loss = weighted
    elif reduction == Reduction.SUM:
        loss = reduce_sum(weighted)
    elif reduction == Reduction.SUM_OVER_BATCH_SIZE:
        loss = reduce_mean(weighted)
    elif reduction in (Reduction.MEAN, Reduction.SUM_BY_NONZERO_WEIGHTS):
        counted = weights
        if reduction == Reduction.SUM_BY_NONZERO_WEIGHTS:
            counted = cast(not_equal(weights, 0), losses.dtype)
        loss = _over(reduce_sum(weighted), reduce_sum(counted + zeros_like(losses)))
    else:
        raise GraphError(f"reduction {reduction!r}: dt.losses.Reduction has the names that there are")
    loss = multiply(loss, 1, name=scope or "weighted_loss")
    if loss_collection is not None:
        get_default_graph().add_to_collection(loss_collection, loss)
    return loss


def _fits(weights: Dims, losses: Dims) -> bool:
    """Whether weights repeat to the shape of losses, axis by axis."""
    assert weights is not None and losses is not None
    pairs = zip(weights, losses, strict=False)
    return len(weights) == len(losses) and all(w in (1, None, d) or d is None for w, d in pairs)


def _over(total: Tensor, count: Tensor) -> Tensor:
    """total / count, or 0 where nothing counts."""
    some = cast(not_equal(count, 0), total.dtype)
    return total * some / (count + (1 - some))


def _pair(labels: Any, predictions: Any, what: str) -> tuple[Tensor, Tensor]:
    """Both as floats of one shape: (labels, predictions)."""
    predictions = convert_to_tensor(predictions)
    if not predictions.dtype.is_floating:
        predictions = cast(predictions, "float32")
    labels = cast(convert_to_tensor(labels), predictions.dtype)
    same_shape(labels.spec, predictions.spec, f"{what}: labels and predictions")
    return labels, predictions


def absolute_difference(
    labels: Any,
    predictions: Any,
    weights: Any = 1.0,
    scope: str | None = None,
    loss_collection: str | None = GraphKeys.LOSSES,
    reduction: str = Reduction.SUM_BY_NONZERO_WEIGHTS,
) -> Tensor:
    """|predictions - labels|, weighted and reduced."""
    labels, predictions = _pair(labels, predictions, "absolute_difference")
    losses = abs(predictions - labels)
    return compute_weighted_loss(losses, weights, scope or "absolute_difference", loss_collection, reduction)


def mean_squared_error(
    labels: Any,
    predictions: Any,
    weights: Any = 1.0,
    scope: str | None = None,
    loss_collection: str | None = GraphKeys.LOSSES,
    reduction: str = Reduction.SUM_BY_NONZERO_WEIGHTS,
) -> Tensor:
    """(predictions - labels) squared, weighted and reduced."""
    labels, predictions = _pair(labels, predictions, "mean_squared_error")
    losses = square(predictions - labels)
    return compute_weighted_loss(losses, weights, scope or "mean_squared_error", loss_collection, reduction)


def huber_loss(
    labels: Any,
    predictions: Any,
    weights: Any = 1.0,
    delta: float = 1.0,
    scope: str | None = None,
    loss_collection: str | None = GraphKeys.LOSSES,
    reduction: str = Reduction.SUM_BY_NONZERO_WEIGHTS,
) -> Tensor:
    """Half the squared error up to an error of delta, and from there on linear; weighted and reduced."""
    labels, predictions = _pair(labels, predictions, "huber_loss")
    error = abs(predictions - labels)
    near = minimum(error, delta)
    losses = 0.5 * square(near) + delta * (error - near)
    return compute_weighted_loss(losses, weights, scope or "huber_loss", loss_collection, reduction)


def mean_pairwise_squared_error(
    labels: Any,
    predictions: Any,
    weights: Any = 1.0,
    scope: str | None = None,
    loss_collection: str | None = GraphKeys.LOSSES,
) -> Tensor:
    """The mean squared error of the differences of an example's pairs of entries; added up over examples.

    weights: a number, or one for each example.
    """
    labels, predictions = _pair(labels, predictions, "mean_pairwise_squared_error")
    axes = list(range(1, len(predictions.shape)))
    error = predictions - labels
    count = reduce_sum(ones_like(error), axes)
    squares, total = reduce_sum(square(error), axes), reduce_sum(error, axes)
    pairs = 2.0 * (squares * count - square(total)) / maximum(count * (count - 1.0), 1.0)
    given = convert_to_tensor(weights, None if isinstance(weights, TensorLike) else "float32")
    given = reshape(given, [-1]) * ones_like(pairs)
    loss = reduce_sum(pairs * given, name=scope or "mean_pairwise_squared_error")
    if loss_collection is not None:
        get_default_graph().add_to_collection(loss_collection, loss)
    return loss


def hinge_loss(
    labels: Any,
    logits: Any,
    weights: Any = 1.0,
    scope: str | None = None,
    loss_collection: str | None = GraphKeys.LOSSES,
    reduction: str = Reduction.SUM_BY_NONZERO_WEIGHTS,
) -> Tensor:
    """max(0, 1 - logits) where a label is 1, max(0, 1 + logits) where it is 0; weighted and reduced."""
    labels, logits = _pair(labels, logits, "hinge_loss")
    losses = relu(1 - (2 * labels - 1) * logits)
    return compute_weighted_loss(losses, weights, scope or "hinge_loss", loss_collection, reduction)


def cosine_distance(
    labels: Any,
    predictions: Any,
    axis: int | None = None,
    weights: Any = 1.0,
    scope: str | None = None,
    loss_collection: str | None = GraphKeys.LOSSES,
    reduction: str = Reduction.SUM_BY_NONZERO_WEIGHTS,
    dim: int | None = None,
) -> Tensor:
    """1 - the product of labels and predictions along an axis; both are taken to have the length 1 there.

    Raises:
        GraphError: there is no axis; `dim` is its older name.
    """
    along = dim if axis is None else axis
    if along is None:
        raise GraphError("cosine_distance: give the axis along which vectors lie.")
    labels, predictions = _pair(labels, predictions, "cosine_distance")
    losses = 1 - reduce_sum(labels * predictions, along, keepdims=True)
    return compute_weighted_loss(losses, weights, scope or "cosine_distance_loss", loss_collection, reduction)


def log_loss(
    labels: Any,
    predictions: Any,
    weights: Any = 1.0,
    epsilon: float = 1e-7,
    scope: str | None = None,
    loss_collection: str | None = GraphKeys.LOSSES,
    reduction: str = Reduction.SUM_BY_NONZERO_WEIGHTS,
) -> Tensor:
    """Cross entropy of predicted probabilities, entry by entry, epsilon keeping the logarithm finite."""
    labels, predictions = _pair(labels, predictions, "log_loss")
    losses = -labels * log(predictions + epsilon) - (1 - labels) * log(1 - predictions + epsilon)
    return compute_weighted_loss(losses, weights, scope or "log_loss", loss_collection, reduction)


def sigmoid_cross_entropy(
    multi_class_labels: Any,
    logits: Any,
    weights: Any = 1.0,
    label_smoothing: float = 0,
    scope: str | None = None,
    loss_collection: str | None = GraphKeys.LOSSES,
    reduction: str = Reduction.SUM_BY_NONZERO_WEIGHTS,
) -> Tensor:
    """Cross entropy of each class by itself; label_smoothing moves labels towards 1/2 by that share."""
    labels, logits = _pair(multi_class_labels, logits, "sigmoid_cross_entropy")
    if label_smoothing:
        labels = labels * (1 - label_smoothing) + 0.5 * label_smoothing
    losses = sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
    scope = scope or "sigmoid_cross_entropy_loss"
    return compute_weighted_loss(losses, weights, scope, loss_collection, reduction)


def softmax_cross_entropy(
    onehot_labels: Any,
    logits: Any,
    weights: Any = 1.0,
    label_smoothing: float = 0,
    scope: str | None = None,
    loss_collection: str | None = GraphKeys.LOSSES,
    reduction: str = Reduction.SUM_BY_NONZERO_WEIGHTS,
) -> Tensor:
    """Cross entropy of each example; label_smoothing spreads that share of a label over all classes."""
    labels, logits = _pair(onehot_labels, logits, "softmax_cross_entropy")
    if label_smoothing:
        classes = logits.shape.as_list()[-1]
        if classes is None:
            raise GraphError("softmax_cross_entropy: label_smoothing needs to know the number of classes")
        labels = labels * (1 - label_smoothing) + label_smoothing / classes
    losses = softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    scope = scope or "softmax_cross_entropy_loss"
    return compute_weighted_loss(losses, weights, scope, loss_collection, reduction)


def sparse_softmax_cross_entropy(
    labels: Any,
    logits: Any,
    weights: Any = 1.0,
    scope: str | None = None,
    loss_collection: str | None = GraphKeys.LOSSES,
    reduction: str = Reduction.SUM_BY_NONZERO_WEIGHTS,
) -> Tensor:
    """Cross entropy of each example, labels being class numbers [...] or [..., 1], as weights may be too."""
    labels, logits = convert_to_tensor(labels), convert_to_tensor(logits)
    if labels.shape.ndims is not None and labels.shape.ndims == logits.shape.ndims:
        sizes = [-1 if d is None else d for d in labels.shape.as_list()[:-1]]
        labels = reshape(labels, sizes)
    weights = convert_to_tensor(weights)
    if weights.shape.ndims == (labels.shape.ndims or 0) + 1 and weights.shape.as_list()[-1] == 1:
        weights = squeeze(weights, [-1])
    losses = sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    scope = scope or "sparse_softmax_cross_entropy_loss"
    return compute_weighted_loss(losses, weights, scope, loss_collection, reduction)


# -- the collection --------------------------------------------------------------------------------------
def add_loss(loss: Tensor, loss_collection: str | None = GraphKeys.LOSSES) -> None:
    """Keep a loss in the collection that get_total_loss adds up."""
    if loss_collection is not None:
        get_default_graph().add_to_collection(loss_collection, loss)


def get_losses(scope: str | None = None, loss_collection: str = GraphKeys.LOSSES) -> list[Tensor]:
    """The losses made so far, of those whose name `scope` matches."""
    return get_default_graph().get_collection(loss_collection, scope)


def get_regularization_losses(scope: str | None = None) -> list[Tensor]:
    """What the regularizers of variables add to the loss."""
    return get_default_graph().get_collection(GraphKeys.REGULARIZATION_LOSSES, scope)


def get_regularization_loss(
    scope: str | None = None, name: str | None = "total_regularization_loss"
) -> Tensor:
    """The sum of get_regularization_losses, 0 where there are none."""
    return _sum(get_regularization_losses(scope), name)


def get_total_loss(
    add_regularization_losses: bool = True, name: str = "total_loss", scope: str | None = None
) -> Tensor:
    """The sum of all losses, and of the regularization losses."""
    regularization = get_regularization_losses(scope) if add_regularization_losses else []
    return _sum(get_losses(scope) + regularization, name)


def _sum(losses: list[Tensor], name: str | None) -> Tensor:
    total: Any = convert_to_tensor(0.0) if not losses else losses[0]
    for loss in losses[1:]:
        total = total + loss
    return multiply(total, 1, name=name)
