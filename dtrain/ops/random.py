"""Random tensors. Each op draws from a stream of its own, keyed by the graph's seed and the op's.

The streams are NumPy's Philox, a counter-based generator: the numbers depend on (graph seed, op seed, how
often the op ran) alone, so they are the same on every rank and on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.dtypes import DType, as_dtype, float32
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike, get_default_graph
from dtrain.graph.shape import as_static
from dtrain.ops.base import Array, Env, Kernel, Op, Placed, apply, convert_to_tensor, register
from dtrain.ops.late import Later, as_known_dims, dims_of, late
from dtrain.ops.math import add, multiply
from dtrain.ops.placement import REPLICATED, Placement, Sharded, shard_bounds

#: Bytes of random bits that one step of Philox's counter makes.
BLOCK_BYTES = 32


def stream_part(generator: np.random.Generator, kind: Any, start: int, count: int) -> np.ndarray:
    """Entries start to start + count of a stream of random integers of a type."""
    per_block = BLOCK_BYTES // np.dtype(kind).itemsize
    skip = start % per_block
    bits: Any = generator.bit_generator
    bits.advance(start // per_block)
    words = bits.random_raw(-(-(skip + count) * np.dtype(kind).itemsize // 8))
    return words.view(kind)[skip : skip + count]


class _Random(Op):
    shape: tuple[int | Later, ...] | Later
    dtype: DType
    seed: int
    stateful = True
    draws = True
    no_gradient = "it has no inputs"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(dims_of(self.shape), self.dtype)]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape, which in a plan is known."""
        return as_static(dims_of(self.shape))

    def draw(self, generator: np.random.Generator, dtype: np.dtype) -> np.ndarray:
        """Numbers of self.shape; dtype is float32 or float64."""
        raise NotImplementedError

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        stream, xp = env.random_stream(self.seed), env.xp
        single = self.dtype.numpy.itemsize <= 4
        drawn = np.dtype(np.float32 if single else np.float64)

        def kernel() -> None:
            values = self.draw(stream(), drawn)
            xp.copyto(outs[0], xp.asarray(values), casting="unsafe")

        return kernel


@register
class RandomNormal(_Random):
    shape: tuple[int | Later, ...] | Later
    dtype: DType
    seed: int
    mean: float
    stddev: float

    def draw(self, generator: np.random.Generator, dtype: np.dtype) -> np.ndarray:
        return generator.standard_normal(self.sizes, dtype) * dtype.type(self.stddev) + dtype.type(self.mean)


@register
class TruncatedNormal(RandomNormal):
    """Normal, with values more than two standard deviations from the mean drawn again."""

    shape: tuple[int | Later, ...] | Later
    dtype: DType
    seed: int
    mean: float
    stddev: float

    def draw(self, generator: np.random.Generator, dtype: np.dtype) -> np.ndarray:
        values = generator.standard_normal(self.sizes, dtype)
        while (far := np.abs(values) > 2).any():
            values[far] = generator.standard_normal(int(far.sum()), dtype)
        return values * dtype.type(self.stddev) + dtype.type(self.mean)


@register
class RandomUniform(_Random):
    """Floats in [low, high)."""

    shape: tuple[int | Later, ...] | Later
    dtype: DType
    seed: int
    low: float
    high: float

    def draw(self, generator: np.random.Generator, dtype: np.dtype) -> np.ndarray:
        return generator.random(self.sizes, dtype) * dtype.type(self.high - self.low) + dtype.type(self.low)


