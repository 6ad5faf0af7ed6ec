"""Recurrent networks over whole sequences: dynamic_rnn, static_rnn and their bidirectional forms.

The steps of a sequence are steps of a plan (see ops/subgraph.py): a plan is for one length, which may be that
of what is fed. Sequences of a batch that end earlier have outputs of 0 and keep their state from there on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.dtypes import as_dtype, int32
from dtrain.graph.graph import Spec, Tensor
from dtrain.graph.shape import compatible, shape_text
from dtrain.ops.array import transpose, zeros_like
from dtrain.ops.base import constant, convert_to_tensor
from dtrain.ops.join import concat
from dtrain.ops.late import shape as shape_of
from dtrain.ops.logic import where
from dtrain.ops.math import cast
from dtrain.ops.scopes import variable_scope
from dtrain.ops.subgraph import Loop, Recorder, argument, check_carried
from dtrain.tf1.nn.rnn_cell import check_cell
from dtrain.tf1.structure import check_same, flatten, map_structure, pack


def dynamic_rnn(
    cell: Any,
    inputs: Any,
    sequence_length: Any = None,
    initial_state: Any = None,
    dtype: Any = None,
    parallel_iterations: int | None = None,
    swap_memory: bool = False,
    time_major: bool = False,
    scope: Any = None,
) -> tuple[Any, Any]:
    """The outputs of a cell along sequences, and its last state.

    Args:
        inputs: [batch, time, ...], or a structure of such; the time may be known only when it is fed.
        sequence_length: [batch], of integers: how many steps of each sequence count. Outputs after them are
            0, and the state stays.
        initial_state: the cell's state before the first step; by default zeros of dtype.
        time_major: inputs and outputs are [time, batch, ...].
        scope: a name or VariableScope, by default 'rnn'.
        parallel_iterations, swap_memory: change nothing but TensorFlow's use of memory.

    Raises:
        GraphError: neither initial_state nor dtype is given, or shapes do not fit.
    """
    check_cell("dynamic_rnn", cell)
    with variable_scope(scope or "rnn"):
        return _over_time(cell, inputs, sequence_length, initial_state, dtype, time_major, backwards=False)


def _over_time(
    cell: Any, inputs: Any, lengths: Any, initial: Any, dtype: Any, time_major: bool, backwards: bool
) -> tuple[Any, Any]:
    """The outputs of a cell and its last state, the steps taken from the first or from the last entry."""
    given = [convert_to_tensor(x) for x in flatten(inputs)]
    for x in given:
        if x.spec.shape is not None and len(x.spec.shape) < 2:
            raise GraphError(f"a recurrent net takes [batch, time, ...], and {x!r} is not that.")
    xs = given if time_major else [_swapped(x) for x in given]
    state = _first_state(cell, xs[0], 1, initial, dtype)
    steps = _lengths(lengths, xs[0], 1)
    size = xs[0].spec.shape and xs[0].spec.shape[0]
    begin = constant(0) if not backwards else (constant(size) if size is not None else shape_of(xs[0])[0]) - 1
    recorder = Recorder()
    time = argument(Spec((), int32), "time")
    states = [argument(t.spec, "state") for t in flatten(state)]
    entries = [
        argument(Spec(None if x.spec.shape is None else x.spec.shape[1:], x.dtype), "entry") for x in xs
    ]
    before = pack(state, states)
    output, after = cell(pack(inputs, entries), before)
    check_same(before, after, "the state that a cell takes and the one that it gives")
    output, after = _masked(time, steps, output, before, after)
    outputs = [convert_to_tensor(o) for o in flatten(output)]
    for old, new in zip(states, flatten(after), strict=True):
        check_carried("the cell's state", old.spec, new.spec)
    results = [time - 1 if backwards else time + 1, *flatten(after), *outputs]
    body = recorder.body([time, *states, *entries], results)
    carried = 1 + len(states)
    loop = Loop(body, None, carried, len(xs), (), backwards).add([begin, *flatten(state), *xs], "while")
    stacked = loop.outputs[carried : carried + len(outputs)]
    found = list(stacked) if time_major else [_swapped(t) for t in stacked]
    return pack(output, found), pack(state, loop.outputs[1:carried])


def _swapped(x: Tensor) -> Tensor:
    """A tensor with its first two axes exchanged."""
    if x.spec.shape is None:
        raise GraphError(
            f"{x.name} has no known rank: say the shape of the placeholder, with None for sizes."
        )
    return transpose(x, [1, 0, *range(2, len(x.spec.shape))])


def _first_state(cell: Any, x: Tensor, axis: int, initial: Any, dtype: Any) -> Any:
    """The state before the first step, for as many examples as x has along an axis."""
    if initial is not None:
        return map_structure(convert_to_tensor, initial)
    if dtype is None:
        raise GraphError("If there is no initial_state, you must give a dtype.")
    dims = x.spec.shape
    batch = dims[axis] if dims is not None and dims[axis] is not None else shape_of(x)[axis]
    return cell.zero_state(batch, as_dtype(dtype))


def _lengths(lengths: Any, x: Tensor, axis: int) -> Tensor | None:
    if lengths is None:
        return None
    found = cast(convert_to_tensor(lengths), int32)
    dims = x.spec.shape
    if not compatible(found.spec.shape, (None if dims is None else dims[axis],)):
        raise GraphError(
            f"sequence_length is one integer for each example, and not {shape_text(found.spec.shape)}."
        )
    return found


def _masked(time: Any, lengths: Tensor | None, output: Any, before: Any, after: Any) -> tuple[Any, Any]:
    """What a step gives, where it is after the end of a sequence zeros and the state from before."""
    if lengths is None:
        return output, after
    here = convert_to_tensor(time) < lengths

    def choose(new: Any, old: Any) -> Any:
        return new if new.spec.shape == () else where(here, new, old)

    zeros = map_structure(zeros_like, output)
    return map_structure(choose, output, zeros), map_structure(choose, after, before)


def bidirectional_dynamic_rnn(
    cell_fw: Any,
    cell_bw: Any,
    inputs: Any,
    sequence_length: Any = None,
    initial_state_fw: Any = None,
    initial_state_bw: Any = None,
    dtype: Any = None,
    parallel_iterations: int | None = None,
    swap_memory: bool = False,
    time_major: bool = False,
    scope: Any = None,
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """dynamic_rnn forwards with one cell and backwards with another, each sequence from its own end.

    Returns:
        (outputs forwards, outputs backwards), both in the order of the inputs, and the two last states.
    """
    check_cell("bidirectional_dynamic_rnn", cell_fw)
    check_cell("bidirectional_dynamic_rnn", cell_bw)
    with variable_scope(scope or "bidirectional_rnn"):
        ways = []
        for way, cell, first in (("fw", cell_fw, initial_state_fw), ("bw", cell_bw, initial_state_bw)):
            with variable_scope(way):
                ways.append(
                    _over_time(cell, inputs, sequence_length, first, dtype, time_major, backwards=way == "bw")
                )
    (fw, last_fw), (bw, last_bw) = ways
    return (fw, bw), (last_fw, last_bw)


def static_rnn(
    cell: Any,
    inputs: Sequence[Any],
    initial_state: Any = None,
    dtype: Any = None,
    sequence_length: Any = None,
    scope: Any = None,
) -> tuple[list[Any], Any]:
    """As dynamic_rnn, of a list of inputs, one for each step, each [batch, depth]; the outputs are a list."""
    check_cell("static_rnn", cell)
    if not isinstance(inputs, list | tuple) or not inputs:
        raise GraphError("static_rnn: inputs is a list of tensors, one for each step: see tf.unstack.")
    with variable_scope(scope or "rnn") as entered:
        return _over_list(cell, inputs, sequence_length, initial_state, dtype, entered, range(len(inputs)))


def _over_list(
    cell: Any, inputs: Sequence[Any], lengths: Any, initial: Any, dtype: Any, entered: Any, order: Any
) -> tuple[list[Any], Any]:
    """Steps over a list in some order; the outputs are in the list's."""
    steps = [map_structure(convert_to_tensor, x) for x in inputs]
    first = flatten(steps[0])[0]
    state = _first_state(cell, first, 0, initial, dtype)
    known = _lengths(lengths, first, 0)
    outputs: list[Any] = [None] * len(steps)
    for taken, time in enumerate(order):
        if taken:
            entered.reuse_variables()
        output, after = cell(steps[time], state)
        outputs[time], state = _masked(time, known, output, state, after)
    return outputs, state


