"""Reverse-mode differentiation: gradients(ys, xs) adds the nodes that compute them.

Each op's rule speaks of one node; summing over uses and undoing broadcasting happens here, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Operation, Tensor, TensorLike
from dtrain.graph.shape import compatible, is_static
from dtrain.ops.array import SumLike
from dtrain.ops.base import apply, convert_to_tensor
from dtrain.ops.check import LOSSES
from dtrain.ops.math import add
from dtrain.ops.subgraph import Subgraph


def gradients(
    ys: Any, xs: Any, grad_ys: Any = None, name: str = "gradients", *, stop_gradients: Any = None
) -> list[Tensor | None]:
    """d sum(ys) / dx for each x, as new tensors of the graph; None for an x that no y depends on.

    Args:
        ys: a floating tensor or several; they are summed, as are their entries.
        xs: tensors or variables, one or several.
        grad_ys: the gradient with respect to each y, by default ones.
        name: name scope of the new operations.
        stop_gradients: tensors that count as constants.

    Returns:
        list: a tensor of the shape of each x, or None.

    Raises:
        GraphError: a y is not floating, or an op on the way has no gradient.

    Example:
        >>> x = dt.constant(3.0)
        >>> print(dt.Session().run(dt.gradients(x * x, x)[0]))
        6.0
    """
    targets = [convert_to_tensor(y) for y in _as_list(ys)]
    sources = [convert_to_tensor(x) for x in _as_list(xs)]
    incoming = _as_list(grad_ys) if grad_ys is not None else [None] * len(targets)
    if len(incoming) != len(targets):
        raise GraphError(f"{len(incoming)} grad_ys for {len(targets)} ys: give one for each.")
    for y in targets:
        if not y.dtype.is_floating:
            raise GraphError(
                f"{y.name} is {y.dtype.name}: only floating tensors have gradients; cast before."
            )
    graph = targets[0].graph
    graph.kept.setdefault(LOSSES, set()).update(targets)
    with graph.as_default(), graph.name_scope(name):
        stops = [convert_to_tensor(x) for x in _as_list(stop_gradients)] if stop_gradients is not None else ()
        return _backward(targets, sources, incoming, stops)


def _backward(
    targets: Sequence[Tensor],
    sources: Sequence[Tensor],
    incoming: Sequence[Any],
    stops: Sequence[Tensor] = (),
) -> list[Tensor | None]:
    stopped = set(stops)
    path, wanted = _between(sources, targets, stopped), set(sources)
    flowing: dict[Tensor, list[Tensor]] = {}
    for y, dy in zip(targets, incoming, strict=True):
        seed = _seed(y) if dy is None else convert_to_tensor(dy, y.dtype)
        if not compatible(seed.spec.shape, y.spec.shape):
            raise GraphError(f"grad_ys: {seed!r} is not of the shape of {y!r}.")
        flowing.setdefault(y, []).append(seed)
    for node in sorted(path, key=lambda n: n.id, reverse=True):
        dys = [None if out in stopped else _total(flowing, out) for out in node.outputs]
        if all(dy is None for dy in dys):
            continue
        with node.graph.name_scope(f"{node.name}_grad"):
            for x, dx in zip(node.inputs, _rule(node, dys), strict=True):
                if dx is not None and (x.op in path or x in wanted):
                    flowing.setdefault(x, []).append(_like(dx, x) if node.kind.elementwise else dx)
    return [_total(flowing, x) for x in sources]


def _seed(y: Tensor) -> Tensor:
    """Ones in the shape of y."""
    from dtrain.ops.array import BroadcastLike

    one = convert_to_tensor(1, y.dtype)
    if y.spec.shape == ():
        return one
    return apply(BroadcastLike(None, False), one, y)


def _rule(node: Operation, dys: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    if node.kind.no_gradient:
        return [None] * len(node.inputs)
    if isinstance(node.kind, Subgraph):
        return node.kind.backward(node, dys, _of_body)
    return node.kind.grad(node, *dys)


def _of_body(ys: Sequence[Tensor], xs: Sequence[Tensor], grad_ys: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients within a body, whose arguments count as given."""
    return _backward(ys, xs, grad_ys, xs)


def _like(dx: Tensor, x: Tensor) -> Tensor:
    """dx summed over what broadcasting repeated of x."""
    if is_static(x.spec.shape) and dx.spec.shape == x.spec.shape:
        return dx
    return apply(SumLike(), dx, x)


def _total(flowing: dict[Tensor, list[Tensor]], x: Tensor) -> Tensor | None:
    """All that flows into x, added up once."""
    parts = flowing.get(x)
    if not parts:
        return None
    while len(parts) > 1:
        parts[:2] = [add(parts[0], parts[1])]
    return parts[0]


def _between(sources: Sequence[Tensor], targets: Sequence[Tensor], stops: set[Tensor]) -> set[Operation]:
    """The operations on a path from a source to a target, the sources' own excluded where they end one."""
    reached: set[Operation] = set()
    wanted = set(sources)
    below = _ancestors(targets, stops)
    for node in sorted(below, key=lambda n: n.id):
        if any(x in wanted or (x.op in reached and x not in stops) for x in node.inputs):
            reached.add(node)
    return reached


def _ancestors(tensors: Sequence[Tensor], stops: set[Tensor]) -> set[Operation]:
    seen: set[Operation] = set()
    stack = [t.op for t in tensors if t not in stops]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(x.op for x in node.inputs if x not in stops)
    return seen


def _as_list(value: Any) -> list[Any]:
    return [value] if isinstance(value, TensorLike) or not isinstance(value, Sequence) else list(value)
