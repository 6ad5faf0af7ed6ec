"""Random choices of a case, and what the forms of programs have in common: layers, losses with labels, sizes.

A case has two streams. `structure` follows from the number modulo STRUCTURES, and all that makes another plan
comes from it: C is compiled once for a structure, sizes come with the call. `own` is the case's: sizes, data,
batches, kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

#: How many structures there are.
STRUCTURES = 300
WIDTHS = (2, 3, 5, 8, 10, 16, 17, 32, 33)
BATCHES = (1, 2, 3, 4, 5, 7, 8, 10, 16)

Shape = tuple[int, ...]


class Random:
    """Choices that follow from a key."""

    def __init__(self, *key: int) -> None:
        self._random = np.random.default_rng(key)

    def one(self, items: Sequence[Any]) -> Any:
        return items[int(self._random.integers(len(items)))]

    def chance(self, share: float) -> bool:
        return bool(self._random.random() < share)

    def some(self, items: Sequence[Any], most: int) -> list[Any]:
        count = int(self._random.integers(0, most + 1))
        return [items[i] for i in sorted(self._random.permutation(len(items))[:count])]

    def upto(self, low: int, high: int) -> int:
        return int(self._random.integers(low, high + 1))


class Draw:
    """What a case is drawn from.

    structure, own: see above; form: of its own, so that it is known first.
    examples, batch: how many there are, and how many a step takes.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._layer = 0
        self.form = Random(4, number % STRUCTURES)
        self.structure = Random(0, number % STRUCTURES)
        self.own = Random(1, number)
        self.batch = self.own.one(BATCHES)
        whole = self.own.upto(0, 3)
        left = self.own.one((0, 1, 1, 2, self.batch - 1))
        self.examples = max(1, whole * self.batch + left)

    def width(self) -> int:
        return 1 if self.own.chance(0.08) else self.own.one(WIDTHS)

    def for_layer(self) -> Random:
        """Structure of the next layer by itself: what sizes forbid in one leaves the next as it is."""
        self._layer += 1
        return Random(2, self.number % STRUCTURES, self._layer)


# -- layers ----------------------------------------------------------------------------------------------
SMOOTH = ("elu", "linear", "selu", "sigmoid", "softmax", "softplus", "softsign", "swish", "tanh")
ACTIVATIONS = (
    *(f'"{name}"' for name in (*SMOOTH, "hard_sigmoid", "relu")),
    "lambda t: activations.relu(t, alpha=0.1, max_value=2.0)",
    "lambda t: activations.elu(t, alpha=0.5)",
    "lambda t: activations.exponential(activations.tanh(t))",
)
REGULARIZERS = ("regularizers.l1(0.003)", "regularizers.l2(0.01)", "regularizers.l1_l2(0.002, 0.005)")


def _options(s: Random, layer: str) -> str:
    """Options that Dense and Conv2D have alike."""
    text = f", {s.one(ACTIVATIONS)}" if s.chance(0.7) else ""
    text = text if layer == "Dense" else text.replace(", ", ", activation=", 1)
    if s.chance(0.2):
        text += ", use_bias=False"
    elif s.chance(0.15):
        text += f", bias_regularizer={s.one(REGULARIZERS)}"
    return text + (f", kernel_regularizer={s.one(REGULARIZERS)}" if s.chance(0.25) else "")


def dense(draw: Draw, s: Random, shape: Shape) -> tuple[str, Shape]:
    units = draw.width()
    return f"layers.Dense({units}{_options(s, 'Dense')})", (*shape[:-1], units)


def batch_norm(draw: Draw, s: Random, shape: Shape) -> tuple[str, Shape]:
    options = [f"momentum={s.one((0.5, 0.9, 0.99))}", f"epsilon={s.one((1e-3, 1e-2))}"]
    options += ["center=False"] * s.chance(0.2) + ["scale=False"] * s.chance(0.2)
    options += ["gamma_regularizer=regularizers.l2(0.01)"] * s.chance(0.1)
    return f"layers.BatchNormalization({', '.join(options)})", shape


def dropout(draw: Draw, s: Random, shape: Shape) -> tuple[str, Shape]:
    rate = s.one((0.25, 0.3, 0.5, 0.1))
    noise = f", noise_shape={(None, *[1] * (len(shape) - 1), shape[-1])}" if s.chance(0.2) else ""
    return f"layers.Dropout({rate}{noise})", shape


