"""Where the tensors of a plan lie, and its kernels bound to them.

Every tensor gets memory: gradients side by side, the rest by lifetime in one arena.
Then each node is bound to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.cuda.counters import Counters
from dtrain.graph.graph import Operation, Tensor
from dtrain.graph.shape import size_of
from dtrain.native.code import NativeCall
from dtrain.ops.base import Const, Feed, Kernel, in_order
from dtrain.ops.check import HasBad
from dtrain.ops.collective import AllGather, AllReduce, BeginAllReduce, NodeBarrier, begun
from dtrain.ops.memory import STAGGER, aligned
from dtrain.ops.placement import local_shape, shard_bounds
from dtrain.ops.state import NoOp, VariableOp
from dtrain.ops.update import _Update
from dtrain.passes.step import Step, memory_of
from dtrain.runtime.backend import Backend
from dtrain.runtime.draws import Draws
from dtrain.runtime.memory import Buffer, pack

#: Bytes of a tensor up to which its memory on a device is its own.
SMALL = 4096


class NoRoom(Exception):
    """A step that `share` changed cannot have its memory: compile it without. The same on all ranks."""


class PlanEnv:
    """What the kernels of one plan are bound in."""

    def __init__(
        self,
        backend: Backend,
        comm: Communicator,
        draws: Draws | None,
        initialized: Callable[[str], bool] = lambda name: True,
        constants: dict[int, tuple[np.ndarray, Any]] | None = None,
    ) -> None:
        self.xp = backend.xp
        self.on_host = backend.on_host
        self.comm = comm
        self.node = ""  # the name of the operation that is being bound
        self.initialized = initialized
        self._draws = draws
        self._constants = {} if constants is None else constants
        self._backend = backend
        self._block = backend.block(0)
        self._used = 0
        self.blocks: list[Any] = []  # all scratch, what kernels bound before use too

    def scratch(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Memory for one kernel while it runs; release() hands it to the next."""
        dtype = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if self._used + nbytes > self._block.size:
            # kernels bound before keep the old block; sizes double, so there are few
            self._block = self._backend.block(max(2 * self._block.size, aligned(nbytes)))
            self.blocks.append(self._block)
            self._used = 0
        piece = self._block[self._used : self._used + nbytes].view(dtype).reshape(shape)
        self._used += aligned(nbytes)
        return piece

    def release(self) -> None:
        self._used = 0

    def random_stream(self, seed: int) -> Callable[[], np.random.Generator]:
        assert self._draws is not None
        return self._draws.stream(self.node, seed)

    def random_counter(self) -> tuple[int, Any]:
        """In C or on a device: the graph's seed, and where the operation that is bound counts its draws."""
        assert self._draws is not None
        return self._draws.counter(self.node)

    def undraw(self, names: Iterable[str]) -> None:
        """Take back the draws of these operations in C: the step was stopped after them."""
        assert self._draws is not None
        self._draws.undraw(names)

    @property
    def counters(self) -> Counters | None:
        """Of random operations on a device."""
        return self._draws.counters if self._draws is not None else None

    def constant(self, array: np.ndarray) -> Any:
        """A constant on the device, where all plans of a session have one copy."""
        if self.on_host or array.dtype == object:
            return array
        if id(array) not in self._constants:
            self._constants[id(array)] = array, self._backend.from_host(array)
        return self._constants[id(array)][1]

    def on_the_host(self) -> PlanEnv:
        """The same for a kernel in NumPy, to say what is wrong."""
        return PlanEnv(Backend("numpy"), self.comm, self._draws, self.initialized)