@register
class RandomIntegers(_Random):
    """Integers in [low, high), which are its inputs, two scalars of its dtype."""

    shape: tuple[int | Later, ...] | Later
    dtype: DType
    seed: int
    tells = (0, 1)
    no_gradient = "its result is whole numbers"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        for spec in specs:
            if spec.shape not in ((), None):
                raise GraphError(f"a bound of whole numbers is one number, and {spec} is not")
        return super().infer(*specs)

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        stream, xp = env.random_stream(self.seed), env.xp

        def kernel() -> None:
            low, high = (int(bound) for bound in ins)
            if low >= high:
                raise InvalidArgumentError(
                    f"random_uniform: minval is {low}, which is not below maxval, {high}."
                )
            values = stream().integers(low, high, self.sizes)
            xp.copyto(outs[0], xp.asarray(values), casting="unsafe")

        return kernel


@register
class RandomShuffle(Op):
    """The rows of the input in a random order."""

    seed: int
    stateful = True
    draws = True
    no_gradient = "TensorFlow 1 has none for it; gather with shuffled indices instead"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        if specs[0].shape == ():
            raise GraphError("a scalar has no rows to shuffle")
        return [specs[0]]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        stream, xp, rows = env.random_stream(self.seed), env.xp, len(ins[0])
        mode = {"mode": "clip"} if env.on_host else {}  # see Gather

        def kernel() -> None:
            xp.take(ins[0], xp.asarray(stream().permutation(rows)), 0, outs[0], **mode)

        return kernel


