"""Windows that slide over images: what convolution and pooling share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from numbers import Integral
from operator import itemgetter
from typing import Any, NamedTuple

from dtrain.errors import GraphError
from dtrain.graph.shape import Dims, shape_text
from dtrain.ops.base import Array, Env, Kernel

#: Bytes of a column matrix, or of a stack of images, worked on at once: half of a common L2 cache.
PIECE_BYTES = 1 << 20
#: Values in a row below which copying windows whole is slower than copying one value of each at a time.
SHORT_ROW = 24


class Axis(NamedTuple):
    """How windows lie along one axis: their number, size, distance and spread, and the padding around."""

    count: int  # type: ignore[assignment]  # hides the tuple's own count
    size: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def padded(self) -> bool:
        return bool(self.before or self.after)

    def under(self, k: int) -> slice:
        """The padded positions that lie under entry k of the windows."""
        start = k * self.dilation
        return slice(start, start + (self.count - 1) * self.stride + 1, self.stride)

    def turned(self, entries: int) -> Axis:
        """The windows of the results around each of `entries` inputs; for stride 1."""
        reach = (self.size - 1) * self.dilation
        before = reach - self.before
        return Axis(entries, self.size, 1, self.dilation, before, entries + reach - self.count - before)


def window_count(n: int | None, size: int | None, stride: int, dilation: int, padding: str) -> int | None:
    """How many windows fit along an axis of n entries; None where it is not known.

    Raises:
        GraphError: not even one does.
    """
    if n is None or (size is None and padding == "VALID"):
        return None
    if padding == "SAME":
        return -(-n // stride)
    reach = ((size or 1) - 1) * dilation + 1
    if n < reach:
        raise GraphError(f"a window over {reach} entries does not fit into {n}; pad with SAME")
    return (n - reach) // stride + 1


def place_windows(n: int, size: int, stride: int, dilation: int, padding: str) -> Axis:
    """The windows along an axis of n entries; SAME pads both ends equally, the end by the odd one."""
    count = window_count(n, size, stride, dilation, padding)
    assert count is not None
    reach = (size - 1) * dilation + 1
    missing = max((count - 1) * stride + reach - n, 0) if padding == "SAME" else 0
    return Axis(count, size, stride, dilation, missing // 2, missing - missing // 2)


def two(value: Any, what: str, data_format: str | None = "NHWC") -> tuple[int, int]:
    """(height, width) of TensorFlow 1's [1, height, width, 1]; of one or two ints, too.

    Raises:
        GraphError: another length, a size below 1, or one above 1 along examples or channels.
    """
    if data_format not in (None, "NHWC"):
        raise GraphError(f"{what}: data_format {data_format!r} is none of NHWC and NCHW.")
    sizes = [int(value)] if isinstance(value, Integral) else [int(v) for v in value]
    if len(sizes) == 4:
        if (sizes[0], sizes[3]) != (1, 1):
            raise GraphError(f"{what} {sizes}: windows move over height and width only, so both ends are 1")
        sizes = sizes[1:3]
    if len(sizes) not in (1, 2) or min(sizes) < 1:
        raise GraphError(f"{what} {sizes}: give [1, height, width, 1], each at least 1")
    return sizes[0], sizes[-1]


def channels_last(sizes: Any) -> Any:
    """TensorFlow 1's [1, 1, height, width] of NCHW as [1, height, width, 1]; others stay."""
    if isinstance(sizes, Integral) or len(sizes) != 4:
        return sizes
    return [sizes[0], sizes[2], sizes[3], sizes[1]]


def padding_of(padding: Any) -> str:
    """SAME or VALID, in capitals."""
    if str(padding).upper() not in ("SAME", "VALID"):
        raise GraphError(f"padding {padding!r}: give 'SAME' or 'VALID'")
    return str(padding).upper()


def images(shape: Dims, what: str) -> tuple[int | None, ...]:
    """The four sizes of a stack of images; raises GraphError for another rank."""
    if shape is None:
        return (None,) * 4
    if len(shape) != 4:
        raise GraphError(f"{what} {shape_text(shape)} has not the rank 4")
    return shape


