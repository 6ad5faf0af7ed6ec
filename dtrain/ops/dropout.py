"""Dropout: a random mask that is the same however many ranks share the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike, get_default_graph
from dtrain.graph.shape import Dims, as_dims, is_static, shape_text, size_of
from dtrain.ops.base import Array, Env, Kernel, Op, Placed, apply, convert_to_tensor, register
from dtrain.ops.late import Attributes, dims_of, late
from dtrain.ops.math import cast, multiply
from dtrain.ops.placement import REPLICATED, Placement, Sharded, shard_bounds
from dtrain.ops.random import stream_part


@register
class DropoutMask(Op):
    """1 / keep with probability keep, else 0. Inputs: what to drop from (its shape), and keep, a scalar.

    Entry k of the global mask takes the k-th of the run's random integers, so a rank that holds some rows
    draws just theirs, by setting the counter. keep counts in steps of 2**-16. With keep 1 nothing is drawn,
    so that a test between two training steps changes neither.
    """

    noise_shape: Dims
    seed: int
    stateful = True
    draws = True
    shape_only = (0,)
    tells = (1,)
    no_gradient = "it is random"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        x, keep = specs
        if not x.dtype.is_floating:
            raise GraphError(f"it is not defined on {x.dtype.name}; cast it")
        if keep.dtype != x.dtype or keep.shape not in ((), None):
            raise GraphError(f"what to keep is {keep}, not a {x.dtype.name} scalar")
        noise = None if self.noise_shape is None else dims_of(self.noise_shape)
        if noise is None or x.shape is None:
            return [Spec(x.shape if noise is None else noise, x.dtype)]
        if len(noise) != len(x.shape):
            raise GraphError(f"noise_shape {shape_text(noise)} has not the rank of {shape_text(x.shape)}")
        for n, d in zip(noise, x.shape, strict=True):
            if n not in (None, 1) and d is not None and n != d:
                raise GraphError(
                    f"noise_shape {shape_text(noise)} does not broadcast to {shape_text(x.shape)}"
                )
        return [Spec(tuple(d if n is None else n for n, d in zip(noise, x.shape, strict=True)), x.dtype)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        shape = node.outputs[0].spec.shape
        # the global shape, of which a kernel sees one rank's part
        return (
            None
            if shape == self.noise_shape
            else apply(type(self)(**vars(self) | {"noise_shape": shape}), *inputs, name=node.name)
        )

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        stream, xp, keep, out = env.random_stream(self.seed), env.xp, ins[1], outs[0]
        start = self._start(env.comm, out)
        kept = env.scratch(out.shape, np.dtype(bool))

        def kernel() -> None:
            share = float(keep)
            if not 0 < share <= 1:
                raise InvalidArgumentError(
                    f"dropout: {share} is no probability to keep: it is above 0, up to 1."
                )
            if share == 1:
                out.fill(1)
                return
            limit = max(1, round(share * 65536))
            # half as many bits do where the threshold is a whole number of 256ths
            kind, limit = (np.uint8, limit >> 8) if limit % 256 == 0 and limit < 65536 else (np.uint16, limit)
            numbers = stream_part(stream(), kind, start, out.size).reshape(out.shape)
            xp.less(xp.asarray(numbers), limit, kept)
            xp.multiply(kept, out.dtype.type(1 / share), out)

        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return code.dropout(self.seed, self._start(code.comm, outs[0]), ins[1], outs[0])

    def _start(self, comm: Any, out: Array) -> int:
        """The number, in the global mask, of this rank's first entry."""
        shape = self.noise_shape
        assert is_static(shape)
        if not shape or out.shape[0] == shape[0]:
            return 0
        return shard_bounds(shape[0], comm.rank, comm.size)[0] * size_of(shape[1:])

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        x, noise = node.inputs[0].spec.shape, node.outputs[0].spec.shape
        if placements[0] != Sharded(0) or not x or not noise:
            return None
        # rows of its own for each example, or the same for all
        return [placements[0], REPLICATED], Sharded(0) if noise[0] == x[0] else REPLICATED


def _noise_shape(shape: Any) -> tuple[Any, list[Tensor]]:
    """noise_shape as an attribute, and the tensors that sizes of it come from."""
    entries = [shape] if isinstance(shape, TensorLike) else list(shape or ())
    if not any(isinstance(entry, TensorLike) for entry in entries):
        return (None if shape is None else as_dims(shape)), []
    attributes = Attributes()
    return attributes.vector(shape, "noise_shape"), attributes.values


def dropout(
    x: Any,
    keep_prob: Any = None,
    noise_shape: Any = None,
    seed: int | None = None,
    name: str | None = None,
    rate: Any = None,
) -> Tensor:
    """Sets entries to 0 at random and divides the rest by keep_prob (Srivastava et al. 2014).

    The mask, new at every run, is that of the global batch: it does not depend on the number of ranks.

    Args:
        x: a floating tensor.
        keep_prob: the probability that an entry is kept, > 0 and <= 1: a number or a scalar tensor, such as a
            placeholder that is 1 in a test.
        noise_shape: shape of the mask, 1 where entries are dropped together; by default that of x. Sizes may
            be tensors that follow from shapes.
        seed: as for random_uniform.
        rate: 1 - keep_prob, instead of it.
        name: name of the operation.

    Returns:
        Tensor: of the shape and dtype of x.

    Raises:
        GraphError: neither or both of keep_prob and rate are given, or a number is out of range.
        InvalidArgumentError: while running, for a tensor that is out of range.
    """
    if (keep_prob is None) == (rate is None):
        raise GraphError("dropout: give keep_prob, or rate, which is 1 minus it.")
    x = convert_to_tensor(x)
    keep = 1 - rate if keep_prob is None else keep_prob
    if isinstance(keep, TensorLike):
        keep = cast(keep, x.dtype)
    elif not 0 < keep <= 1:
        raise GraphError(f"dropout: {keep} is no probability to keep: it is above 0, up to 1.")
    elif keep == 1:
        return x
    own = get_default_graph().op_seed() if seed is None else int(seed)
    noise, values = _noise_shape(noise_shape)
    mask = late(DropoutMask(noise, own), [x, convert_to_tensor(keep, x.dtype)], values)
    return multiply(x, mask, name=name or "dropout")
