"""The table that summary() prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dtrain.keras.models import Sequential

#: Where the columns end, as shares of a line.
COLUMNS = (0.45, 0.85, 1.0)


def lines(model: Sequential, length: int) -> Iterator[str]:
    """The lines of a model's table, this many characters long."""
    yield f'Model: "{model.name}"'
    yield "_" * length
    yield _row(("Layer (type)", "Output Shape", "Param #"), length)
    yield "=" * length
    for i, layer in enumerate(model.layers):
        shape = str(tuple(layer.output_shape or ()))
        yield _row((f"{layer.name} ({type(layer).__name__})", shape, str(layer.count_params())), length)
        yield ("=" if i == len(model.layers) - 1 else "_") * length
    trainable, rest = (
        sum(w.shape.num_elements() or 0 for w in weights)
        for weights in (model.trainable_weights, model.non_trainable_weights)
    )
    yield f"Total params: {trainable + rest:,}"
    yield f"Trainable params: {trainable:,}"
    yield f"Non-trainable params: {rest:,}"
    yield "_" * length


def _row(cells: Sequence[str], length: int) -> str:
    line = ""
    for cell, end in zip(cells, COLUMNS, strict=True):
        line = (line + cell)[: int(length * end) - 1].ljust(int(length * end))
    return line
