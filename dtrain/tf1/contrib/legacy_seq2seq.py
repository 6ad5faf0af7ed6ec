"""tf.contrib.legacy_seq2seq: losses of lists of steps, and the plain decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Tensor, get_default_graph
from dtrain.names import module_getattr
from dtrain.ops.array import reshape
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.late import shape
from dtrain.ops.loss import sparse_softmax_cross_entropy_with_logits
from dtrain.ops.math import add_n, cast
from dtrain.ops.reduce import reduce_sum
from dtrain.ops.scopes import get_variable_scope, variable_scope
from dtrain.tf1.contrib.seq2seq import TINY

__getattr__ = module_getattr("tf.contrib.legacy_seq2seq")


def sequence_loss_by_example(
    logits: Sequence[Any],
    targets: Sequence[Any],
    weights: Sequence[Any],
    average_across_timesteps: bool = True,
    softmax_loss_function: Callable[..., Any] | None = None,
    name: str | None = None,
) -> Tensor:
    """The weighted cross entropy of each example [batch], over lists of steps.

    Args:
        logits: a list of [batch, classes]. targets: of [batch], integers. weights: of [batch].
        average_across_timesteps: whether to divide by the sum of the example's weights.
        softmax_loss_function: what to take instead of the softmax cross entropy, called with labels, logits.
    """
    if not len(logits) == len(targets) == len(weights):
        raise GraphError(
            f"sequence_loss_by_example: {len(logits)} logits, {len(targets)} targets and {len(weights)} "
            "weights are not as many."
        )
    loss = softmax_loss_function or sparse_softmax_cross_entropy_with_logits
    with get_default_graph().name_scope(name or "sequence_loss_by_example"):
        factors = [convert_to_tensor(weight) for weight in weights]
        costs = [
            loss(labels=reshape(target, [-1]), logits=logit) * weight
            for logit, target, weight in zip(logits, targets, factors, strict=True)
        ]
        total = add_n(costs)
        return total / (add_n(factors) + TINY) if average_across_timesteps else total


def sequence_loss(
    logits: Sequence[Any],
    targets: Sequence[Any],
    weights: Sequence[Any],
    average_across_timesteps: bool = True,
    average_across_batch: bool = True,
    softmax_loss_function: Callable[..., Any] | None = None,
    name: str | None = None,
) -> Tensor:
    """The sum of sequence_loss_by_example, or its mean."""
    with get_default_graph().name_scope(name or "sequence_loss"):
        each = sequence_loss_by_example(
            logits, targets, weights, average_across_timesteps, softmax_loss_function
        )
        total = reduce_sum(each)
        return total / cast(shape(targets[0])[0], total.dtype) if average_across_batch else total


def rnn_decoder(
    decoder_inputs: Sequence[Any],
    initial_state: Any,
    cell: Any,
    loop_function: Callable[[Any, int], Any] | None = None,
    scope: Any = None,
) -> tuple[list[Any], Any]:
    """A cell's outputs for a list of inputs, and its last state.

    loop_function: of an output and the number of the next step gives its input, in place of the list's.
    """
    with variable_scope(scope or "rnn_decoder"):
        state, outputs = initial_state, list[Any]()
        for i, x in enumerate(decoder_inputs):
            if loop_function is not None and outputs:
                with variable_scope("loop_function", reuse=True):
                    x = loop_function(outputs[-1], i)
            if i:
                get_variable_scope().reuse_variables()
            output, state = cell(x, state)
            outputs.append(output)
    return outputs, state


__all__ = ["rnn_decoder", "sequence_loss", "sequence_loss_by_example"]