class Layout:
    """Memory for every tensor of a plan, and the kernels on it."""

    def __init__(
        self,
        nodes: Sequence[Operation],
        step: Step,
        variables: dict[str, Any],
        backend: Backend,
        env: PlanEnv,
    ) -> None:
        self.backend, self.env, self.variables, self.step = backend, env, variables, step
        self.nodes = nodes
        fed = sum(isinstance(node.kind, Feed) for node in nodes)
        self.code = backend.code(env, fed + len(step.fetches), step.bitwise)
        self._fed = sorted(
            n.kind.index for n in nodes if isinstance(n.kind, Feed) and not n.kind.dtype.is_string
        )
        self.arrays: dict[Tensor, Any] = {}
        self.packed: dict[Tensor, Any] = {}
        self.terms: dict[Operation, list[Any]] = {}  # what each bucket holds of this rank, where it wants it
        #: Of the beginning of a sum its AllReduce; and of that, how its end is waited for.
        self.begins = {
            c: n
            for n in nodes
            if isinstance(n.kind, AllReduce)
            for c in n.control_inputs
            if isinstance(c.kind, BeginAllReduce)
        }
        self.ends: dict[Operation, Kernel] = {}
        self._barriers: list[int] = []  # positions of writes after which the ranks of the node meet
        #: Of the memory of each tensor the nodes that read or write it, in the order they run.
        self.readers: dict[Tensor, dict[Operation, None]] = {}
        for node in nodes:
            for tensor in node.inputs:
                self.readers.setdefault(memory_of(tensor), {})[node] = None
        self.packed_bytes = 0
        self._own: list[Any] = []  # this rank's memory of all that lies side by side
        self.shared: list[Any] = []  # what of it the communicator gave
        shared = (n for n in nodes if isinstance(n.kind, _Update) and (n.kind.terms or n.kind.rows))
        written = {memory_of(n.inputs[k]).op.name for n in shared for k in n.kind.writes}
        if not all(env.comm.is_shared(variables[name]) for name in written):
            raise NoRoom
        for node in nodes:
            self._pack(node)
            self._gather(node)
        self.position = {n: i for i, n in enumerate(nodes)}
        #: How many sums, gathers or barriers come before each position.
        barriers = AllReduce | NodeBarrier | AllGather
        self.sums = [0, *accumulate(isinstance(node.kind, barriers) for node in nodes)]
        self.beside = self._beside()
        #: Of a node before which products beside others have to be done, the calls that wait for them.
        self.waits: dict[Operation, list[Kernel]] = {}
        self.last_use = self._last_uses()
        self.buffers: dict[Tensor, Buffer] = {}
        for node in nodes:
            self._reserve(node)
        unique = {id(b): b for b in self.buffers.values()}
        self.arena_bytes = pack(unique.values())
        self.arena = backend.block(self.arena_bytes)

    @property
    def unwritten(self) -> list[Any]:
        """Blocks of bytes that hold nothing when a step begins: what it reads of them it has written.

        In memory that ranks share it is what this rank alone writes.
        """
        return [self.arena, *self._own, *self.env.blocks]

    # -- who needs what, and how long ------------------------------------------------------------------
    def _last_uses(self) -> dict[Tensor, int]:
        """The last position at which the memory of each tensor is read; fetched ones stay to the end."""
        last: dict[Tensor, int] = {}
        for i, node in enumerate(self.nodes):
            for k, tensor in enumerate(node.inputs):
                if k not in node.kind.shape_only:
                    last[memory_of(tensor)] = i
        told = [n.inputs[k] for n in self.nodes for k in n.kind.tells] if self.step.device else []
        for tensor in (*self.step.fetches, *told):
            last[memory_of(tensor)] = len(self.nodes)
        for node, reader in self.beside.items():
            for memory in map(memory_of, node.inputs):
                last[memory] = max(last[memory], self.position[reader])
        return last

    def _beside(self) -> dict[Operation, Operation]:
        """On a device: products that nothing waits for at once, and before which node each must be done.

        That is the first that reads it, or writes what it reads. They are those of gradients of weights:
        while one is computed, the backward pass continues.
        """
        found: dict[Operation, Operation] = {}
        if not (self.step.device and self.step.native):
            return found
        kernels = [0, *accumulate(map(_has_kernels, self.nodes))]  # before each position
        for i, node in enumerate(self.nodes):
            if node.type != "MatMul" or node.outputs[0] not in self.packed:
                continue
            needs = [*self.readers.get(node.outputs[0], ())]
            for memory in {memory_of(t) for t in node.inputs}:
                needs += (
                    n
                    for n in self.readers[memory]
                    if any(memory_of(n.inputs[k]) is memory for k in n.kind.writes)
                )
            later = [j for n in needs if (j := self.position[n]) > i]
            if later and kernels[min(later)] > kernels[i + 1]:
                found[node] = self.nodes[min(later)]
        return found

    def _local(self, tensor: Tensor) -> tuple[int, ...]:
        comm = self.env.comm
        placement = self.step.placements[tensor]
        return local_shape(tensor.spec.shape, placement, comm.rank, comm.size)

    def _nbytes(self, tensor: Tensor) -> int:
        return int(np.prod(self._local(tensor), dtype=np.int64)) * tensor.dtype.numpy.itemsize

    def _made_here(self, tensor: Tensor) -> bool:
        """Whether a kernel of this plan writes the tensor, into memory that is ours to choose."""
        kind = tensor.op.kind
        if tensor.dtype.is_string:  # an array of objects cannot lie in a block of bytes
            return False
        return not (kind.is_view or kind.writes or isinstance(kind, VariableOp | Const | Feed | AllReduce))

    # -- gradients side by side ------------------------------------------------------------------------
    def _pack(self, node: Operation) -> None:
        """Lay a bucket, or an update's gradients, one after the other in memory of their own.

        The memory is not shared with other tensors, so that all of it can be walked over as one array. What
        is in the padding between them means nothing.
        """
        bucket = isinstance(node.kind, AllReduce | NodeBarrier)
        tensors = list(node.outputs) if bucket else [node.inputs[i] for i in node.kind.packs]
        if not bucket:
            tensors = [t for t in tensors if self._made_here(t) and t not in self.packed]
        if not tensors:
            return
        offsets = [3 * STAGGER]  # parameters and slots lie at 0, 1 and 2
        for tensor in tensors:
            offsets.append(offsets[-1] + self._room(tensor))
        self.packed_bytes += offsets[-1] - offsets[0]
        shared = self.env.comm.bucket(offsets[-1]) if bucket and self.backend.on_host else None
        if shared is None and isinstance(node.kind, NodeBarrier):
            self.env.comm.give_back(self.shared)
            raise NoRoom
        own, out = shared or [self.backend.block(offsets[-1])] * 2
        self._own.append(own)
        self.shared += [own] if shared else []
        if isinstance(node.kind, NodeBarrier):
            out = own
        self.packed.update((t, self._carve(out, at, t)) for t, at in zip(tensors, offsets, strict=False))
        if bucket:
            inputs = [self._carve(own, at, t) for t, at in zip(tensors, offsets, strict=False)]
            self.terms[node] = inputs
            for source, term in zip(node.inputs, inputs, strict=True):
                # summing in place is right only where nothing else reads this rank's own term
                alone = shared is not None or self._only_use(source, node)
                if self._made_here(source) and source not in self.packed and alone:
                    self.packed[source] = term

    def _gather(self, node: Operation) -> None:
        """Lay what is gathered where all ranks of the node reach it: each writes its part there."""
        comm, tensors = self.env.comm, list(node.outputs)
        if not (isinstance(node.kind, AllGather) and self.step.bitwise and comm.shares):
            return
        offsets = [0, *accumulate(aligned(size_of(t.spec.shape) * t.dtype.numpy.itemsize) for t in tensors)]
        block = None if any(t.dtype.is_string for t in tensors) else comm.shared(offsets[-1])
        if block is None:
            return
        self.shared.append(block)
        self.packed_bytes += offsets[-1]
        parts = []
        for source, out, axis, at in zip(node.inputs, tensors, node.kind.axes, offsets, strict=False):
            whole = self.packed[out] = self._carve(block, at, out)
            low, high = shard_bounds(whole.shape[axis], comm.rank, comm.size)
            part = whole[(slice(None),) * axis + (slice(low, high),)]
            parts.append(part)
            if part.flags.c_contiguous and self._made_here(source) and source not in self.packed:
                self.packed[source] = part
        self.terms[node] = parts

    def end(self) -> list[NativeCall]:
        """What comes after all kernels: a barrier, where others may still read what this rank writes."""
        gathered = [t for n in self.terms if isinstance(n.kind, AllGather) for t in n.outputs]
        read = [self.last_use.get(t, 0) for t in gathered]
        last = max(read, default=-1) + 1
        if last == 0 or self.sums[last] < self.sums[-1] or any(i >= last for i in self._barriers):
            return []
        return [self.code.meet()]

    def _only_use(self, tensor: Tensor, node: Operation) -> bool:
        """Whether node alone reads a tensor, but for the check and the beginning of its sum, before it."""
        uses = [
            n
            for n in self.readers.get(tensor, ())
            for t in n.inputs
            if memory_of(t) is tensor and not isinstance(n.kind, HasBad | BeginAllReduce)
        ]
        return len(uses) == 1 and tensor not in self.step.fetches

    def _room(self, tensor: Tensor) -> int:
        """Bytes for what any rank has of a tensor, so that all have theirs at the same place."""
        placement, size = self.step.placements[tensor], self.env.comm.size
        shapes = [local_shape(tensor.spec.shape, placement, rank, size) for rank in range(size)]
        return aligned(max(map(size_of, shapes)) * tensor.dtype.numpy.itemsize)

    def _carve(self, block: Any, offset: int, tensor: Tensor) -> Any:
        end = offset + self._nbytes(tensor)
        return block[offset:end].view(tensor.dtype.numpy).reshape(self._local(tensor))

    # -- the arena -------------------------------------------------------------------------------------
    def _reserve(self, node: Operation) -> None:
        """Give each output of a node a buffer, or that of an input that dies here and may be written over."""
        i = self.position[node]
        for tensor in node.outputs:
            if tensor in self.packed or tensor.dtype.is_string:
                continue
            if not (self._made_here(tensor) or isinstance(node.kind, Feed)):
                continue
            last = self.last_use.get(tensor, i)
            if self.step.device and self._nbytes(tensor) <= SMALL:
                last = len(self.nodes)  # kernels that share no memory can run side by side
            taken = self._take_over(node, tensor, i) if tensor.index == 0 else None
            if taken is not None:
                taken.last = last
                self.buffers[tensor] = taken
            else:
                # a feed is written before the first kernel runs
                first = 0 if isinstance(node.kind, Feed) else i
                self.buffers[tensor] = Buffer(self._nbytes(tensor), first, last)

    def _take_over(self, node: Operation, out: Tensor, i: int) -> Buffer | None:
        for k in node.kind.inplace:
            if k >= len(node.inputs):
                continue
            x = node.inputs[k]
            buffer = self.buffers.get(x)
            others = [memory_of(t) for j, t in enumerate(node.inputs) if j != k and t is not x]
            if (
                buffer is not None
                and self.last_use[x] == i
                and x.dtype == out.dtype
                and self._local(x) == self._local(out)
                and all(self.buffers.get(other) is not buffer for other in others)
            ):
                return buffer
        return None

    # -- kernels ---------------------------------------------------------------------------------------
    def bind(self, node: Operation) -> list[Kernel | NativeCall]:
        """Make the node's arrays and return the kernels that fill them."""
        kernels = self._bind(node)
        return [*self.waits.get(node, []), *kernels]

    def _bind(self, node: Operation) -> list[Kernel | NativeCall]:
        kind, arrays = node.kind, self.arrays
        if isinstance(kind, NoOp):
            return []
        if isinstance(kind, VariableOp):
            arrays[node.outputs[0]] = self.variables[node.name]
            return []
        if isinstance(kind, Const):
            arrays[node.outputs[0]] = self.env.constant(kind.value.array)
            return []
        if kind.is_view:
            return self._view(node)
        ins: list[Any] = [None if k in kind.shape_only else arrays.get(t) for k, t in enumerate(node.inputs)]
        for tensor in node.outputs:
            if kind.writes:
                arrays[tensor] = arrays[node.inputs[0]]
            elif tensor in self.packed:
                arrays[tensor] = self.packed[tensor]
            elif tensor.dtype.is_string:
                arrays[tensor] = np.empty(self._local(tensor), object)
            else:
                buffer = self.buffers[tensor]
                arrays[tensor] = self._carve(self.arena, buffer.offset, tensor)
        if isinstance(kind, Feed):
            if self.step.device and kind.index in self._fed:
                self.code.fed[self._fed.index(kind.index)] = arrays[node.outputs[0]]
            return []
        outs = [arrays[t] for t in node.outputs]
        kernels: list[Kernel | NativeCall] = []
        if node in self.ends:
            return [self.ends[node]]
        if isinstance(kind, AllReduce | BeginAllReduce | NodeBarrier) or node in self.terms:
            sum = self.begins.get(node, node)
            for k, term in enumerate(self.terms[sum]):
                if ins[k] is not term:
                    kernels += self._copy(ins[k], term)
                    ins[k] = term
            if node is not sum:
                beginning, self.ends[sum] = begun(self.env, ins, [self.packed[t] for t in sum.outputs])
                return [*kernels, beginning]
        else:
            for k in kind.packs:
                if self._must_be_copied(node.inputs[k]):
                    source, ins[k] = ins[k], self.env.xp.zeros(ins[k].shape, ins[k].dtype)
                    kernels += self._copy(source, ins[k])
        self.env.release()
        self.env.node, self.code.node = node.name, node
        native = self._native(node, ins, outs)
        meets = self._meets(node, ins)
        self._barriers += [] if meets is None else [self.position[node]]
        if native is None:
            kernel = kind.bind(self.env, ins, outs)
            if meets is not None:
                kernel = self.env.comm.shared_write(kernel, parts=kind.in_parts, before=meets)
            return [*kernels, kernel]
        if meets is not None:
            works = kind.in_parts or self.env.comm.local_rank == 0
            meet = self.code.meet()
            native = [*([meet] if meets else []), *(native if works else []), meet]
        return [*kernels, *native]

    def _native(self, node: Operation, ins: Sequence[Any], outs: Sequence[Any]) -> list[NativeCall] | None:
        """The node as calls into C; None where it has no such form."""
        if not self.step.native:
            return None
        if node in self.beside:
            product: Any = node.kind
            transposed = product.transpose_a, product.transpose_b
            made = self.code.product_beside(*ins, *outs, *transposed)
            if made is not None:
                begin, end = made
                self.waits.setdefault(self.beside[node], []).append(end)
                return [begin]
        specs = [t.spec for t in node.inputs]
        calls = node.kind.native(self.code, specs, ins, outs)
        copies = self.code.contiguous(ins) if calls is None else None
        if copies is not None:
            calls = in_order(copies[0], node.kind.native(self.code, specs, copies[1], outs))
        return calls if calls is None or isinstance(calls, list) else [calls]

    def explain(self, node: Operation) -> None:
        """Raise what a node's kernel in C stopped at, in the words of its other kernel."""
        ins, outs = ([self.backend.to_host(self.arrays[t]) for t in of] for of in (node.inputs, node.outputs))
        node.kind.bind(self.env.on_the_host(), ins, outs)()
        raise AssertionError(f"{node.name} stopped and does not in NumPy")

    def _meets(self, node: Operation, ins: Sequence[Any]) -> bool | None:
        """Whether a write to variables that ranks share must wait for readers; None if it is no such write.

        After it all ranks meet in any case.
        """
        comm, kind = self.env.comm, node.kind
        if not self.backend.on_host or not any(comm.is_shared(ins[k]) for k in kind.writes):
            return None
        written = {memory_of(node.inputs[k]) for k in kind.writes}
        i = self.position[node]
        earlier = (j for memory in written for n in self.readers[memory] if (j := self.position[n]) < i)
        last = max(earlier, default=-1)
        # a sum or barrier after the last reader is where all have met already
        return last < 0 or self.sums[last + 1] == self.sums[i]

    def _must_be_copied(self, tensor: Tensor) -> bool:
        """Whether an update cannot read a gradient in place: it is strided, or a variable (d ab/da is b)."""
        is_variable = isinstance(memory_of(tensor).op.kind, VariableOp)
        return is_variable or not self.arrays[tensor].flags.c_contiguous

    def _copy(self, source: Any, out: Any) -> list[Kernel | NativeCall]:
        calls = in_order(self.code.move(out, source)) if self.step.native else None
        return [partial(self.env.xp.copyto, out, source)] if calls is None else calls

    def _view(self, node: Operation) -> list[Kernel | NativeCall]:
        x, out = self.arrays[node.inputs[0]], node.outputs[0]
        view = node.kind.view(self.env, x, self._local(out))
        self.arrays[out] = view
        # where memory lies is enough: CuPy's shares_memory compares the addresses of all entries
        if view.size == 0 or self.env.xp.may_share_memory(view, x):
            return []
        # a reshape of a transposed array: no view of it exists, so its values are copied at every run
        flat = view.reshape(x.shape)
        return self._copy(x, flat)


def _has_kernels(node: Operation) -> bool:
    return not (node.kind.is_view or isinstance(node.kind, VariableOp | Const | Feed | NoOp))
