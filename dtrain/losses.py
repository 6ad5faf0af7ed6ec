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
    """How weighted losses become one number: names for the argument reduction of dt.losses."""

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
    """losses * weights, reduced.

    Args:
        losses: a tensor of losses.
        weights: a number, or a tensor that broadcasts to the losses: their rank, and their sizes or 1.
        scope: name scope of the operations.
        loss_collection: graph collection that the loss joins; None for none.
        reduction: one of dt.losses.Reduction; by default the sum divided by the number of weights that are
            not 0.

    Returns:
        Tensor: a scalar (with Reduction.NONE of the shape of losses).

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
    """|predictions - labels|, weighted and reduced.

    Args:
        labels: a tensor or array.
        predictions: a floating tensor of its shape.
        weights: a number, or a tensor that broadcasts to the losses: their rank, and their sizes or 1.
        scope: name scope of the operations.
        loss_collection: graph collection that the loss joins; None for none.
        reduction: one of dt.losses.Reduction; by default the sum divided by the number of weights that are
            not 0.

    Returns:
        Tensor: a scalar (with Reduction.NONE of the shape of predictions).

    Raises:
        GraphError: the shapes differ, or weights do not broadcast.
    """
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
    """(predictions - labels)², weighted and reduced.

    Args:
        labels: a tensor or array.
        predictions: a floating tensor of its shape.
        weights: a number, or a tensor that broadcasts to the losses: their rank, and their sizes or 1.
        scope: name scope of the operations.
        loss_collection: graph collection that the loss joins; None for none.
        reduction: one of dt.losses.Reduction; by default the sum divided by the number of weights that are
            not 0.

    Returns:
        Tensor: a scalar (with Reduction.NONE of the shape of predictions).

    Raises:
        GraphError: the shapes differ, or weights do not broadcast.

    Example:
        >>> print(dt.Session().run(dt.losses.mean_squared_error([1.0, 2.0], [1.0, 4.0])))
        2.0
    """
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
    """Half the squared error up to an error of delta, linear above it (Huber 1964); weighted and reduced.

    Args:
        labels: a tensor or array.
        predictions: a floating tensor of its shape.
        delta: where the loss becomes linear.
        weights: a number, or a tensor that broadcasts to the losses: their rank, and their sizes or 1.
        scope: name scope of the operations.
        loss_collection: graph collection that the loss joins; None for none.
        reduction: one of dt.losses.Reduction; by default the sum divided by the number of weights that are
            not 0.

    Returns:
        Tensor: a scalar (with Reduction.NONE of the shape of predictions).

    Raises:
        GraphError: the shapes differ, or weights do not broadcast.
    """
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

    Args:
        labels: a tensor [batch, ...].
        predictions: a tensor of the same shape.
        weights: a number, or one for each example.
        scope: name of the operation.
        loss_collection: a collection that the loss is added to; None for none.

    Returns:
        Tensor: a scalar.
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
    """max(0, 1 - logits) where a label is 1, max(0, 1 + logits) where it is 0; weighted and reduced.

    Args:
        labels: 0 or 1, of the shape of logits.
        logits: a floating tensor.
        weights: a number, or a tensor that broadcasts to the losses: their rank, and their sizes or 1.
        scope: name scope of the operations.
        loss_collection: graph collection that the loss joins; None for none.
        reduction: one of dt.losses.Reduction; by default the sum divided by the number of weights that are
            not 0.

    Returns:
        Tensor: a scalar (with Reduction.NONE of the shape of logits).

    Raises:
        GraphError: the shapes differ, or weights do not broadcast.
    """
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
    """1 - the sum of labels * predictions along an axis, weighted and reduced; both must have norm 1 there.

    Args:
        labels: a tensor or array.
        predictions: a floating tensor of its shape.
        axis: the axis.
        dim: the older name of axis.
        weights: a number, or a tensor that broadcasts to the losses: their rank, and their sizes or 1.
        scope: name scope of the operations.
        loss_collection: graph collection that the loss joins; None for none.
        reduction: one of dt.losses.Reduction; by default the sum divided by the number of weights that are
            not 0.

    Returns:
        Tensor: a scalar (with Reduction.NONE one loss for each row).

    Raises:
        GraphError: the axis is missing, the shapes differ, or weights do not broadcast.
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
    """Cross entropy of predicted probabilities, entry by entry; weighted and reduced.

    Args:
        labels: a tensor or array of 0 to 1.
        predictions: probabilities, a floating tensor of its shape.
        epsilon: added inside the logarithms to keep them finite.
        weights: a number, or a tensor that broadcasts to the losses: their rank, and their sizes or 1.
        scope: name scope of the operations.
        loss_collection: graph collection that the loss joins; None for none.
        reduction: one of dt.losses.Reduction; by default the sum divided by the number of weights that are
            not 0.

    Returns:
        Tensor: a scalar (with Reduction.NONE of the shape of predictions).

    Raises:
        GraphError: the shapes differ, or weights do not broadcast.
    """
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
    """Sigmoid cross entropy of each entry, for classes that do not exclude one another; weighted and reduced.

    Args:
        multi_class_labels: probabilities, of the shape of logits.
        logits: a floating tensor [n, classes].
        label_smoothing: moves labels towards 1/2 by this fraction.
        weights: a number, or a tensor that broadcasts to the losses: their rank, and their sizes or 1.
        scope: name scope of the operations.
        loss_collection: graph collection that the loss joins; None for none.
        reduction: one of dt.losses.Reduction; by default the sum divided by the number of weights that are
            not 0.

    Returns:
        Tensor: a scalar (with Reduction.NONE of the shape of logits).

    Raises:
        GraphError: the shapes differ, or weights do not broadcast.
    """
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
    """Softmax cross entropy of each example; weighted and reduced.

    Args:
        onehot_labels: probabilities, of the shape of logits.
        logits: a floating tensor [n, classes].
        label_smoothing: spreads this fraction of a label over all classes.
        weights: a number, or a tensor that broadcasts to the losses: their rank, and their sizes or 1.
        scope: name scope of the operations.
        loss_collection: graph collection that the loss joins; None for none.
        reduction: one of dt.losses.Reduction; by default the sum divided by the number of weights that are
            not 0.

    Returns:
        Tensor: a scalar (with Reduction.NONE of shape [n]).

    Raises:
        GraphError: the shapes differ, or weights do not broadcast.
    """
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
    """Softmax cross entropy of each example, labels being class numbers; weighted and reduced.

    Args:
        labels: integers [...] or [..., 1]; weights may have either shape too.
        logits: a floating tensor [..., classes].
        weights: a number, or a tensor that broadcasts to the losses: their rank, and their sizes or 1.
        scope: name scope of the operations.
        loss_collection: graph collection that the loss joins; None for none.
        reduction: one of dt.losses.Reduction; by default the sum divided by the number of weights that are
            not 0.

    Returns:
        Tensor: a scalar (with Reduction.NONE of shape [...]).

    Raises:
        GraphError: the shapes do not fit, or weights do not broadcast.
        InvalidArgumentError: while running, for a label that is no class.
    """
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
    """Add a loss to the collection that get_total_loss sums up.

    Args:
        loss: a scalar tensor.
        loss_collection: name of the collection; None adds it nowhere.
    """
    if loss_collection is not None:
        get_default_graph().add_to_collection(loss_collection, loss)


