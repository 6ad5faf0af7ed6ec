"""A model drawn as SVG: a box for each layer, its inputs above it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from dtrain.keras.calls import call_of

if TYPE_CHECKING:
    from dtrain.keras.layers import Layer
    from dtrain.keras.model import Model

WIDTH, HEIGHT, GAP = 260, 44, 30


def drawing(model: Model, shapes: bool, names: bool) -> str:
    """The text of the file."""
    model.build()
    inputs = [call.layer for t in model.inputs if (call := call_of(t)) is not None]
    row: dict[Layer, int] = dict.fromkeys(inputs, 0)
    lines: list[tuple[Layer, Layer]] = []
    for call in model.definition():
        before = [c.layer for t in call.inputs if (c := call_of(t)) is not None and c.layer in row]
        row[call.layer] = max(row.get(call.layer, 0), *(row[b] + 1 for b in before), 0)
        lines += [(b, call.layer) for b in before]
    place: dict[Layer, tuple[int, int]] = {}
    beside: dict[int, int] = {}
    for layer, at in row.items():
        column = beside[at] = beside.get(at, -1) + 1
        place[layer] = GAP + column * (WIDTH + GAP), GAP + at * (HEIGHT + GAP)
    wide = max((x for x, _ in place.values()), default=0) + WIDTH + GAP
    high = max((y for _, y in place.values()), default=0) + HEIGHT + GAP
    found = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" '
        'font-family="sans-serif" font-size="13" text-anchor="middle">'
    ]
    for a, b in lines:
        (x, y), (u, v) = place[a], place[b]
        ends = f'x1="{x + WIDTH // 2}" y1="{y + HEIGHT}" x2="{u + WIDTH // 2}" y2="{v}"'
        found.append(f'<line {ends} stroke="black"/>')
    for layer, (x, y) in place.items():
        text = f"{layer.name}: {type(layer).__name__}" if names else type(layer).__name__
        found.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" fill="white" stroke="black"/>'
            f'<text x="{x + WIDTH // 2}" y="{y + 18}">{escape(text)}</text>'
        )
        if shapes:
            found.append(f'<text x="{x + WIDTH // 2}" y="{y + 36}">{escape(str(layer.output_shape))}</text>')
    return "\n".join([*found, "</svg>", ""])
