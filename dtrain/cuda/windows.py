"""Convolution and pooling as calls of the kernels in windows.cu, and of cuBLAS.

A convolution is a product of the windows, written out as the rows of a matrix, and the filter. Examples are
worked on in pieces, so that the matrix stays small and 32 bits count its entries. What flows back to the
images is gathered, by a thread for each of their entries, so nothing is added up in an order that changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dtrain.native.loops import TYPES

#: Bytes of the rows that windows are written out as, at once.
ROWS_BYTES = 256 << 20
#: Entries that 32 bits count, and values in a row that the threads of one kernel are enough for.
COUNTABLE, LONGEST_ROW = 1 << 31, 1 << 19


class Windows:
    """Windows over images [n, height, width, channels] of one floating dtype.

    images: their shape; down, across: how windows lie along height and width (see ops/window.py's Axis).
    """

    def __init__(self, code: Any, images: tuple[int, ...], type: str, down: Any, across: Any) -> None:
        self._code, self._type = code, type
        self._n, self._sizes, self._channels = images[0], images[1:3], images[3]
        self._results, self._entries = down.count * across.count, down.size * across.size
        self._layout: tuple[int, ...] = (down.count, across.count)
        for name in ("size", "stride", "dilation", "before"):
            self._layout += (getattr(down, name), getattr(across, name))
        itself = (1, 1, 1, 1, 1, 1, 0, 0)  # sizes, strides, dilations, padding
        self._as_they_are = self._layout[2:] == itself
        #: Whether kernels can count the entries of an example.
        self.countable = self._most() < COUNTABLE and self._depth <= LONGEST_ROW

    @property
    def _depth(self) -> int:
        """Values in a window."""
        return self._entries * self._channels

    def _most(self) -> int:
        """Entries of one example in its image or in its windows, whichever is more."""
        return max(self._sizes[0] * self._sizes[1] * self._channels, self._results * self._depth, 1)

    def _pieces(self, most: int) -> Iterator[slice]:
        """The examples, as many at once as have less than so many entries."""
        step = max(1, most // self._most())
        for low in range(0, self._n, step):
            yield slice(low, min(low + step, self._n))

    def _launch(
        self,
        symbol: str,
        entries: int,
        first: Any,
        count: int,
        *rest: Any,
        wide: bool = False,
        more: Sequence[str] = (),
    ) -> Any:
        """wide: four channels at once; more: types besides the images'."""
        channels, entries, type = self._channels, entries, self._type
        if wide:
            channels, entries, type = channels // 4, entries // 4, "float4"
        words = (first, *self._sizes, channels, *self._layout, count, *rest)
        return self._code.launch(f"{symbol}<{', '.join([type, *more])}>", entries, *words)

    def _wide(self, array: Any) -> bool:
        return self._type == "float" and self._channels % 4 == 0 and array.data.ptr % 16 == 0

    # -- convolution -----------------------------------------------------------------------------------
    def convolve(self, x: Any, f: Any, y: Any) -> list[Any] | None:
        """y [n, rows, columns, out] of the images and the filter [height, width, channels, out]."""
        matrix, calls = f.reshape(self._depth, f.shape[3]), []
        for examples, rows, write in self._rows(x):
            out = y[examples].reshape(len(rows), f.shape[3])
            calls += [*write, self._code.product(rows, matrix, out, False, False)]
        return _whole(calls)

    def to_filter(self, x: Any, dy: Any, df: Any) -> list[Any] | None:
        """df, the gradient to the filter, of the images and the gradient to the results."""
        total, calls = df.reshape(self._depth, df.shape[3]), []
        for examples, rows, write in self._rows(x):
            flow = dy[examples].reshape(len(rows), df.shape[3])
            calls += [*write, self._code.product(rows, flow, total, True, False, add=bool(examples.start))]
        return _whole(calls) if calls else self._code.move(df, 0)

    def to_images(self, dy: Any, f: Any, dx: Any) -> list[Any] | None:
        """dx, the gradient to the images, of the gradient to the results and the filter."""
        matrix, calls = f.reshape(self._depth, f.shape[3]), []
        for examples, rows, _ in self._rows(dx):
            flow = dy[examples].reshape(len(rows), f.shape[3])
            calls.append(self._code.product(flow, matrix, rows, False, True))
            if not self._as_they_are:
                to, count = dx[examples], examples.stop - examples.start
                calls += self._launch("add_rows", to.size, rows, count, to, wide=self._wide(dx))
        return _whole(calls)

    def _rows(self, images: Any) -> Iterator[tuple[slice, Any, list[Any]]]:
        """Piece by piece its examples, the matrix of their windows, and the calls that write it.

        The pieces share the matrix's memory. Windows of one entry that lie close are the images themselves.
        """
        if not (self._n and self._results):
            return
        if self._as_they_are:
            yield slice(0, self._n), images.reshape(-1, self._channels), []
            return
        pieces = list(self._pieces(min(ROWS_BYTES // images.itemsize, COUNTABLE - 1)))
        memory = self._code.scratch((pieces[0].stop * self._results, self._depth), images.dtype)
        wide = self._wide(images)
        for examples in pieces:
            count = examples.stop - examples.start
            rows = memory[: count * self._results]
            yield (
                examples,
                rows,
                self._launch("window_rows", rows.size, images[examples], count, rows, wide=wide),
            )

    # -- pooling ---------------------------------------------------------------------------------------
    def pool(self, symbol: str, x: Any, out: Any, positions: Any = None) -> list[Any]:
        """The kernel of this name, which makes out of x; positions: in the windows, read or written too."""
        arrays, more = [x, out], []
        if positions is not None:
            arrays, more = [x, positions, out], [TYPES[positions.dtype.name]]
        calls = []
        for part in self._pieces(COUNTABLE - 1):
            first, *rest = (a[part] for a in arrays)
            count = part.stop - part.start
            calls += self._launch(symbol, out[part].size, first, count, *rest, more=more)
        return calls


def _whole(calls: list[Any]) -> list[Any] | None:
    """None where one of the calls cannot be made: cuBLAS has no products of the dtype."""
    return None if None in calls else calls