def static_bidirectional_rnn(
    cell_fw: Any,
    cell_bw: Any,
    inputs: Sequence[Any],
    initial_state_fw: Any = None,
    initial_state_bw: Any = None,
    dtype: Any = None,
    sequence_length: Any = None,
    scope: Any = None,
) -> tuple[list[Any], Any, Any]:
    """static_rnn forwards with one cell and backwards with another.

    Returns:
        Outputs, those of both ways side by side, a list in the order of the inputs; and the two last states.
    """
    check_cell("static_bidirectional_rnn", cell_fw)
    check_cell("static_bidirectional_rnn", cell_bw)
    if not isinstance(inputs, list | tuple) or not inputs:
        raise GraphError("static_bidirectional_rnn: inputs is a list of tensors, one for each step.")
    forwards = range(len(inputs))
    with variable_scope(scope or "bidirectional_rnn"):
        with variable_scope("fw") as entered:
            fw, last_fw = _over_list(
                cell_fw, inputs, sequence_length, initial_state_fw, dtype, entered, forwards
            )
        with variable_scope("bw") as entered:
            bw, last_bw = _over_list(
                cell_bw, inputs, sequence_length, initial_state_bw, dtype, entered, forwards[::-1]
            )
    sides = [map_structure(lambda a, b: concat([a, b], 1), f, b) for f, b in zip(fw, bw, strict=True)]
    return sides, last_fw, last_bw


#: What TensorFlow called them before 1.0.
rnn, bidirectional_rnn = static_rnn, static_bidirectional_rnn

__all__ = [
    "bidirectional_dynamic_rnn",
    "bidirectional_rnn",
    "dynamic_rnn",
    "rnn",
    "static_bidirectional_rnn",
    "static_rnn",
]
