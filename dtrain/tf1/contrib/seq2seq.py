"""tf.contrib.seq2seq: the loss of sequences. There are no decoders and attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Tensor, get_default_graph
from dtrain.names import module_getattr
from dtrain.ops.array import reshape
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.late import shape
from dtrain.ops.loss import sparse_softmax_cross_entropy_with_logits
from dtrain.ops.reduce import reduce_sum

__getattr__ = module_getattr("tf.contrib.seq2seq")

#: Added to a sum of weights that is divided by, as TensorFlow does.
TINY = 1e-12


def sequence_loss(
    logits: Any,
    targets: Any,
    weights: Any,
    average_across_timesteps: bool = True,
    average_across_batch: bool = True,
    softmax_loss_function: Callable[..., Any] | None = None,
    name: str | None = None,
) -> Tensor:
    """The weighted cross entropy of sequences.

    Args:
        logits: [batch, time, classes]. targets: [batch, time], integers. weights: [batch, time].
        average_across_timesteps, average_across_batch: whether to divide by the sums of the weights; with
            both the result is a scalar, with one it has the other axis, with none both.
        softmax_loss_function: what to take instead of the softmax cross entropy, called with labels, logits.
    """
    logits, targets, weights = (
        convert_to_tensor(logits),
        convert_to_tensor(targets),
        convert_to_tensor(weights),
    )
    for tensor, rank, what in ((logits, 3, "logits"), (targets, 2, "targets"), (weights, 2, "weights")):
        if tensor.spec.shape is not None and len(tensor.spec.shape) != rank:
            raise GraphError(f"sequence_loss: {what} is {tensor!r}, which is not of rank {rank}.")
    loss = softmax_loss_function or sparse_softmax_cross_entropy_with_logits
    with get_default_graph().name_scope(name or "sequence_loss"):
        flat = loss(labels=reshape(targets, [-1]), logits=reshape(logits, [-1, shape(logits)[2]]))
        costs = flat * reshape(weights, [-1])
        if average_across_timesteps and average_across_batch:
            return reduce_sum(costs) / (reduce_sum(weights) + TINY)
        costs = reshape(costs, shape(targets))
        if average_across_timesteps:
            return reduce_sum(costs, 1) / (reduce_sum(weights, 1) + TINY)
        if average_across_batch:
            return reduce_sum(costs, 0) / (reduce_sum(weights, 0) + TINY)
        return costs


__all__ = ["sequence_loss"]
