"""While: a loop whose number of steps follows from values, as one op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dtrain.graph.graph import Operation, Spec, Tensor
from dtrain.ops.base import Array, Const, Env, Feed, Kernel, Op, register


class Part(NamedTuple):
    """What a step computes, at known shapes: operations in order, whose Feeds are the loop's inputs."""

    nodes: tuple[Operation, ...]
    results: tuple[Tensor, ...]

    def __repr__(self) -> str:
        return repr([(n.name, n.kind, [t.name for t in n.inputs]) for n in self.nodes])


@register
class While(Op):
    """Takes steps while the test holds. Inputs: whether to begin, carried values, what steps read besides.

    Every rank has the whole values and computes all steps, so all take as many. It computes op by op, in
    NumPy or CuPy: for small loops, such as a search.
    """

    test: Part
    step: Part
    carried: int
    stateful = True
    no_gradient = "how many steps it takes follows from values"

    @property
    def draws(self) -> bool:  # type: ignore[override]  # of its parts
        return any(n.kind.draws for part in (self.test, self.step) for n in part.nodes)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return specs[1 : 1 + self.carried]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, begin, first, fixed = env.xp, ins[0], ins[1 : 1 + self.carried], ins[1 + self.carried :]
        given = [*outs, *fixed]
        test, (more,) = _bound(env, self.test, given)
        step, results = _bound(env, self.step, given)
        after = [xp.empty_like(out) for out in outs]  # a result may be another carried value

        def kernel() -> None:
            for out, x in zip(outs, first, strict=True):
                xp.copyto(out, x)
            while bool(begin) and _all(test) and bool(more):
                for call in step:
                    call()
                for new, x in zip(after, results, strict=True):
                    xp.copyto(new, x)
                for out, new in zip(outs, after, strict=True):
                    xp.copyto(out, new)

        return kernel


def _all(calls: Sequence[Callable[[], Any]]) -> bool:
    for call in calls:
        call()
    return True


def _bound(env: Env, part: Part, given: Sequence[Array]) -> tuple[list[Kernel], list[Array]]:
    """The kernels of a part, on memory of their own, and its results."""
    arrays: dict[Tensor, Array] = {}
    kernels: list[Kernel] = []
    for node in part.nodes:
        ins = [arrays[t] for t in node.inputs]
        if isinstance(node.kind, Feed):
            arrays[node.outputs[0]] = given[node.kind.index]
        elif isinstance(node.kind, Const):
            arrays[node.outputs[0]] = env.xp.asarray(node.kind.value.array)
        elif node.kind.is_view:
            out = node.outputs[0]
            view = node.kind.view(env, ins[0], out.spec.shape)  # type: ignore[arg-type]  # known in a plan
            if view.size and not env.xp.shares_memory(view, ins[0]):
                kernels.append(_refresh(env, node, ins[0], view))
            arrays[out] = view
        else:
            outs = [env.xp.empty(t.spec.shape, t.dtype.numpy) for t in node.outputs]
            arrays.update(zip(node.outputs, outs, strict=True))
            kernels.append(node.kind.bind(env, ins, outs))
    return kernels, [arrays[t] for t in part.results]


def _refresh(env: Env, node: Operation, x: Array, out: Array) -> Kernel:
    """A kernel for what is no view here, since values have to be copied: a reshape of a transposed array."""

    def kernel() -> None:
        np_view = node.kind.view(env, x, out.shape)
        env.xp.copyto(out, np_view)

    return kernel