def activation(draw: Draw, s: Random, shape: Shape) -> tuple[str, Shape]:
    return f"layers.Activation({s.one(ACTIVATIONS)})", shape


def conv(draw: Draw, s: Random, shape: Shape) -> tuple[str, Shape]:
    filters, same = draw.own.one((1, 2, 3, 5, 8)), s.chance(0.5)
    kernel = tuple(draw.own.upto(1, min(3, n)) for n in shape[:2])
    stride = draw.own.one((1, 1, 2)) if same or min(shape[:2]) > 2 else 1
    text = f"layers.Conv2D({filters}, {kernel}, strides={stride}, padding={'same' if same else 'valid'!r}"
    text += ", dilation_rate=2" * (same and stride == 1 and draw.own.chance(0.2))
    sides = [-(-n // stride) if same else (n - k) // stride + 1 for n, k in zip(shape, kernel, strict=False)]
    return text + f"{_options(s, 'Conv2D')})", (*sides, filters)


def pool(draw: Draw, s: Random, shape: Shape) -> tuple[str, Shape]:
    name, same = s.one(("MaxPooling2D", "AveragePooling2D")), s.chance(0.5)
    window, stride = tuple(draw.own.upto(1, min(3, n)) for n in shape[:2]), draw.own.one((1, 2, 2))
    text = f"layers.{name}({window}, strides={stride}, padding={'same' if same else 'valid'!r})"
    sides = [-(-n // stride) if same else (n - k) // stride + 1 for n, k in zip(shape, window, strict=False)]
    return text, (*sides, shape[-1])


def flatten(draw: Draw, s: Random, shape: Shape) -> tuple[str, Shape]:
    if s.chance(0.3) and len(shape) == 3:
        return "layers.GlobalAveragePooling2D()", shape[-1:]
    return ("layers.Reshape((-1,))" if s.chance(0.2) else "layers.Flatten()"), (prod(shape),)


def reshape(draw: Draw, s: Random, shape: Shape) -> tuple[str, Shape]:
    n = prod(shape)
    first = next(k for k in (3, 2, 1) if n % k == 0)
    target = (first, -1) if s.chance(0.5) else (first, n // first, 1)
    return f"layers.Reshape({target})", (first, n // first) if len(target) == 2 else target


def stack(draw: Draw, shape: Shape, least: int = 0) -> tuple[list[str], Shape]:
    """Layers in words, on examples of a shape, and the shape of what comes out."""
    found = []
    for _ in range(draw.structure.upto(least, 4)):
        s = draw.for_layer()
        kinds = [dense, dense, batch_norm, dropout, activation]
        if len(shape) == 3:
            kinds = [conv, conv, pool, pool, batch_norm, dropout, activation, flatten]
        elif s.chance(0.12):
            kinds = [reshape]
        text, shape = s.one(kinds)(draw, s, shape)
        found.append(text)
    return found, shape


def input_shape(draw: Draw) -> Shape:
    """Of an example: mostly features, sometimes images."""
    if draw.structure.chance(0.3):
        return (draw.own.upto(2, 6), draw.own.upto(2, 6), draw.own.one((1, 2, 3)))
    return (draw.own.one((1, 2, 3, 5, 6, 8, 16, 33)),)


# -- data ------------------------------------------------------------------------------------------------
def inputs(draw: Draw, n: int, shape: Shape) -> str:
    """An expression for n examples."""
    size = ", ".join(map(str, (n, *shape)))
    kind = draw.structure.one(("f4", "f4", "f4", "f8", "u1", "i4"))
    if kind in ("u1", "i4"):
        return f'r.integers(0, 4, ({size})).astype("{kind}")'
    return f"normal(r, {size})" + '.astype("f8")' * (kind == "f8")


def labels(kind: str, n: int, k: int, sequence: Shape = (), dtype: str = "f4") -> str:
    """An expression for n labels of a kind."""
    size = ", ".join(map(str, (n, *sequence, k)))
    rows = f"({', '.join(map(str, (n, *sequence)))},)"
    return {
        "classes": f'r.integers(0, {k}, {rows}).astype("i4")',
        "rows": f'np.eye({k}, dtype="{dtype}")[r.integers(0, {k}, {rows})]',
        "bits": f'r.integers(0, 2, ({size})).astype("{dtype}")',
        "shares": f'r.dirichlet(np.ones({k}), {rows}).astype("f4")',
        "numbers": f'normal(r, {size}, dtype="{dtype}")',
    }[kind]
