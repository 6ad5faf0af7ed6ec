"""Communication as ops: what the passes put where a tensor's placement has to change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.graph.graph import Spec
from dtrain.ops.base import MATRIX, MOVING, Array, Env, Kernel, Op, register
from dtrain.ops.memory import coalesce
from dtrain.ops.placement import Sharded, local_shape, shard_bounds


@register
class AllReduce(Op):
    """Sum over all ranks of each input, as one bucket: one message where they lie contiguously.

    Inputs and outputs lie at the same places of a bucket's two parts, or are the same memory. bucket: 0, or
    the number of one that begins early: it has a BeginAllReduce as a control input, and ends its sum.
    """

    count: int
    bucket: int = 0
    stateful = True
    category = MOVING

    @property
    def packs(self) -> range:
        return range(self.count)

    summed = packs

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return list(specs)

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        sums = [_summing(env).reducer(source, out) for source, out in coalesce([ins, outs])]
        if len(sums) == 1:
            return sums[0]

        def kernel() -> None:
            for each in sums:
                each()

        kernel.capturable = all(getattr(s, "capturable", False) for s in sums)  # type: ignore[attr-defined]  # a function has attributes
        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        """Between two barriers each rank of the node sums its part of all ranks' inputs."""
        calls = []
        for source, out in coalesce([ins, outs]):
            terms = code.comm.terms(source)
            if terms is None:
                return None
            low, high = code.comm.part(out.size, out.itemsize)
            calls.append(code.sum([t[low:high] for t in terms], out[low:high]))
        if None in calls:
            return None
        return [code.meet(), *calls, code.meet()]


@register
class BeginAllReduce(Op):
    """The beginning of a sum that runs beside other work, up to the AllReduce that it controls.

    Its kernels are bound with those of that AllReduce (see runtime/layout).
    """

    count: int
    stateful = True
    category = MOVING

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return []


def begun(env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> tuple[Kernel, Kernel]:
    """The two kernels of a sum that is begun, and waited for later."""
    return _summing(env).begun([(source, out) for source, out in coalesce([ins, outs])])


def _summing(env: Env) -> Any:
    """What sums where the arrays are."""
    return env.comm if env.on_host else env.comm.device_sums


@register
class NodeBarrier(Op):
    """Its inputs, in memory that all ranks reach, once each rank has written its own there.

    An output is this rank's input in place. Where that is a rank's term of a sum, or its rows of a batch, the
    ops after it read the others' too (Communicator.terms); the memory is free for the next step when an
    update of parameters that ranks share has ended, as that does in a barrier.
    """

    count: int
    stateful = True
    category = MOVING

    @property
    def packs(self) -> range:
        return range(self.count)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return list(specs)

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return [code.meet()]


@register
class SumTerms(Op):
    """The sum of all ranks' terms after a NodeBarrier: each rank adds up the whole for itself."""

    stateful = True
    category = MOVING
    summed = (0,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [specs[0]]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        first, *others = env.comm.terms(ins[0])

        def kernel() -> None:
            outs[0][...] = first
            for term in others:
                env.xp.add(outs[0], term, out=outs[0])

        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return code.sum(code.comm.terms(ins[0].reshape(-1)), outs[0].reshape(-1))


@register
class RowsOfProduct(Op):
    """a.T @ b of the whole batch's rows, of which each rank has some after a NodeBarrier.

    Each rank computes its rows of the result: the output is sharded along axis 0.
    """

    stateful = True
    category = MATRIX

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        a, b = specs
        return [Spec((a.shape[1], b.shape[1]), a.dtype)]  # type: ignore[index]  # known in a plan

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        comm, columns = code.comm, ins[0].shape[1]
        low, high = shard_bounds(columns, comm.rank, comm.size)
        everyones = [
            [local_shape(spec.shape, Sharded(0), rank, comm.size) for rank in range(comm.size)]
            for spec in specs
        ]
        a, b = (comm.terms(x, shapes) for x, shapes in zip(ins, everyones, strict=True))
        return code.product_of_parts([x[:, low:high] for x in a], b, outs[0])


@register
class AllGather(Op):
    """The whole of tensors that are sharded, each along an axis, on every rank: one message for all.

    Where the ranks of a node share memory an output may lie there, each rank's part of it being what its
    kernels write; a barrier is then all there is to do (see Layout.gather).
    """

    axes: tuple[int, ...]
    stateful = True
    category = MOVING

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return list(specs)

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        import numpy as np

        comm, xp = env.comm, env.xp
        wholes = outs if env.on_host else [np.empty(out.shape, out.dtype) for out in outs]
        parts = []  # where each rank's part of each whole is, in the order in which the bytes come
        for rank in range(comm.size):
            for whole, axis in zip(wholes, self.axes, strict=True):
                low, high = shard_bounds(whole.shape[axis], rank, comm.size)
                parts.append(whole[(slice(None),) * axis + (slice(low, high),)])
        sent = np.empty(sum(x.nbytes for x in ins), np.uint8)

        def kernel() -> None:
            at = 0
            for x in ins:
                local = x if env.on_host else xp.asnumpy(x)
                sent[at : at + x.nbytes].view(x.dtype).reshape(x.shape)[...] = local
                at += x.nbytes
            got, at = comm.allgather(sent), 0
            for part in parts:
                part[...] = got[at : at + part.nbytes].view(part.dtype).reshape(part.shape)
                at += part.nbytes
            for whole, out in zip(wholes, outs, strict=True):
                if whole is not out:
                    xp.copyto(out, xp.asarray(whole))

        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return [code.meet()] if not code.cuda and code.reaches(outs) else None


@register
class TakeShard(Op):
    """This rank's slice of a tensor that every rank holds whole."""

    axis: int
    is_view = True
    stateful = True
    category = MOVING

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [specs[0]]

    def view(self, env: Env, x: Array, shape: tuple[int, ...]) -> Array:
        low, high = shard_bounds(x.shape[self.axis], env.comm.rank, env.comm.size)
        return x[(slice(None),) * self.axis + (slice(low, high),)]