def get_losses(scope: str | None = None, loss_collection: str = GraphKeys.LOSSES) -> list[Tensor]:
    """The losses in a collection, a list of tensors.

    Args:
        scope: only those whose name starts with a match of this regular expression.
        loss_collection: name of the collection.

    Returns:
        list: scalar tensors.
    """
    return get_default_graph().get_collection(loss_collection, scope)


def get_regularization_losses(scope: str | None = None) -> list[Tensor]:
    """The losses that regularizers of variables made, a list of tensors.

    Args:
        scope: only those whose name starts with a match of this regular expression.

    Returns:
        list: scalar tensors.
    """
    return get_default_graph().get_collection(GraphKeys.REGULARIZATION_LOSSES, scope)


def get_regularization_loss(
    scope: str | None = None, name: str | None = "total_regularization_loss"
) -> Tensor:
    """The sum of get_regularization_losses, a scalar; 0 if there are none.

    Args:
        scope: only those whose name starts with a match of this regular expression.
        name: name of the operation.

    Returns:
        Tensor: a scalar.
    """
    return _sum(get_regularization_losses(scope), name)


def get_total_loss(
    add_regularization_losses: bool = True, name: str = "total_loss", scope: str | None = None
) -> Tensor:
    """The sum of all losses, a scalar.

    Args:
        add_regularization_losses: whether those of regularizers are included.
        scope: only losses whose name starts with a match of this regular expression.
        name: name of the operation.

    Returns:
        Tensor: a scalar.
    """
    regularization = get_regularization_losses(scope) if add_regularization_losses else []
    return _sum(get_losses(scope) + regularization, name)


def _sum(losses: list[Tensor], name: str | None) -> Tensor:
    total: Any = convert_to_tensor(0.0) if not losses else losses[0]
    for loss in losses[1:]:
        total = total + loss
    return multiply(total, 1, name=name)
