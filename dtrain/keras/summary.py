"""The table that summary() prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dtrain.keras.calls import call_of

if TYPE_CHECKING:
    from dtrain.keras.layers import Layer
    from dtrain.keras.topology import Topology

#: Where the columns end, as shares of a line: of layers one after the other, and of a graph's.
COLUMNS = (0.45, 0.85, 1.0)
CONNECTED = (0.33, 0.55, 0.67, 1.0)


def lines(model: Topology, length: int | None, positions: Sequence[float] | None = None) -> Iterator[str]:
    """The lines of a model's table, this many characters long."""
    one_way = model.is_line
    length = length or (65 if one_way else 98)
    columns: tuple[float, ...] = COLUMNS if one_way else CONNECTED
    if positions:
        columns = tuple(p if p <= 1 else p / length for p in positions)
    before = {} if one_way else _before(model)
    yield f'Model: "{model.name}"'
    yield "_" * length
    yield _row(("Layer (type)", "Output Shape", "Param #", "Connected to"), columns, length)
    yield "=" * length
    for i, layer in enumerate(model.layers):
        shape = layer.output_shape or ()
        shape = str(shape if isinstance(shape, list) else tuple(shape))
        named, *more = before.get(layer, [""]) or [""]
        cells = (f"{layer.name} ({type(layer).__name__})", shape, str(layer.count_params()), named)
        yield _row(cells, columns, length)
        for name in more:
            yield _row(("", "", "", name), columns, length)
        yield ("=" if i == len(model.layers) - 1 else "_") * length
    trainable, rest = (
        sum(w.shape.num_elements() or 0 for w in weights)
        for weights in (model.trainable_weights, model.non_trainable_weights)
    )
    yield f"Total params: {trainable + rest:,}"
    yield f"Trainable params: {trainable:,}"
    yield f"Non-trainable params: {rest:,}"
    yield "_" * length


def _before(model: Topology) -> dict[Layer, list[str]]:
    """Of each layer, the layers that its inputs come from."""
    found: dict[Layer, list[str]] = {}
    for call in model.definition():
        names = [c.layer.name if (c := call_of(t)) is not None else t.op.name for t in call.inputs]
        found.setdefault(call.layer, []).extend(names)
    return found


def _row(cells: Sequence[str], columns: Sequence[float], length: int) -> str:
    line = ""
    for cell, end in zip(cells, columns, strict=False):
        line = (line + cell)[: int(length * end) - 1].ljust(int(length * end))
    return line
