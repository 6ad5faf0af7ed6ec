"""slim.learning: a training step with its gradients clipped, and the loop around it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.graph import Graph, Tensor, control_dependencies, get_collection, get_default_graph
from dtrain.ops.array import identity
from dtrain.ops.clip import clip_by_norm, global_norm
from dtrain.ops.math import multiply
from dtrain.ops.state import Variable
from dtrain.ops.summary import histogram, merge_all, scalar
from dtrain.runtime.config import ConfigProto
from dtrain.tf1 import logging
from dtrain.train.hooks import CheckpointSaverHook, StopAtStepHook, SummarySaverHook
from dtrain.train.monitored import MonitoredTrainingSession, Scaffold
from dtrain.train.optimizers import Optimizer
from dtrain.train.saver import Saver
from dtrain.train.step_counter import get_or_create_global_step

__all__ = ["add_gradients_summaries", "clip_gradient_norms", "create_train_op", "multiply_gradients", "train"]

Pairs = Sequence[tuple[Any, Variable]]
_GRAPHS: Any = object()


def clip_gradient_norms(gradients_to_variables: Pairs, max_norm: float) -> list[tuple[Any, Variable]]:
    """Each gradient by itself, of this norm at most."""
    return [(None if g is None else clip_by_norm(g, max_norm), v) for g, v in gradients_to_variables]


def multiply_gradients(
    grads_and_vars: Pairs, gradient_multipliers: Mapping[Any, float]
) -> list[tuple[Any, Variable]]:
    """Gradients times factors, which are given by variable or its name."""
    factors = [gradient_multipliers.get(v, gradient_multipliers.get(v.op.name)) for _, v in grads_and_vars]
    return [
        (g if f is None or g is None else multiply(g, f), v)
        for (g, v), f in zip(grads_and_vars, factors, strict=True)
    ]


def add_gradients_summaries(grads_and_vars: Pairs) -> list[Tensor]:
    """A histogram of each gradient, and its norm."""
    made = []
    for g, v in grads_and_vars:
        if g is not None:
            made.append(histogram(f"{v.op.name}/gradient", g))
            made.append(scalar(f"{v.op.name}/gradient_norm", global_norm([g])))
    return made


def create_train_op(
    total_loss: Tensor,
    optimizer: Optimizer,
    global_step: Any = _GRAPHS,
    update_ops: Sequence[Any] | None = None,
    variables_to_train: Sequence[Variable] | None = None,
    clip_gradient_norm: float = 0,
    summarize_gradients: bool = False,
    gate_gradients: int = 1,
    aggregation_method: None = None,
    colocate_gradients_with_ops: bool = False,
    gradient_multipliers: Mapping[Any, float] | None = None,
    check_numerics: bool = True,
) -> Tensor:
    """A tensor: the loss, which takes a step when it is run.

    Args:
        global_step: what a step counts, by default the graph's, which is made; None counts nothing.
        update_ops: run before the loss, by default those of UPDATE_OPS.
        clip_gradient_norm: each gradient's, above 0.
        check_numerics: a session looks at its numbers, or does not, by ConfigProto(check_numerics=...).
    """
    step = get_or_create_global_step() if global_step is _GRAPHS else global_step
    before = get_collection(GraphKeys.UPDATE_OPS) if update_ops is None else list(update_ops)
    if before:
        with control_dependencies(before):
            total_loss = identity(total_loss)
    pairs: Any = optimizer.compute_gradients(
        total_loss, variables_to_train, gate_gradients, aggregation_method, colocate_gradients_with_ops
    )
    if gradient_multipliers:
        pairs = multiply_gradients(pairs, gradient_multipliers)
    if clip_gradient_norm > 0:
        pairs = clip_gradient_norms(pairs, clip_gradient_norm)
    if summarize_gradients:
        add_gradients_summaries(pairs)
    applied = optimizer.apply_gradients(pairs, step)
    with control_dependencies([applied]):
        train_op = identity(total_loss, name="train_op")
    get_default_graph().add_to_collection(GraphKeys.TRAIN_OP, train_op)
    return train_op


def train(
    train_op: Tensor,
    logdir: str | os.PathLike[str] | None,
    train_step_fn: None = None,
    train_step_kwargs: None = None,
    log_every_n_steps: int = 1,
    graph: Graph | None = None,
    master: str = "",
    is_chief: bool = True,
    global_step: Variable | None = None,
    number_of_steps: int | None = None,
    init_op: Any = _GRAPHS,
    init_feed_dict: Mapping[Any, Any] | None = None,
    local_init_op: Any = _GRAPHS,
    init_fn: Callable[[Any], Any] | None = None,
    ready_op: Any = _GRAPHS,
    summary_op: Any = _GRAPHS,
    save_summaries_secs: float = 600,
    summary_writer: Any = _GRAPHS,
    startup_delay_steps: int = 0,
    saver: Saver | None = None,
    save_interval_secs: float = 600,
    sync_optimizer: None = None,
    session_config: ConfigProto | None = None,
    session_wrapper: None = None,
    trace_every_n_steps: None = None,
) -> Any:
    """Run train_op until the global step is number_of_steps or the data end; the last loss.

    A MonitoredTrainingSession does it: it resumes from what logdir holds, saves there by save_interval_secs,
    and summary_op every save_summaries_secs. On several ranks all run it, as one; is_chief has no meaning.

    Raises:
        GraphError: for train_step_fn, session_wrapper, sync_optimizer, trace_every_n_steps, ready_op or
            summary_writer, which are not supported.
    """
    refused = {
        "train_step_fn": train_step_fn,
        "train_step_kwargs": train_step_kwargs,
        "sync_optimizer": sync_optimizer,
        "session_wrapper": session_wrapper,
        "trace_every_n_steps": trace_every_n_steps,
        "ready_op": None if ready_op is _GRAPHS else ready_op,
        "summary_writer": None if summary_writer is _GRAPHS else summary_writer,
    }
    if given := [name for name, value in refused.items() if value is not None]:
        raise GraphError(
            f"slim.learning.train: {', '.join(given)} is not supported: write the loop with "
            "tf.train.MonitoredTrainingSession."
        )
    with (graph or train_op.graph).as_default():
        step = global_step if global_step is not None else get_or_create_global_step()
        scaffold = Scaffold(
            init_op=None if init_op is _GRAPHS else init_op,
            init_feed_dict=init_feed_dict,
            init_fn=None if init_fn is None else lambda _, session: init_fn(session),
            local_init_op=None if local_init_op is _GRAPHS else local_init_op,
            saver=saver,
        )
        hooks: list[Any] = []
        if number_of_steps is not None:
            hooks.append(StopAtStepHook(last_step=number_of_steps))
        shown = merge_all() if summary_op is _GRAPHS else summary_op
        if logdir is not None:
            folder = os.fspath(logdir)
            hooks.append(CheckpointSaverHook(folder, save_secs=save_interval_secs, scaffold=scaffold))
            if shown is not None:
                hooks.append(
                    SummarySaverHook(save_secs=save_summaries_secs, output_dir=folder, summary_op=shown)
                )
        loss = None
        with MonitoredTrainingSession(
            master,
            checkpoint_dir=logdir,
            scaffold=scaffold,
            hooks=hooks,
            save_checkpoint_secs=None,
            save_summaries_steps=None,
            save_summaries_secs=None,
            config=session_config,
        ) as session:
            while not session.should_stop():
                begun = time.perf_counter()
                loss, number = session.run([train_op, step])
                if log_every_n_steps and number % log_every_n_steps == 0:
                    seconds = time.perf_counter() - begun
                    logging.info("global step %d: loss = %.4f (%.3f sec/step)", number, loss, seconds)
        return loss