def stacks(n: int, nbytes: int) -> Iterator[slice]:
    """The slices in which n images of nbytes each are worked on, so that a stack stays in the cache."""
    step = max(1, PIECE_BYTES // max(nbytes, 1))
    for low in range(0, n, step):
        yield slice(low, min(low + step, n))


def contiguous(env: Env, array: Array, calls: list[Kernel]) -> Array:
    """The array, or a copy in row-major order that `calls` refreshes at every run."""
    if array.flags.c_contiguous:
        return array
    copy = env.xp.empty(array.shape, array.dtype)
    calls.append(partial(env.xp.copyto, copy, array))
    return copy


class Padded:
    """Stacks of images with a border, in memory of their own, whose border is written only once."""

    def __init__(self, env: Env, like: Array, stack: int, rows: Axis, columns: Axis, border: float) -> None:
        _, height, width, channels = like.shape
        shape = (
            stack,
            rows.before + height + rows.after,
            columns.before + width + columns.after,
            channels,
        )
        self.array = env.xp.full(shape, border, like.dtype)
        self.inside = self.array[
            :, rows.before : rows.before + height, columns.before : columns.before + width
        ]


class Piece(NamedTuple):
    """Part of a column matrix: the calls that fill it, and the results that its rows belong to."""

    calls: list[Kernel]
    matrix: Array
    examples: slice
    rows: slice


def in_numpy(env: Env) -> Callable[[Array, Array], list[Kernel]]:
    """copy(out, x): the calls of NumPy or CuPy that copy x to out."""
    return lambda out, x: [partial(env.xp.copyto, out, x)]


def columns_of(
    env: Env,
    x: Array,
    down: Axis,
    across: Axis,
    copy: Callable[[Array, Array], list[Any]] | None = None,
) -> list[Piece]:
    """The windows of x as the rows of matrices [windows, window height * width * channels], piece by piece.

    All pieces share scratch memory, so each is to be used before the next is filled. The rows of a piece are
    the windows of some examples, or of some rows of one example where even those are many.
    copy: gives the calls that copy an array, by default NumPy's.
    """
    copy = copy or in_numpy(env)
    n, height, width, channels = x.shape
    depth = down.size * across.size * channels
    if depth == channels and (down.stride, across.stride) == (1, 1) and x.flags.c_contiguous:
        every = slice(0, n), slice(0, height)
        return [Piece([], x.reshape(n * height * width, channels), *every)] if n else []
    row_bytes = across.count * depth * x.dtype.itemsize
    stack = max(1, min(n, PIECE_BYTES // max(down.count * row_bytes, 1)))
    chunk = max(1, down.count if stack > 1 else min(down.count, PIECE_BYTES // max(row_bytes, 1)))
    padded = Padded(env, x, stack, down, across, 0) if down.padded or across.padded else None
    memory = env.scratch((stack * chunk * across.count * depth,), x.dtype)
    pieces = []
    calls: list[Kernel]
    for low in range(0, n, stack):
        examples = slice(low, min(low + stack, n))
        source, calls = x[examples], []
        if padded is not None:
            source = padded.array[: examples.stop - low]
            calls = copy(padded.inside[: examples.stop - low], x[examples])
        for top in range(0, down.count, chunk):
            rows = slice(top, min(top + chunk, down.count))
            windows = _windows(env, source[:, top * down.stride :], rows.stop - top, down, across)
            count = (examples.stop - low) * (rows.stop - top) * across.count
            part = memory[: count * depth]
            if across.size * channels < SHORT_ROW:  # each entry of the windows in a row of its own
                windows = windows.transpose(3, 4, 5, 0, 1, 2)
                matrix = part.reshape(depth, count).T
            else:
                matrix = part.reshape(count, depth)
            calls = [*calls, *copy(part.reshape(windows.shape), windows)]
            pieces.append(Piece(calls, matrix, examples, rows))
            calls = []
    return pieces


def _windows(env: Env, x: Array, count: int, down: Axis, across: Axis) -> Array:
    """x seen as [examples, rows, columns, window height, window width, channels]."""
    by_example, by_row, by_column, by_channel = x.strides
    return env.xp.lib.stride_tricks.as_strided(
        x,
        (x.shape[0], count, across.count, down.size, across.size, x.shape[3]),
        (
            by_example,
            by_row * down.stride,
            by_column * across.stride,
            by_row * down.dilation,
            by_column * across.dilation,
            by_channel,
        ),
    )


def each_entry(down: Axis, across: Axis) -> Iterator[tuple[int, int, Callable[[Array], Array]]]:
    """(i, j, view) of each entry of the windows: view(padded) is what lies under it, window by window."""
    for i in range(down.size):
        for j in range(across.size):
            at = (slice(None), down.under(i), across.under(j))
            yield i, j, itemgetter(at)