@register
class RowUniform(Op):
    """So many floats in [0, 1) for each row of the first input where the second, a scalar, is not 0; else 0.

    Those of row k of the global batch lie together in the stream, so a rank draws just its rows'. With 0
    nothing is drawn, so that a test between two steps of training changes neither.
    """

    count: int
    seed: int
    rows: int | None = None
    stateful = True
    draws = True
    shape_only = (0,)
    no_gradient = "it is random"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        x, active = specs
        if x.shape == () or active.shape not in ((), None):
            raise GraphError(f"it takes rows and a scalar, not {x} and {active}")
        return [Spec(None if x.shape is None else (x.shape[0], self.count), float32)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        rows = (node.outputs[0].spec.shape or ())[0]  # of all ranks, of which a kernel sees its own
        if rows == self.rows:
            return None
        return apply(RowUniform(self.count, self.seed, rows), *inputs, name=node.name)

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        stream, xp, active, out = env.random_stream(self.seed), env.xp, ins[1], outs[0]
        first = 0 if len(out) == self.rows else shard_bounds(self.rows or 0, env.comm.rank, env.comm.size)[0]

        def kernel() -> None:
            if not float(active):
                out.fill(0)
                return
            bits = stream_part(stream(), np.uint32, first * self.count, out.size).reshape(out.shape)
            out[...] = xp.asarray((bits >> 8).astype(np.float32) * np.float32(2**-24))

        return kernel

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        return ([Sharded(0), REPLICATED], Sharded(0)) if placements[0] == Sharded(0) else None


def _seed(seed: int | None) -> int:
    """The seed of an op, which has one of its own or not."""
    return get_default_graph().op_seed() if seed is None else int(seed)


def _make(
    make: Callable[[Any, DType, int], Op],
    shape: Any,
    dtype: Any,
    seed: int | None,
    name: str,
    inputs: Sequence[Tensor] = (),
) -> Tensor:
    dims, values = as_known_dims(shape, name)
    return late(make(dims, as_dtype(dtype), _seed(seed)), inputs, values, name)


def _is_number(value: Any) -> bool:
    return not isinstance(value, TensorLike | list | tuple) and np.ndim(value) == 0


def _normal(
    kind: type[RandomNormal], shape: Any, mean: Any, stddev: Any, dtype: Any, seed: int | None, name: str
) -> Tensor:
    if not as_dtype(dtype).is_floating:
        raise GraphError(
            f"{name}: dtype is a floating type, and not {as_dtype(dtype).name}: cast the values."
        )
    if _is_number(mean) and _is_number(stddev):
        return _make(lambda s, d, n: kind(s, d, n, float(mean), float(stddev)), shape, dtype, seed, name)
    mean, stddev = (convert_to_tensor(value, dtype) for value in (mean, stddev))
    drawn = _make(lambda s, d, n: kind(s, d, n, 0.0, 1.0), shape, dtype, seed, f"{name}/standard")
    return add(multiply(drawn, stddev), mean, name=name)


def random_normal(
    shape: Any,
    mean: Any = 0.0,
    stddev: Any = 1.0,
    dtype: Any = float32,
    seed: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Normally distributed values, new at every run.

    Args:
        shape: ints, or a tensor that follows from shapes.
        mean: a number, or an array or tensor that broadcasts with shape, and has gradients.
        stddev: as mean.
        dtype: of the values, a floating type.
        seed: makes the values reproducible and different from those of other ops; see set_random_seed.
        name: name of the operation.

    Returns:
        Tensor: the same values on any number of ranks.

    Raises:
        GraphError: shapes do not agree, or dtype is none of floats.
    """
    return _normal(RandomNormal, shape, mean, stddev, dtype, seed, name or "random_normal")


def truncated_normal(
    shape: Any,
    mean: Any = 0.0,
    stddev: Any = 1.0,
    dtype: Any = float32,
    seed: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Normally distributed values within two standard deviations of the mean, new at every run.

    Args:
        shape: ints, or a tensor that follows from shapes.
        mean: a number, or an array or tensor that broadcasts with shape, and has gradients.
        stddev: as mean.
        dtype: of the values, a floating type.
        seed: as for random_normal.
        name: name of the operation.

    Returns:
        Tensor: the same values on any number of ranks.

    Raises:
        GraphError: shapes do not agree, or dtype is none of floats.
    """
    return _normal(TruncatedNormal, shape, mean, stddev, dtype, seed, name or "truncated_normal")


def random_uniform(
    shape: Any,
    minval: Any = 0,
    maxval: Any = None,
    dtype: Any = float32,
    seed: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Uniformly distributed values in [minval, maxval), new at every run.

    Args:
        shape: ints, or a tensor that follows from shapes.
        minval: a number, array or tensor; of floats it broadcasts with shape and has gradients, of integers
            it is a scalar.
        maxval: as minval; 1 by default for floats, required for integers.
        dtype: a floating type, int32 or int64.
        seed: as for random_normal.
        name: name of the operation.

    Returns:
        Tensor: the same values on any number of ranks.

    Raises:
        GraphError: maxval is missing for integers, or shapes do not agree.
        InvalidArgumentError: while running, for integers where minval >= maxval.
    """
    name = name or "random_uniform"
    if as_dtype(dtype).is_integer:
        if as_dtype(dtype).name not in ("int32", "int64"):
            raise GraphError(f"random_uniform: integers are int32 or int64, and not {as_dtype(dtype).name}.")
        if maxval is None:
            raise GraphError("random_uniform of an integer type needs maxval.")
        bounds = [convert_to_tensor(bound, dtype) for bound in (minval, maxval)]
        return _make(RandomIntegers, shape, dtype, seed, name, bounds)
    maxval = 1.0 if maxval is None else maxval
    if _is_number(minval) and _is_number(maxval):
        low, high = float(minval), float(maxval)
        return _make(lambda s, d, n: RandomUniform(s, d, n, low, high), shape, dtype, seed, name)
    below, above = (convert_to_tensor(bound, dtype) for bound in (minval, maxval))
    drawn = _make(lambda s, d, n: RandomUniform(s, d, n, 0.0, 1.0), shape, dtype, seed, f"{name}/unit")
    return add(multiply(drawn, above - below), below, name=name)


def random_shuffle(value: Any, seed: int | None = None, name: str | None = None) -> Tensor:
    """The rows of a tensor in a random order, new at every run.

    Args:
        value: a tensor or array; its axis 0 is shuffled.
        seed: as for random_normal.
        name: name of the operation.

    Returns:
        Tensor: of the shape and dtype of value.
    """
    return apply(RandomShuffle(_seed(seed)), value, name=name)
