"""A process in which each kernel makes a rounding more: how far one is carried, whatever a sum's order.

Numbers that have moved before a step still cancel exactly where a program takes the same twice, as in the
gradient of |y - h| summed over two rows; with other kernels a rounding is left of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.graph.graph import Operation
from dtrain.ops.base import Const, Feed
from dtrain.ops.state import VariableOp
from dtrain.runtime.layout import Layout


def install(seed: int) -> None:
    """Each entry that a kernel makes moves to a neighbour or stays; variables are left.

    So are whole numbers, such as counts and a probability of 1: they are whole in any order.
    """
    generator = np.random.default_rng(seed)

    def move(array: np.ndarray) -> None:
        towards = generator.choice(np.array([-np.inf, 0, np.inf], array.dtype), array.shape)
        moves = (towards != 0) & (array != np.rint(array))
        array[...] = np.where(moves, np.nextafter(array, towards), array)

    bind = Layout.bind

    def noisy(self: Layout, node: Operation) -> Sequence[Any]:
        made = list(bind(self, node))
        kind = node.kind
        if made and not (kind.is_view or kind.writes or isinstance(kind, Feed | Const | VariableOp)):
            for array in (self.arrays[t] for t in node.outputs if t.dtype.is_floating):
                made.append(lambda array=array: move(array))
        return made

    Layout.bind = noisy  # type: ignore[method-assign, assignment]
