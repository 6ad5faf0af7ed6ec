"""Branches and loops in a graph: cond, case, while_loop, map_fn, scan, foldl, foldr.

A plan is made before there are values. So a branch costs nothing where its condition follows from a constant,
a shape or a boolean placeholder that is fed; otherwise both are computed and one is chosen. Steps of a loop
that can be counted are a part of the plan. See ops/subgraph.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.dtypes import as_dtype, bool_
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike, get_default_graph
from dtrain.graph.shape import TensorShape, as_dims
from dtrain.ops.array import identity, stop_gradient
from dtrain.ops.base import constant, convert_to_tensor
from dtrain.ops.control import so_many
from dtrain.ops.join import concat
from dtrain.ops.late import decide
from dtrain.ops.logic import logical_and
from dtrain.ops.subgraph import Cond, Loop, Recorder, argument, check_carried
from dtrain.tf1.structure import check_same, flatten, is_nested, pack, same
from dtrain.tf1.tensor_array import TensorArray


def cond(
    pred: Any,
    true_fn: Callable[[], Any] | None = None,
    false_fn: Callable[[], Any] | None = None,
    strict: bool = False,
    name: str | None = None,
    fn1: Callable[[], Any] | None = None,
    fn2: Callable[[], Any] | None = None,
) -> Any:
    """What true_fn gives where pred is true, else what false_fn gives: the same structure of tensors.

    Where pred follows from constants, shapes and boolean placeholders, a plan has the one branch alone.
    Otherwise both are computed, assignments in the other change nothing, and the shapes have to be the same.

    Args:
        strict: whether a list of one tensor stays a list.
        fn1, fn2: earlier names of true_fn and false_fn.

    Raises:
        TypeError: pred is a Python bool, or a function is none.
        GraphError: the branches give different structures or dtypes, or nothing.
    """
    yes, no = true_fn if fn1 is None else fn1, false_fn if fn2 is None else fn2
    if isinstance(pred, bool):
        raise TypeError("cond: pred is a Python bool: write `if`, or give a tensor.")
    if not callable(yes) or not callable(no):
        raise TypeError("cond: true_fn and false_fn are functions without arguments.")
    graph = get_default_graph()
    with graph.name_scope(name or "cond"):
        condition = convert_to_tensor(pred, bool_)
        decide(condition, integers=False)
        first, a = _branch(yes, strict)
        second, b = _branch(no, strict)
        check_same(first, second, "cond: what true_fn and false_fn give")
        node = Cond(a, b).add([condition], "Merge")
    return pack(first, _wrapped(flatten(first), node.outputs))


def _branch(function: Callable[[], Any], strict: bool) -> tuple[Any, Any]:
    """What a branch gives, and its body."""
    recorder = Recorder()
    result = function()
    if result is None or (is_nested(result) and None in flatten(result)):
        raise GraphError("cond: true_fn and false_fn must return something: tensors or an operation.")
    if not strict:
        while isinstance(result, list | tuple) and len(result) == 1 and not hasattr(result, "_fields"):
            result = result[0]
    leaves = [_after(leaf) if isinstance(leaf, Operation) else leaf for leaf in flatten(result)]
    leaves = [leaf if isinstance(leaf, TensorArray) else convert_to_tensor(leaf) for leaf in leaves]
    return pack(result, leaves), recorder.body((), _flows(leaves))


def _after(operation: Operation) -> Tensor:
    with operation.graph.control_dependencies([operation]):
        return identity(constant(True))


def _flows(leaves: Sequence[Any]) -> list[Tensor]:
    return [leaf.flow if isinstance(leaf, TensorArray) else leaf for leaf in leaves]


def _wrapped(likes: Sequence[Any], tensors: Sequence[Tensor]) -> list[Any]:
    """Tensors, and TensorArrays where there were such."""
    pairs = zip(likes, tensors, strict=False)
    return [like.with_flow(t) if isinstance(like, TensorArray) else t for like, t in pairs]


def case(
    pred_fn_pairs: Any,
    default: Callable[[], Any] | None = None,
    exclusive: bool = False,
    strict: bool = False,
    name: str = "case",
) -> Any:
    """What the function of the first true condition gives; default's, where none is.

    Args:
        pred_fn_pairs: (boolean tensor, function without arguments), a list of them or a dict, as for cond.
        exclusive: more than one true condition is an InvalidArgumentError when it runs; without default,
            none is one, too.
    """
    given = list(pred_fn_pairs.items() if isinstance(pred_fn_pairs, dict) else pred_fn_pairs)
    if not given or not all(isinstance(p, tuple | list) and len(p) == 2 and callable(p[1]) for p in given):
        raise TypeError("case: pred_fn_pairs are pairs of a boolean tensor and a function without arguments.")
    with get_default_graph().name_scope(name):
        preds = [convert_to_tensor(pred, bool_) for pred, _ in given]
        functions = [function for _, function in given]
        for pred in preds:
            decide(pred, integers=False)
        least, most = int(default is None), 1 if exclusive else len(preds)
        if exclusive or default is None:
            preds[0] = so_many(preds, least, most)
        if default is None:
            default = functions.pop()
        result = default
        for pred, function in reversed(list(zip(preds, functions, strict=False))):
            result = _chosen(pred, function, result, strict)
        return result()


def _chosen(pred: Tensor, yes: Callable[[], Any], no: Callable[[], Any], strict: bool) -> Callable[[], Any]:
    return lambda: cond(pred, yes, no, strict)


def while_loop(
    cond: Callable[..., Any],
    body: Callable[..., Any],
    loop_vars: Any,
    shape_invariants: Any = None,
    parallel_iterations: int = 10,
    back_prop: bool = True,
    swap_memory: bool = False,
    name: str | None = None,
    maximum_iterations: Any = None,
    return_same_structure: bool = False,
) -> Any:
    """Give loop_vars to body again and again while cond of them holds, and return the last ones.

    Where cond follows from counters, constants, shapes and integer placeholders, the steps are a part of the
    plan, and have gradients. With maximum_iterations a condition on values is asked in as many steps, those
    after the end changing nothing. Else the loop is one op that every rank runs on the same values, which
    writes no variables and has no gradient.

    Args:
        loop_vars: tensors, TensorArrays, or lists, tuples and dicts of them.
        shape_invariants: their shapes, in the same structure, where a step changes some; by default as given.
        back_prop: False lets no gradient through.
        return_same_structure: a list of one stays a list.
        parallel_iterations, swap_memory: change nothing but TensorFlow's use of memory.

    Raises:
        GraphError: body gives another structure, dtype or shape than it takes.
    """
    if not callable(cond) or not callable(body):
        raise TypeError("while_loop: cond and body are functions of the loop_vars.")
    if not is_nested(loop_vars) or not loop_vars:
        loop_vars = [loop_vars] if isinstance(loop_vars, TensorLike | TensorArray) else loop_vars
        if not loop_vars:
            raise GraphError("while_loop: loop_vars is empty: a loop needs at least one value that changes.")
    graph = get_default_graph()
    with graph.name_scope(name or "while"):
        limited = maximum_iterations is not None
        variables = [0, loop_vars] if limited else [loop_vars]
        first = [v if isinstance(v, TensorArray) else convert_to_tensor(v) for v in flatten(variables)]
        wanted = [t.spec for t in _flows(first)]
        if shape_invariants is not None:
            dims = [as_dims(s) for s in _shapes(shape_invariants)]
            offset = len(wanted) - len(dims)
            wanted[offset:] = [Spec(d, s.dtype) for d, s in zip(dims, wanted[offset:], strict=True)]
        recorder = Recorder()
        formals = [argument(spec, "Arg") for spec in wanted]
        inside = pack(variables, _wrapped(first, formals))
        if limited:
            count, values = inside
            bound = count < convert_to_tensor(maximum_iterations, count.dtype)
            going = convert_to_tensor(_call(cond, values), bool_)
            more = [logical_and(bound, going), bound]
        else:
            (values,) = inside
            going = convert_to_tensor(_call(cond, values), bool_)
            more = [going]
        decide(more[0])
        test = recorder.body(formals, more)
        if limited:
            step = _limited(going, body, values)
            results = [count + 1, *step]
        else:
            results = _step(body, values)
        for before, after in zip(formals, _flows(results), strict=True):
            check_carried(f"while_loop: {after.name}", before.spec, after.spec)
        loop = Loop(recorder.body(formals, _flows(results)), test, len(formals), 0)
        outs: Sequence[Tensor] = loop.add(_flows(first), "Exit").outputs[: len(formals)]
        if not back_prop:
            outs = [stop_gradient(t) for t in outs]
    final = pack(variables, _wrapped(results, outs))[-1]
    single = isinstance(final, list | tuple) and len(final) == len(flatten(final)) == 1
    return final[0] if single and not return_same_structure else final


def _call(function: Callable[..., Any], values: Any) -> Any:
    return function(**values) if isinstance(values, dict) else function(*values)


def _step(body: Callable[..., Any], values: Any) -> list[Any]:
    """The flat results of a step."""
    result = _call(body, values)
    if not is_nested(result) or (len(values) == 1 and not same(result, values)):
        result = [result]
    check_same(values, result, "while_loop: loop_vars and what body gives")
    pairs = zip(flatten(values), flatten(result), strict=True)
    return [
        r if isinstance(r, TensorArray) else convert_to_tensor(r, getattr(v, "dtype", None)) for v, r in pairs
    ]


def _limited(going: Tensor, body: Callable[..., Any], values: Any) -> list[Any]:
    """The results of a step that changes nothing where the loop has come to its end."""
    chosen = cond(going, lambda: tuple(_step(body, values)), lambda: tuple(flatten(values)), strict=True)
    return list(chosen)


def _shapes(invariants: Any) -> list[Any]:
    """The shapes in a structure of them."""
    if isinstance(invariants, TensorShape):
        return [invariants]
    if isinstance(invariants, dict):
        invariants = [invariants[key] for key in sorted(invariants)]
    if all(isinstance(part, int | None) for part in invariants):
        return [invariants]
    return [shape for part in invariants for shape in _shapes(part)]


# -- over the entries of a tensor --------------------------------------------------------------------------
def map_fn(
    fn: Callable[[Any], Any],
    elems: Any,
    dtype: Any = None,
    parallel_iterations: int = 10,
    back_prop: bool = True,
    swap_memory: bool = False,
    infer_shape: bool = True,
    name: str | None = None,
) -> Any:
    """What fn gives of each entry of elems along axis 0, stacked.

    Args:
        elems: a tensor, or several of equal length in a structure, which fn takes as its one argument.
        dtype: of what fn gives, in its structure, where that is not elems' own.
        back_prop: False lets no gradient through.
        parallel_iterations, swap_memory, infer_shape: change nothing.

    Raises:
        GraphError: fn gives another structure or dtype.
    """
    with get_default_graph().name_scope(name or "map"):
        xs = [convert_to_tensor(x) for x in flatten(elems)]
        recorder = Recorder()
        formals = _entries(xs)
        result = fn(pack(elems, formals))
        wanted = elems if dtype is None else dtype
        check_same(wanted, result, "map_fn: dtype (by default elems) and what fn gives")
        types = [t.dtype for t in xs] if dtype is None else [as_dtype(d) for d in flatten(dtype)]
        found = [_of_dtype(r, d) for r, d in zip(flatten(result), types, strict=True)]
        loop = Loop(recorder.body(formals, found), None, 0, len(xs))
        outs = loop.add(xs, "Map").outputs[: len(found)]
        return pack(result, _stopped(outs, back_prop))


def _of_dtype(value: Any, dtype: Any) -> Tensor:
    tensor = convert_to_tensor(value) if isinstance(value, TensorLike) else convert_to_tensor(value, dtype)
    if tensor.dtype != dtype:
        raise GraphError(f"map_fn: fn gives {tensor.dtype.name} where {dtype.name} was to come: say dtype.")
    return tensor


def _entries(xs: Sequence[Tensor]) -> list[Tensor]:
    """Formal arguments for the entries of tensors along axis 0."""
    for x in xs:
        if x.spec.shape == ():
            raise GraphError(f"{x.name} is a scalar: it has no entries to go over.")
    specs = [Spec(None if x.spec.shape is None else x.spec.shape[1:], x.dtype) for x in xs]
    return [argument(spec, "Entry") for spec in specs]


def _stopped(tensors: Sequence[Tensor], back_prop: bool) -> list[Tensor]:
    return list(tensors) if back_prop else [stop_gradient(t) for t in tensors]


def scan(
    fn: Callable[[Any, Any], Any],
    elems: Any,
    initializer: Any = None,
    parallel_iterations: int = 10,
    back_prop: bool = True,
    swap_memory: bool = False,
    infer_shape: bool = True,
    reverse: bool = False,
    name: str | None = None,
) -> Any:
    """fn(accumulated, entry) along axis 0 of elems; what it has accumulated after each entry, stacked.

    Args:
        initializer: what is accumulated before the first entry; by default that is the first entry.
        reverse: from the last entry to the first.
        back_prop: False lets no gradient through.
        parallel_iterations, swap_memory, infer_shape: change nothing.
    """
    with get_default_graph().name_scope(name or "scan"):
        first, xs, states = _folded(fn, elems, initializer, reverse, stacked=True)
        if initializer is None:  # the first entry is a result, too
            parts = [[x[None], s] for x, s in zip(xs, states, strict=True)]
            states = [concat(p[::-1] if reverse else p, 0) for p in parts]
        return pack(first, _stopped(states, back_prop))


def foldl(
    fn: Callable[[Any, Any], Any],
    elems: Any,
    initializer: Any = None,
    parallel_iterations: int = 10,
    back_prop: bool = True,
    swap_memory: bool = False,
    name: str | None = None,
) -> Any:
    """fn(accumulated, entry) along axis 0 of elems, from the first on; the last result. See scan."""
    with get_default_graph().name_scope(name or "foldl"):
        first, _, last = _folded(fn, elems, initializer, reverse=False, stacked=False)
        return pack(first, _stopped(last, back_prop))


def foldr(
    fn: Callable[[Any, Any], Any],
    elems: Any,
    initializer: Any = None,
    parallel_iterations: int = 10,
    back_prop: bool = True,
    swap_memory: bool = False,
    name: str | None = None,
) -> Any:
    """fn(accumulated, entry) along axis 0 of elems, from the last on; the last result. See scan."""
    with get_default_graph().name_scope(name or "foldr"):
        first, _, last = _folded(fn, elems, initializer, reverse=True, stacked=False)
        return pack(first, _stopped(last, back_prop))


def _folded(
    fn: Callable[[Any, Any], Any], elems: Any, initializer: Any, reverse: bool, stacked: bool
) -> tuple[Any, list[Tensor], list[Tensor]]:
    """The structure of what is accumulated, what it begins with, and its last or all its values."""
    if not callable(fn):
        raise TypeError("fn is a function of what is accumulated and an entry.")
    xs = [convert_to_tensor(x) for x in flatten(elems)]
    if initializer is None:
        begin, first = [x[-1 if reverse else 0] for x in xs], elems
        xs = [x[:-1] if reverse else x[1:] for x in xs]
    else:
        begin, first = [convert_to_tensor(v) for v in flatten(initializer)], initializer
    recorder = Recorder()
    states = [argument(t.spec, "State") for t in begin]
    formals = _entries(xs)
    result = fn(pack(first, states), pack(elems, formals))
    check_same(first, result, "what fn takes as accumulated and what it gives")
    found = [convert_to_tensor(r, s.dtype) for r, s in zip(flatten(result), states, strict=True)]
    for before, after in zip(states, found, strict=True):
        check_carried("what is accumulated", before.spec, after.spec)
    n = len(states)
    body = recorder.body([*states, *formals], [*found, *found] if stacked else found)
    outs = Loop(body, None, n, len(xs), (), reverse).add([*begin, *xs], "Scan").outputs
    return first, begin, list(outs[n : 2 * n] if stacked else outs[:n])


__all__ = ["case", "cond", "foldl", "foldr", "map_fn", "scan", "while_loop"]
