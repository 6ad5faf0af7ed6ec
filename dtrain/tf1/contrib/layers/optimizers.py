"""optimize_loss: an optimizer by name, with clipping, decay and summaries, as one operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.graph import Tensor, TensorLike, control_dependencies, get_collection
from dtrain.ops.array import identity
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.clip import clip_by_global_norm, global_norm
from dtrain.ops.initializers import Constant
from dtrain.ops.math import multiply
from dtrain.ops.scopes import get_variable, variable_scope
from dtrain.ops.state import Variable, trainable_variables
from dtrain.ops.summary import histogram, scalar
from dtrain.train.optimizers import (
    AdagradOptimizer,
    AdamOptimizer,
    GradientDescentOptimizer,
    MomentumOptimizer,
    Optimizer,
    RMSPropOptimizer,
)
from dtrain.train.step_counter import get_global_step

__all__ = ["OPTIMIZER_CLS_NAMES", "OPTIMIZER_SUMMARIES", "optimize_loss"]

OPTIMIZER_CLS_NAMES: dict[str, Callable[..., Optimizer]] = {
    "Adagrad": AdagradOptimizer,
    "Adam": AdamOptimizer,
    "Momentum": lambda learning_rate: MomentumOptimizer(learning_rate, momentum=0.9),
    "RMSProp": RMSPropOptimizer,
    "SGD": GradientDescentOptimizer,
}

OPTIMIZER_SUMMARIES = [
    "learning_rate",
    "loss",
    "gradients",
    "gradient_norm",
    "global_gradient_norm",
]


def optimize_loss(
    loss: Tensor,
    global_step: Variable | None,
    learning_rate: Any,
    optimizer: Any,
    gradient_noise_scale: None = None,
    gradient_multipliers: Mapping[Any, Any] | None = None,
    clip_gradients: Any = None,
    learning_rate_decay_fn: Callable[[Any, Any], Any] | None = None,
    update_ops: Sequence[Any] | None = None,
    variables: Sequence[Variable] | None = None,
    name: str | None = None,
    summaries: Sequence[str] | None = None,
    colocate_gradients_with_ops: bool = False,
    increment_global_step: bool = True,
) -> Tensor:
    """A tensor: the loss, which takes a step when it is run.

    Args:
        global_step: counted by each step; None takes the graph's, if there is one.
        learning_rate: a number, a tensor, or None, where the optimizer has its own.
        optimizer: a name of OPTIMIZER_CLS_NAMES, an Optimizer, its class, or a function of the rate, or of
            nothing, that gives one.
        gradient_multipliers: factors by variable or its name.
        clip_gradients: a global norm, or a function from pairs of gradient and variable to such pairs.
        learning_rate_decay_fn: a function of (learning_rate, global_step).
        update_ops: run before the loss, by default those of UPDATE_OPS.
        variables: to update, by default all trainable ones.
        summaries: of OPTIMIZER_SUMMARIES, by default learning_rate, loss and global_gradient_norm.
        gradient_noise_scale: not supported.

    Raises:
        GraphError: an argument does not fit, or is not supported.
    """
    if gradient_noise_scale is not None:
        raise GraphError("optimize_loss: gradient_noise_scale is not supported: leave it out.")
    shown = ["learning_rate", "loss", "global_gradient_norm"] if summaries is None else list(summaries)
    if unknown := [s for s in shown if s not in OPTIMIZER_SUMMARIES]:
        raise GraphError(f"optimize_loss: summaries {unknown} are none of {OPTIMIZER_SUMMARIES}.")
    step = get_global_step() if global_step is None else global_step
    with variable_scope(name, "OptimizeLoss"):
        before = get_collection(GraphKeys.UPDATE_OPS) if update_ops is None else update_ops
        with control_dependencies(list(before)):
            loss = identity(convert_to_tensor(loss))
        rate = _rate(learning_rate, learning_rate_decay_fn, step, "learning_rate" in shown)
        chosen = _optimizer(optimizer, rate)
        to_train = trainable_variables() if variables is None else list(variables)
        pairs: list[tuple[Any, Any]]
        pairs = [(g, v) for g, v in chosen.compute_gradients(loss, to_train) if g is not None]
        if gradient_multipliers is not None:
            pairs = [(_times(g, v, gradient_multipliers), v) for g, v in pairs]
        if "global_gradient_norm" in shown:
            scalar("global_norm/gradient_norm", global_norm([g for g, _ in pairs]))
        if callable(clip_gradients):
            pairs = clip_gradients(pairs)
        elif clip_gradients is not None:
            clipped, _ = clip_by_global_norm([g for g, _ in pairs], clip_gradients)
            pairs = [(g, v) for g, (_, v) in zip(clipped, pairs, strict=True)]
        if "loss" in shown:
            scalar("loss", loss)
        for g, v in pairs:
            if "gradients" in shown:
                histogram(f"gradients/{v.op.name}", g)
            if "gradient_norm" in shown:
                scalar(f"gradient_norm/{v.op.name}", global_norm([g]))
        train = chosen.apply_gradients(pairs, step if increment_global_step else None, name="train")
        with control_dependencies([train]):
            return identity(loss, name="train_op")


def _rate(rate: Any, decay: Callable[[Any, Any], Any] | None, step: Any, shown: bool) -> Any:
    if rate is None:
        return None
    if not isinstance(rate, TensorLike):
        if rate < 0:
            raise GraphError(f"optimize_loss: learning_rate is {rate}, and has to be 0 or more.")
        rate = get_variable("learning_rate", [], trainable=False, initializer=Constant(float(rate)))
    if decay is not None:
        if step is None:
            raise GraphError("optimize_loss: learning_rate_decay_fn needs a global_step.")
        rate = decay(rate, step)
    if shown:
        scalar("learning_rate", rate)
    return rate


def _optimizer(optimizer: Any, rate: Any) -> Optimizer:
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZER_CLS_NAMES:
            raise GraphError(
                f"optimize_loss: optimizer {optimizer!r} is none of {sorted(OPTIMIZER_CLS_NAMES)}."
            )
        optimizer = OPTIMIZER_CLS_NAMES[optimizer]
    made = optimizer() if rate is None else optimizer(rate)
    if not isinstance(made, Optimizer):
        raise GraphError(f"optimize_loss: {optimizer!r} gives {made!r}, which is no Optimizer.")
    return made


def _times(gradient: Any, variable: Variable, factors: Mapping[Any, Any]) -> Any:
    factor = factors.get(variable, factors.get(variable.op.name))
    return gradient if factor is None else multiply(gradient, factor)
