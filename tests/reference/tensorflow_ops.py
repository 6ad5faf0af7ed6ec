"""What TensorFlow answers for every op that dtrain has, edges included: the cases, and what writes the values.

    python tests/reference/tensorflow_ops.py

needs TensorFlow 2, NumPy and nothing of dtrain; it writes tensorflow_ops.json beside itself. The tests build the
same cases with dtrain (tests/unit/test_reference_ops.py, tests/mpi/test_reference_ops.py). A case is a line of
Python over `tf` and its inputs, which are fed; where an output is floating it has gradients to the floating inputs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

VALUES = Path(__file__).with_suffix(".json")

#: Label of a case that has to have a graph of its own, for the sake of its collections.
ALONE = "alone"
#: Label of a case where what flows back is infinite or NaN at some entries.
INFINITE = "infinite flow"
INF, NAN = float("inf"), float("nan")
FLOATS = ("float32", "float64", "float16")
WIDE = ("float32", "float64")
INTS = ("int32", "int64", "int16", "int8", "uint8")
NUMBERS = (*FLOATS, *INTS)


class Case(NamedTuple):
    """text: what is computed, a Python expression of `tf` and the inputs. inputs: arrays by name."""

    text: str
    inputs: dict[str, np.ndarray]
    label: str = ""

    @property
    def key(self) -> str:
        given = (f"{name}={a.dtype.name}{list(a.shape)}" for name, a in self.inputs.items())
        return f"{self.text} | {' '.join(given)} {self.label}".replace(", ", ",").rstrip(" |")

    def fed(self, tf: Any) -> dict[Any, np.ndarray]:
        """Placeholders for the inputs, in their order, and what they are fed."""
        return {tf.placeholder(a.dtype.name, a.shape): a for a in self.inputs.values()}

    def build(self, tf: Any, feeds: dict[Any, np.ndarray]) -> tuple[list[Any], list[Any]]:
        """The outputs, in order; and gradients of all floating outputs, with other weights each, to the inputs."""
        names = {"tf": tf, "np": np} | dict(zip(self.inputs, feeds, strict=True))
        outs = flat(eval(self.text, names))
        ys = [y for y in outs if hasattr(y, "dtype") and as_dtype(y) in FLOATS]
        xs = [x for x, a in feeds.items() if a.dtype.name in FLOATS]
        if not ys or not xs:
            return outs, []
        flow = [weights(y, self.label == INFINITE) for y in ys]
        return outs, list(tf.gradients(ys, xs, flow))


def as_dtype(tensor: Any) -> str:
    return tensor.dtype.name.removesuffix("_ref")


def weights(y: Any, infinite: bool) -> np.ndarray:
    """What flows into y: 1, 1.5, 2, 1, 1.5, ...; or infinities and NaN among other numbers."""
    shape = [int(d) for d in y.shape]
    flow = [1, INF, -INF, NAN, -2] if infinite else [1, 1.5, 2]
    return np.resize(np.array(flow, as_dtype(y)), shape)


def flat(value: Any) -> list[Any]:
    """Tensors of nested lists and tuples, in order; None stays."""
    if isinstance(value, list | tuple):
        return [v for part in value for v in flat(part)]
    return [value]


# -- inputs ----------------------------------------------------------------------------------------------
def edges(dtype: str) -> np.ndarray:
    """Every kind of number that a dtype has; what is below its normal numbers TensorFlow counts as 0."""
    if dtype == "bool":
        return np.array([True, False])
    if dtype in FLOATS:
        large = [1e4, -1e4] if dtype == "float16" else [1e4, 1e30, -1e30, 3e38, -3e38, 1e-30]
        small = [
            0.0,
            -0.0,
            1e-3,
            -1e-3,
            0.3,
            -0.3,
            0.5,
            -0.5,
            1,
            -1,
            1.5,
            -1.5,
            2.5,
            -2.5,
            3,
            -7,
            20,
            -20,
            90,
            -90,
        ]
        return np.array([*small, *large, INF, -INF, NAN], dtype)
    info = np.iinfo(dtype)
    return np.array([0, 1, 2, 3, 7, 100, info.max, *([] if info.min == 0 else [-1, -2, -7, info.min])], dtype)


def pairs(dtype: str) -> dict[str, np.ndarray]:
    """x and y: every pair of some numbers."""
    if dtype == "bool":
        some = np.array([True, False])
    elif dtype in FLOATS:
        more = [0.5, -1, 3, -7] if dtype == "float32" else []
        some = np.array([0.0, -0.0, 1, -2.5, *more, INF, -INF, NAN], dtype)
    else:
        info = np.iinfo(dtype)
        some = np.array([0, 1, 2, 5, 7, info.max, *([] if info.min == 0 else [-1, -3, -7, info.min])], dtype)
    return {"x": np.repeat(some, len(some)), "y": np.tile(some, len(some))}


def some(*shape: int, dtype: str = "float32", low: float = -2, high: float = 2) -> np.ndarray:
    """Numbers without an order, the same for the same arguments; integers are small."""
    generator = np.random.default_rng([*shape, 7])
    if dtype in FLOATS:
        return np.round(generator.uniform(low, high, shape), 3).astype(dtype)
    if dtype == "bool":
        return generator.uniform(size=shape) < 0.5
    return generator.integers(0 if dtype == "uint8" else -5, 6, shape).astype(dtype)


def shares(*shape: int, axis: int = -1, dtype: str = "float32") -> np.ndarray:
    """Quarters that add up to 1 along an axis."""
    first = np.take(some(*shape), 0, axis) > 0
    where = np.stack([first, ~first, *[np.zeros_like(first)] * (shape[axis] - 2)][: shape[axis]], axis)
    return (
        np.where(where, 0.75, 0.25 / max(shape[axis] - 1, 1)).astype(dtype)
        if shape[axis] > 1
        else np.ones(shape, dtype)
    )


def array(values: Any, dtype: str = "float32") -> np.ndarray:
    return np.array(values, dtype)


#: Entries that tie, and that are no numbers, in rows of 4.
ROWS = array([
    [1, 3, 3, 2], [NAN, 1, 2, 3], [1, NAN, 3, NAN], [INF, 1, INF, 0], [-INF, -INF, -INF, -INF], [0, -0.0, 0, -1],
    [5, 5, 5, 5], [NAN, NAN, NAN, NAN], [-INF, 1, NAN, INF], [2, 1, 0, -1],
])  # fmt: skip


# -- cases -----------------------------------------------------------------------------------------------
def cases() -> Iterator[Case]:
    """Every case, once."""
    yield from _elementwise()
    yield from _reductions()
    yield from _moves()
    yield from _made()
    yield from _network()
    yield from _losses()
    yield from _training()
    yield from _words()


def _unary(names: str, dtypes: tuple[str, ...]) -> Iterator[Case]:
    for name in names.split():
        for dtype in dtypes:
            yield Case(f"tf.{name}(x)", {"x": edges(dtype)})


def _elementwise() -> Iterator[Case]:
    yield from _unary("abs negative sign square", NUMBERS)
    yield from _unary(
        "exp log sqrt rsqrt reciprocal tanh sigmoid expm1 log1p erf sin cos tan asin acos atan sinh cosh asinh acosh "
        "atanh floor ceil rint round is_nan is_inf is_finite",
        FLOATS,
    )
    yield from _unary("round", ("int32", "int64"))
    yield from _unary("identity stop_gradient zeros_like ones_like", ("float32", "int8", "bool"))
    for name in ("add", "subtract", "multiply", "maximum", "minimum", "squared_difference"):
        for dtype in NUMBERS:
            yield Case(f"tf.{name}(x, y)", pairs(dtype))
    for name in ("divide", "floordiv", "floormod", "div", "truediv", "floor_div", "mod"):
        again = name in ("div", "truediv", "floor_div", "mod")
        for dtype in () if again else FLOATS:
            yield Case(f"tf.{name}(x, y)", pairs(dtype))
        if again:
            yield Case(f"tf.{name}(x, y)", {"x": some(2, 3), "y": some(3, low=0.5)})
        for dtype in ("int32",) if again else INTS:
            both = pairs(dtype)
            fine = both["y"] != 0
            if np.iinfo(dtype).min:  # what does not fit is no quotient; C leaves open what it is
                fine &= ~((both["x"] == np.iinfo(dtype).min) & (both["y"] == -1))
            yield Case(f"tf.{name}(x, y)", {k: a[fine] for k, a in both.items()})
    for name in ("floordiv", "floormod", "mod", "div", "floor_div"):
        yield Case(f"tf.{name}(x, y)", {"x": array([1, 2], "int32"), "y": array([1, 0], "int32")}, "by zero")
    for dtype in FLOATS:
        yield Case("tf.pow(x, y)", pairs(dtype))
    for dtype in ("int32", "int64"):
        yield Case(
            "tf.pow(x, y)",
            {"x": array([0, 0, 1, -1, 2, -3, 7, -1], dtype), "y": array([0, 2, 9, 3, 31, 5, 3, 8], dtype)},
        )
    yield Case(
        "tf.pow(x, y)", {"x": array([2, 3], "int32"), "y": array([1, -1], "int32")}, "to less than zero"
    )
    for name in ("equal", "not_equal"):
        for dtype in (*NUMBERS, "bool"):
            yield Case(f"tf.{name}(x, y)", pairs(dtype))
    for name in ("less", "less_equal", "greater", "greater_equal"):
        for dtype in NUMBERS:
            yield Case(f"tf.{name}(x, y)", pairs(dtype))
    for name in ("logical_and", "logical_or", "logical_xor"):
        yield Case(f"tf.{name}(x, y)", pairs("bool"))
    yield from _unary("logical_not", ("bool",))
    for text in (
        "x + y",
        "x - y",
        "x * y",
        "x / y",
        "x // y",
        "x % y",
        "x ** y",
        "-x",
        "abs(x)",
        "x < y",
        "x >= y",
    ):
        yield Case(text, {"x": some(2, 1, 3), "y": some(4, 1, low=0.5)})
    for name in ("add", "multiply", "maximum", "subtract", "divide", "pow", "floormod"):
        for shapes in (
            ((), (2, 3)),
            ((2, 3), (3,)),
            ((2, 1), (1, 3)),
            ((0, 3), (3,)),
            ((1,), (1,)),
            ((0,), ()),
            ((1, 1), (3, 1)),
        ):
            both = {k: some(*s, low=0.5) for k, s in zip("xy", shapes, strict=True)}
            yield Case(f"tf.{name}(x, y)", both)
    for to in (*NUMBERS, "bool"):
        for dtype in FLOATS:
            # what does not fit an integer is whatever the processor makes of it
            fits = np.array([0.0, -0.0, 0.3, -0.3, 1, 1.5, 2.5, 90, 100.75], dtype)
            signed = np.array([-0.5, -1, -1.5, -2.5, -7.9, -100.75], dtype)
            beyond = np.array([INF, -INF, NAN, 6e4], dtype)
            x = [
                fits,
                *([] if to == "uint8" else [signed]),
                *([beyond] if to in FLOATS or to == "bool" else []),
            ]
            yield Case(f"tf.cast(x, '{to}')", {"x": np.concatenate(x)})
        for dtype in INTS:
            yield Case(f"tf.cast(x, '{to}')", {"x": edges(dtype) if to != "float16" else edges(dtype)[:6]})
        yield Case(f"tf.cast(x, '{to}')", {"x": edges("bool")})
    for name in ("to_float", "to_double", "to_int32", "to_int64"):
        yield Case(f"tf.{name}(x)", {"x": array([0.5, -1.5, 7.9])})
        yield Case(f"tf.{name}(x)", {"x": array([1, -3], "int32")})
    yield Case("tf.add_n([x, y, x])", {"x": some(2, 3), "y": some(3, 2).T.copy()})
    yield Case("tf.add_n([x])", {"x": edges("int32")})
    for dtype in ("float32", "int32", "bool"):
        chosen = {
            "c": array([True, False, True], "bool"),
            "x": some(3, dtype=dtype),
            "y": some(3, 1, dtype=dtype)[:, 0],
        }
        yield Case("tf.where(c, x, y)", chosen)
    chosen = {"c": array([True, False, True], "bool"), "x": array([1, NAN, INF]), "y": array([NAN, 2, -INF])}
    yield Case("tf.where(c, x, y)", chosen, "with what is no number")
    yield Case(
        "tf.where(c, x, y)", {"c": array([True, False], "bool"), "x": some(2, 3), "y": -some(2, 3)}, "rows"
    )
    yield Case("tf.where(c, x, y)", {"c": array([], "bool"), "x": array([]), "y": array([])}, "nothing")
    yield Case("tf.where([[True, False], [False, True]])", {})
    yield Case("tf.clip_by_value(x, -1., 2.)", {"x": edges("float32")})
    yield Case("tf.clip_by_value(x, 0, 5)", {"x": edges("int32")})
    for text in (
        "maximum(x, y)",
        "minimum(x, y)",
        "add(x, y)",
        "where(tf.less(x, y), x, y)",
        "squared_difference(x, y)",
    ):
        yield Case(f"tf.{text}", pairs("float32"), INFINITE)
    for text in (
        "abs(x)",
        "sign(x)",
        "square(x)",
        "sqrt(x)",
        "nn.relu(x)",
        "nn.relu6(x)",
        "nn.elu(x)",
        "nn.selu(x)",
        "nn.leaky_relu(x, 0.25)",
        "nn.softplus(x)",
        "clip_by_value(x, -1., 1.)",
        "nn.crelu(x)",
    ):
        yield Case(f"tf.{text}", {"x": edges("float32")}, INFINITE)
    for text in (
        "nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], 'VALID')",
        "nn.max_pool(x, [1, 3, 3, 1], [1, 2, 2, 1], 'SAME')",
        "nn.avg_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], 'VALID')",
    ):
        yield Case(f"tf.{text}", {"x": some(2, 4, 4, 1)}, INFINITE)
    for text in (
        "reduce_max(x, 1)",
        "reduce_sum(x, 0)",
        "reduce_mean(x, 1)",
        "nn.top_k(x, 2)",
        "x[:, ::2]".replace("x[", "identity(x)["),
        "concat([x, x], 1)",
        "pad(x, [[1, 1], [0, 0]])",
        "gather(x, [4, 0, 0])",
        "cumsum(x, 1)",
        "transpose(x)",
    ):
        yield Case(f"tf.{text}", {"x": some(5, 4)}, INFINITE)
    yield Case("tf.clip_by_value(x, y, 2.)", {"x": edges("float32"), "y": array(-0.5)})
    for name, x in (
        ("zeros", [0, 0, 0]), ("within", [0.1, 0.2, 0.3]), ("beyond", [3, -4, 12]), ("at", [3, 4, 0]), ("inf", [1, INF, 0]),
        ("nan", [1, NAN, 2]), ("nothing", []), ("large", [1e30, 1, 0]),
    ):  # fmt: skip
        yield Case("tf.clip_by_norm(x, 5.)", {"x": array(x)}, name)
    yield Case(
        "tf.clip_by_norm(x, 1., axes=[1])", {"x": array([[0, 0], [3, 4], [INF, 1], [NAN, 1], [0.1, 0]])}
    )
    yield Case("tf.clip_by_norm(x, y)", {"x": array([3, 4]), "y": array(2)})
    for label, x, y in (
        ("small", [0.001, 0], [0.002]), ("within", [1, 2], [2]), ("beyond", [30, 40], [-1, 2]), ("inf", [-2, 0, INF], [1, -2]), ("nan", [NAN, 1], [1, -2]),
        ("zeros", [0, 0], [0]), ("nothing", [], []), ("-inf", [-INF, 1], [0, 1]), ("too large", [1e30, 1], [0, 1]),
    ):  # fmt: skip
        both = {"x": array(x), "y": array(y)}
        yield Case("tf.clip_by_global_norm([x, None, y], 6.)", both, label)
        yield Case("tf.global_norm([x, None, y])", both, label)
        if label in ("within", "beyond", "inf", "nan"):
            yield Case("tf.clip_by_global_norm([x, y], 6., use_norm=3 * tf.reduce_max(y))", both, label)


def _reductions() -> Iterator[Case]:
    for name in ("sum", "mean", "max", "min", "prod", "logsumexp"):
        text = f"tf.reduce_{name}"
        for dtype in FLOATS if name in ("mean", "logsumexp") else NUMBERS:
            x = some(2, 3, 4, dtype=dtype)
            for how in ("", ", axis=1", ", axis=[0, -1]", ", axis=-3, keepdims=True", ", axis=[]"):
                if dtype == "float32" or how == ", axis=1":
                    yield Case(f"{text}(x{how})", {"x": x})
        yield Case(f"{text}(x, 1)", {"x": ROWS}, "ties")
        yield Case(f"{text}(x)", {"x": array([1, 3, 3])}, "ties")
        for shape, how in (
            ((0,), ""), ((0, 3), ""), ((0, 3), ", 0"), ((0, 3), ", 1"), ((2, 0), ", 1"), ((2, 0), ", -1, keepdims=True"), ((1,), ", 0"), ((), ""),
        ):  # fmt: skip
            for dtype in (
                ("float32", "float64") if name in ("mean", "logsumexp") else ("float32", "int32", "uint8")
            ):
                yield Case(f"{text}(x{how})", {"x": some(*shape, dtype=dtype)})
    for zeros in ([0, 2, 3], [0, 0, 3], [2, 3, 4], [NAN, 0, 1], [INF, 0, 1], [INF, 2, 1]):
        yield Case("tf.reduce_prod(x)", {"x": array(zeros)}, str(zeros))
    for name in ("all", "any"):
        for shape, how in (
            ((2, 3), ""),
            ((2, 3), ", 0"),
            ((2, 3), ", -1, keepdims=True"),
            ((0,), ""),
            ((0, 2), ", 0"),
            ((2, 0), ", 0"),
            ((), ""),
        ):
            yield Case(f"tf.reduce_{name}(x{how})", {"x": some(*shape, dtype="bool")})
    for name in ("argmax", "argmin"):
        for dtype in NUMBERS:
            yield Case(f"tf.{name}(x, 1)", {"x": some(5, 4, dtype=dtype)})
            yield Case(f"tf.{name}(x)", {"x": some(5, 4, dtype=dtype)})
        for dtype in FLOATS:
            for axis in (1, 0, -1):
                yield Case(f"tf.{name}(x, {axis})", {"x": ROWS.astype(dtype)}, "ties")
        yield Case(f"tf.{name}(x, -2)", {"x": some(2, 3, 4)})
        yield Case(f"tf.{name}(x, 0, output_type=tf.int32)", {"x": array([NAN, 1, 2])})
        yield Case(f"tf.{name}(x, 0)", {"x": array([1, NAN, INF])})
        for shape, axis in (((0, 3), 1), ((0, 3), 0), ((1,), 0), ((3, 1), 1)):
            yield Case(f"tf.{name}(x, {axis})", {"x": some(*shape)})
    yield Case("tf.arg_max(x, 1)", {"x": ROWS})
    yield Case("tf.arg_min(x, 1)", {"x": ROWS})
    yield Case("tf.count_nonzero(x)", {"x": edges("float32")})
    yield Case("tf.count_nonzero(x, axis=1)", {"x": ROWS})
    yield Case("tf.count_nonzero(x, dtype=tf.int32)", {"x": edges("int8")})
    yield Case("tf.count_nonzero(x)", {"x": edges("bool")})
    yield Case("tf.count_nonzero(x)", {"x": array([])})
    for dtype in NUMBERS:
        for how in ("", ", 1", ", -1, exclusive=True", ", 0, reverse=True", ", 1, True, True"):
            if dtype == "float32" or not how:
                yield Case(f"tf.cumsum(x{how})", {"x": some(3, 4, dtype=dtype)})
    yield Case("tf.cumsum(x, 1)", {"x": ROWS})
    for shape in ((0,), (0, 2), (2, 0), (1,)):
        yield Case("tf.cumsum(x, exclusive=True)", {"x": some(*shape)})


def _moves() -> Iterator[Case]:
    x = some(2, 3, 4)
    for text in (
        "tf.reshape(x, [4, -1])", "tf.reshape(x, [-1])", "tf.reshape(x, [2, 12])", "tf.expand_dims(x, -1)", "tf.expand_dims(x, 0)",
        "tf.transpose(x)", "tf.transpose(x, [1, 0, 2])", "tf.matrix_transpose(x)", "tf.squeeze(tf.expand_dims(x, 1), 1)",
        "tf.squeeze(tf.expand_dims(x, 1))", "tf.broadcast_to(x, [2, 2, 3, 4])", "tf.concat([x, x], 1)", "tf.concat([x, x], -1)", "tf.concat([x], 0)",
        "tf.pad(x, [[1, 0], [0, 2], [0, 0]])", "tf.pad(x, [[0, 0], [1, 1], [2, 1]], 'REFLECT')", "tf.pad(x, [[0, 1], [1, 0], [2, 2]], 'SYMMETRIC')",
        "tf.pad(x, [[1, 1], [0, 0], [0, 0]], constant_values=7)", "tf.reverse(x, [0, -1])", "tf.split(x, 2, -1)", "tf.split(x, [1, 2], 1)",
        "tf.stack([x, x])", "tf.stack([x, x], -1)", "tf.unstack(x)", "tf.unstack(x, axis=-2)", "tf.tile(x, [1, 2, 3])", "tf.tile(x, [0, 1, 1])",
        "tf.slice(x, [0, 1, 2], [-1, 2, 1])", "x[0]", "x[:, -1, ::2]", "x[..., 1]", "x[1:, tf.newaxis, ::-1]", "x[2:]",
        "tf.shape(x)", "tf.size(x)", "tf.rank(x)", "tf.tuple([x, 2 * x])", "tf.placeholder_with_default(x, [2, 3, 4])",
        "tf.reshape(tf.boolean_mask(x, [True, False]), [1, 3, 4])", "tf.reshape(tf.boolean_mask(x, [True, False, True], axis=1), [2, 2, 4])", "tf.convert_to_tensor(x)", "tf.matrix_diag(x)",
    ):  # fmt: skip
        yield Case(text, {"x": x})
    for text in (
        "tf.transpose(x)",
        "tf.concat([x, x], 0)",
        "tf.reverse(x, [0])",
        "tf.tile(x, [2, 2])",
        "tf.pad(x, [[1, 0], [0, 1]])",
        "x[1:, :1]",
        "tf.stack([x, x], 1)",
    ):
        for dtype in (*INTS, "float16", "float64", "bool"):
            if not (dtype == "bool" and "pad" in text):
                yield Case(text, {"x": some(2, 3, dtype=dtype)})
    for text in (
        "tf.reshape(x, [0, 5])",
        "tf.transpose(x)",
        "tf.concat([x, x], 1)",
        "tf.pad(x, [[1, 1], [0, 0]])",
        "tf.tile(x, [2, 1])",
        "tf.reverse(x, [1])",
        "tf.unstack(x, axis=1)",
        "tf.expand_dims(x, 0)",
        "tf.shape(x)",
        "tf.size(x)",
        "x[:, 1]",
        "tf.split(x, 3, 1)",
    ):
        yield Case(text, {"x": some(0, 3)})
    yield Case("tf.concat([x, y], 0)", {"x": some(0, 3), "y": some(2, 3)})
    for axis in (0, 1, -1):
        yield Case(f"tf.gather(x, i, axis={axis})", {"x": some(2, 3, 4), "i": array([1, 0, 1], "int32")})
    yield Case("tf.gather(x, i)", {"x": edges("float32"), "i": array([[4, 0], [24, 25]], "int64")})
    yield Case("tf.gather(x, i)", {"x": some(3, 2), "i": array([], "int32")})
    yield Case("tf.gather(x, i)", {"x": some(3, 2), "i": array([3], "int32")}, "beyond")
    yield Case("tf.gather(x, i)", {"x": some(3, 2), "i": array([-1], "int32")}, "below")
    yield Case("tf.gather(x, i)", {"x": some(0, 2), "i": array([], "int32")}, "of nothing")
    for i in ([[0], [1]], [[0, 2], [1, 0]], [[[1, 1, 1]], [[1, 1, 1]]]):
        yield Case("tf.gather_nd(x, i)", {"x": some(2, 3, 4), "i": array(i, "int32")})
    for how in (
        "",
        ", on_value=5., off_value=-1.",
        ", axis=0",
        ", axis=1",
        ", dtype=tf.int32",
        ", dtype=tf.bool",
    ):
        if "bool" in how:
            how += ", on_value=True, off_value=False"
        yield Case(f"tf.one_hot(i, 4{how})", {"i": array([[0, 3], [-1, 4]], "int32")})
    for dtype in ("uint8", "int64"):
        yield Case("tf.one_hot(i, 3)", {"i": array([0, 2, 3], dtype)})
    yield Case("tf.one_hot(i, 3)", {"i": array([], "int32")})
    yield Case("tf.matrix_diag_part(x)", {"x": some(2, 3, 3)})
    yield Case("tf.diag_part(x)", {"x": some(3, 3)})
    yield Case("tf.diag(x)", {"x": some(3)})
    yield Case("tf.diag(x)", {"x": array([NAN, INF])})
    yield Case("tf.trace(x)", {"x": some(2, 3, 3)})
    yield Case("tf.trace(x)", {"x": array([[1, NAN], [INF, 2]])}, "no number beside the diagonal")
    yield Case("tf.matrix_diag_part(x)", {"x": array([[1, NAN], [INF, 2]])}, "no number beside the diagonal")


def _made() -> Iterator[Case]:
    for text in (
        "tf.zeros([2, 3])", "tf.zeros([0])", "tf.ones([2], tf.int64)", "tf.zeros([2], tf.bool)", "tf.ones([2], tf.bool)", "tf.fill([2, 2], 7)", "tf.fill([2], 1.5)",
        "tf.constant([1, 2], tf.float64)", "tf.constant(3.5, shape=[2, 2])", "tf.constant([1, 2, 3])", "tf.constant([1.5])", "tf.constant([])", "tf.eye(3)", "tf.eye(2, 3, dtype=tf.int32)",
        "tf.eye(2, batch_shape=[2])", "tf.range(5)", "tf.range(2, 12, 3)", "tf.range(5., 1., -1.5)", "tf.range(0)", "tf.range(3, 3)", "tf.range(1., 2., 0.25)", "tf.range(5, 0, -2)",
        "tf.range(3, dtype=tf.int64)", "tf.linspace(0., 1., 5)", "tf.linspace(2., 2., 3)", "tf.linspace(1., 9., 1)", "tf.lin_space(-1., 1., 3)",
        "tf.sequence_mask([0, 1, 3], 3)", "tf.sequence_mask([[1], [2]], 2, tf.float32)", "tf.sequence_mask([5], 3)",
        "tf.nn.dropout(tf.constant([1., NAN]), rate=0.)".replace("NAN", "float('nan')"),
        "tf.zeros_initializer()([2])", "tf.ones_initializer()([2], dtype=tf.int32)", "tf.constant_initializer(3.)([2, 2])", "tf.initializers.identity(2.)([2, 2])",
    ):  # fmt: skip
        yield Case(text, {})
    for shape_a, shape_b, how in (
        ((2, 3), (3, 4), ""), ((3, 2), (3, 4), ", transpose_a=True"), ((2, 3), (4, 3), ", transpose_b=True"), ((3, 2), (4, 3), ", True, True"),
        ((5, 2, 3), (5, 3, 2), ""), ((1, 3), (3, 1), ""), ((0, 3), (3, 2), ""), ((2, 0), (0, 2), ""), ((2, 3), (3, 0), ""),
    ):  # fmt: skip
        yield Case(f"tf.matmul(x, y{how})", {"x": some(*shape_a), "y": some(*shape_b)})
    for dtype in ("float64", "float16", "int32", "int64"):
        yield Case("tf.matmul(x, y)", {"x": some(2, 3, dtype=dtype), "y": some(3, 4, dtype=dtype)})
    yield Case(
        "tf.matmul(x, y)", {"x": array([[0, 1], [NAN, 0], [INF, 1]]), "y": array([[INF, 1], [2, NAN]])}
    )


def _network() -> Iterator[Case]:
    activations = "relu relu6 elu selu softplus softsign"
    yield from _unary(" ".join(f"nn.{n}" for n in f"{activations} sigmoid tanh".split()), FLOATS)
    yield from _unary("nn.leaky_relu", ("float32",))
    for dtype in WIDE:  # TensorFlow has alpha as a float32
        yield Case("tf.nn.leaky_relu(x, 0.25)", {"x": edges(dtype)})
    yield from _unary("nn.relu nn.relu6", ("int32", "int64", "int8", "uint8"))
    yield from _unary("nn.swish nn.crelu nn.l2_loss nn.zero_fraction", WIDE)
    yield Case("tf.nn.leaky_relu(x, 1.5)", {"x": edges("float32")})
    yield Case("tf.nn.leaky_relu(x, 0.)", {"x": edges("float32")})
    yield Case("tf.nn.leaky_relu(x, -0.5)", {"x": edges("float32")})
    yield Case("tf.nn.zero_fraction(x)", {"x": edges("int32")})
    yield Case("tf.nn.zero_fraction(x)", {"x": array([])})
    yield Case("tf.nn.l2_loss(x)", {"x": array([])})
    yield Case("tf.nn.l2_loss(x)", {"x": some(2, 3)})
    yield Case("tf.nn.crelu(x)", {"x": some(2, 3)})
    for name in ("softmax", "log_softmax"):
        for dtype in FLOATS:
            yield Case(f"tf.nn.{name}(x)", {"x": some(2, 3, 4, dtype=dtype)})
        yield Case(f"tf.nn.{name}(x)", {"x": ROWS})
        yield Case(f"tf.nn.{name}(x)", {"x": array([[1e4, 0, -1e4], [3e38, 0, -3e38]])}, "large")
        for axis in (0, 1, -2):
            yield Case(f"tf.nn.{name}(x, {axis})", {"x": some(2, 3, 4)})
        for shape in ((0, 3), (2, 0), (1,), (3, 1)):
            yield Case(f"tf.nn.{name}(x)", {"x": some(*shape)})
    for k in (0, 1, 2, 4):
        for dtype in ("float32", "float64", "float16", "int32", "int8", "uint8"):
            if k == 2 or dtype == "float32":
                yield Case(f"tf.nn.top_k(x, {k})", {"x": some(5, 4, dtype=dtype)})
    numbers = array(
        [[1, 3, 3, 2], [INF, 1, INF, 0], [-INF, -INF, -INF, -INF], [0, -0.0, 0, -1], [5, 5, 5, 5]]
    )
    yield Case("tf.nn.top_k(x, 3)", {"x": numbers}, "ties")
    yield Case("tf.nn.top_k(x, 1)", {"x": array([])}, "of nothing")
    yield Case("tf.nn.top_k(x, 2)", {"x": some(0, 3)})
    targets = array([0, 3, 2, 1, 0, 1, 3, 2, 3, 0], "int32")
    for k in (0, 1, 2, 3, 4, 9):
        yield Case(f"tf.nn.in_top_k(x, i, {k})", {"x": ROWS, "i": targets})
    yield Case("tf.nn.in_top_k(x, i, 1)", {"x": ROWS, "i": targets[::-1].copy()}, "others")
    yield Case(
        "tf.nn.in_top_k(x, i, 2)",
        {
            "x": array([[1, NAN, 3], [NAN, 2, 1], [1, 2, INF], [1, 2, -INF]]),
            "i": array([0, 1, 0, 1], "int64"),
        },
    )
    yield Case("tf.nn.in_top_k(x, i, 2)", {"x": some(3, 4), "i": array([-1, 4, 2], "int32")})
    yield Case("tf.nn.in_top_k(x, i, 1)", {"x": some(0, 4), "i": array([], "int32")})
    for dtype in WIDE:
        yield Case("tf.nn.bias_add(x, y)", {"x": some(2, 2, 3, dtype=dtype), "y": some(3, dtype=dtype)})
    yield Case("tf.nn.bias_add(x, y)", {"x": some(0, 3), "y": some(3)})
    layer = {"x": some(2, 3), "w": some(3, 2), "b": some(2)}
    yield Case("tf.nn.xw_plus_b(x, w, b)", layer)
    yield Case("tf.nn.relu_layer(x, w, b)", layer)
    yield Case("tf.nn.embedding_lookup(x, i)", {"x": some(4, 2), "i": array([[3, 0], [3, 1]], "int64")})
    for how in ("", ", 0", ", [0, 1]", ", -1, epsilon=0.5"):
        yield Case(f"tf.nn.l2_normalize(x{how})", {"x": array([[0, 0, 0], [3, 0, 4], [1, -1, 0.5]])})
    yield Case("tf.nn.l2_normalize(x, 1)", {"x": array([[0, 0], [INF, 1], [NAN, 1], [3, 4], [1e-9, 0]])})
    for how in ("[0]", "[0, 1]", "[-1]", "[0], keep_dims=True"):
        yield Case(f"tf.nn.moments(x, {how})", {"x": some(3, 4)})
    yield Case("tf.nn.moments(x, [0])", {"x": array([[1, NAN, INF], [1, 2, 3]])})
    yield Case("tf.nn.moments(x, [0])", {"x": some(1, 3)})
    yield Case("tf.nn.moments(x, [0])", {"x": some(0, 3)})
    parts = {"x": some(2, 3), "m": some(3), "v": some(3, low=0.5), "o": -some(3), "s": 1 + some(3)}
    yield Case("tf.nn.batch_normalization(x, m, v, o, s, 1e-3)", parts)
    yield Case("tf.nn.batch_normalization(x, m, v, None, None, 1e-3)", {k: parts[k] for k in "xmv"})
    image = {"x": some(2, 3, 2, 3), "s": 1 + some(3), "o": some(3)}
    yield Case("tf.nn.fused_batch_norm(x, s, o)[0]", image)
    yield Case("[tf.stop_gradient(t) for t in tf.nn.fused_batch_norm(x, s, o)[1:]]", image)
    yield Case(
        "tf.nn.fused_batch_norm(x, s, o, mean=m, variance=v, is_training=False, epsilon=0.01)",
        image | {"m": some(3), "v": some(3, low=0.5)},
    )
    pictures = some(2, 5, 4, 2)
    for name in ("max_pool", "avg_pool"):
        for how in (
            "[1, 2, 2, 1], [1, 2, 2, 1], 'VALID'",
            "[1, 3, 2, 1], [1, 2, 1, 1], 'SAME'",
            "[1, 1, 2, 1], [1, 2, 3, 1], 'SAME'",
        ):
            yield Case(f"tf.nn.{name}(x, {how})", {"x": pictures})
        yield Case(f"tf.nn.{name}(x, [1, 2, 2, 1], [1, 2, 2, 1], 'SAME')", {"x": np.round(pictures)}, "ties")
        odd = np.zeros((1, 4, 4, 1), "float32")
        odd[0, :2, :2, 0], odd[0, 2:, :2, 0], odd[0, :2, 2:, 0] = (
            [[1, NAN], [2, 3]],
            [[NAN, 1], [-INF, 2]],
            [[INF, -INF], [1, INF]],
        )
        odd[0, 2:, 2:, 0] = -INF
        yield Case(f"tf.nn.{name}(x, [1, 2, 2, 1], [1, 2, 2, 1], 'VALID')", {"x": odd}, "no numbers")
        yield Case(f"tf.nn.{name}(x, [1, 3, 3, 1], [1, 1, 1, 1], 'SAME')", {"x": odd}, "no numbers")
        yield Case(f"tf.nn.{name}(x, [1, 2, 2, 1], [1, 2, 2, 1], 'VALID')", {"x": some(0, 4, 4, 1)})
        yield Case(
            f"tf.nn.{name}(x, [1, 2, 2, 1], [1, 2, 2, 1], 'VALID')", {"x": some(2, 4, 4, 1, dtype="float64")}
        )
    kernel = some(3, 2, 2, 3)
    for how in ("[1, 1, 1, 1], 'SAME'", "[1, 2, 2, 1], 'VALID'", "[1, 2, 1, 1], 'SAME'"):
        yield Case(f"tf.nn.conv2d(x, f, {how})", {"x": pictures, "f": kernel})
    yield Case("tf.nn.conv2d(x, f, [1, 1, 1, 1], 'SAME')", {"x": some(0, 4, 4, 2), "f": kernel})
    yield Case("tf.nn.conv2d(x, f, [1, 1, 1, 1], 'VALID')", {"x": some(1, 3, 2, 2), "f": kernel})
    yield Case("tf.nn.atrous_conv2d(x, f, 2, 'SAME')", {"x": pictures, "f": kernel})
    yield Case(
        "tf.nn.conv2d_transpose(x, f, [2, 6, 5, 2], [1, 2, 1, 1], 'VALID')".replace("6, 5", "7, 4"),
        {"x": some(2, 3, 3, 3), "f": kernel},
    )
    yield Case(
        "tf.nn.conv2d_backprop_input([2, 5, 4, 2], f, y, [1, 1, 1, 1], 'SAME')",
        {"f": kernel, "y": some(2, 5, 4, 3)},
    )
    yield Case(
        "tf.nn.conv2d_backprop_filter(x, [3, 2, 2, 3], y, [1, 1, 1, 1], 'SAME')",
        {"x": pictures, "y": some(2, 5, 4, 3)},
    )


def _losses() -> Iterator[Case]:
    sparse = "tf.nn.sparse_softmax_cross_entropy_with_logits(labels=i, logits=x)"
    dense = "tf.nn.softmax_cross_entropy_with_logits{}(labels=y, logits=x{})"
    labels = array([1, 3, 2, 1, 0, 1, 3, 2, 3, 0], "int32")
    for dtype in FLOATS:
        yield Case(sparse, {"x": some(3, 4, dtype=dtype), "i": array([3, 0, 2], "int64")})
        yield Case(dense.format("", ""), {"x": some(3, 4, dtype=dtype), "y": shares(3, 4, dtype=dtype)})
        yield Case(dense.format("_v2", ""), {"x": some(3, 4, dtype=dtype), "y": shares(3, 4, dtype=dtype)})
    yield Case(sparse, {"x": ROWS, "i": labels})
    yield Case(sparse, {"x": array([[1e4, 0, -1e4], [3e38, 0, -3e38]]), "i": array([2, 0], "int32")}, "large")
    yield Case(dense.format("_v2", ""), {"x": ROWS, "y": np.eye(4, dtype="float32")[labels]})
    yield Case(
        dense.format("_v2", ""),
        {"x": array([[1e4, 0, -1e4], [3e4, 0, -3e4]]), "y": array([[0, 0, 1], [0.5, 0.5, 0]])},
        "large",
    )
    yield Case(
        dense.format("_v2", ""), {"x": some(2, 3), "y": array([[0, 0, 0], [2, -1, 0.5]])}, "no probabilities"
    )
    for axis in (0, 1, -1):
        yield Case(
            dense.format("_v2", f", axis={axis}"), {"x": some(2, 3, 4), "y": shares(2, 3, 4, axis=axis)}
        )
    yield Case(dense.format("_v2", ""), {"x": some(2, 0), "y": some(2, 0)})
    for shape in ((0, 3), (2, 1)):
        yield Case(dense.format("_v2", ""), {"x": some(*shape), "y": shares(*shape)})
        yield Case(sparse, {"x": some(*shape), "i": np.zeros(shape[0], "int32")})
    for dtype in FLOATS:
        x = edges(dtype)
        yield Case(
            "tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=x)",
            {"x": x, "y": np.resize(array([0, 1, 0.25], dtype), x.shape)},
        )
    yield Case(
        "tf.nn.weighted_cross_entropy_with_logits(labels=y, logits=x, pos_weight=3.)",
        {"x": edges("float32"), "y": np.resize(array([0, 1, 0.25]), edges("float32").shape)},
    )
    yield Case(
        "tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=x)", {"x": array([]), "y": array([])}
    )
    two = {"y": np.abs(some(3, 4, low=-0.9, high=0.9)), "x": np.abs(some(4, 3, low=-0.9, high=0.9)).T.copy()}
    bits = {"y": array([[0, 1, 1], [1, 0, 0]]), "x": some(2, 3)}
    regression = ("absolute_difference", "mean_squared_error", "huber_loss", "log_loss")
    for name in regression:
        for how in (
            "",
            ", weights=0.5",
            ", weights=[[0.], [2.], [1.]]",
            ", weights=0.",
            ", reduction=tf.losses.Reduction.NONE",
            ", reduction=tf.losses.Reduction.SUM",
            ", reduction=tf.losses.Reduction.MEAN, weights=2.",
            ", reduction=tf.losses.Reduction.SUM_OVER_BATCH_SIZE",
        ):
            yield Case(f"tf.losses.{name}(y, x{how})", two)
        yield Case(f"tf.losses.{name}(y, x)", {"y": array([]), "x": array([])})
        yield Case(
            f"tf.losses.{name}(y, x, weights=[0., 1., 1.])",
            {"y": array([NAN, 1, 0]), "x": array([0.5, 1, 0])},
            "NaN under a weight of 0",
        )
        yield Case(f"tf.losses.{name}(y, x)", {"y": array([1, 0, 1]), "x": array([1, 0, 0.5])}, "ties")
    yield Case("tf.losses.huber_loss(y, x, delta=0.2)", two)
    yield Case("tf.losses.huber_loss(y, x)", {"y": array([0, 0, 0, 0]), "x": array([1, -1, INF, NAN])})
    for how in ("", ", weights=0.5", ", label_smoothing=0.25"):
        if "smooth" not in how:
            yield Case(f"tf.losses.hinge_loss(y, x{how})", bits)
        yield Case(f"tf.losses.sigmoid_cross_entropy(y, x{how})", bits)
        yield Case(
            f"tf.losses.softmax_cross_entropy(y, x{how})",
            {"y": array([[0, 1, 0], [1, 0, 0]]), "x": some(2, 3)},
        )
    yield Case("tf.losses.hinge_loss(y, x)", {"y": array([0, 1, 1]), "x": array([-1, 1, 0])}, "at its bend")
    yield Case(
        "tf.losses.sparse_softmax_cross_entropy(i, x)", {"i": array([[2], [0]], "int32"), "x": some(2, 3)}
    )
    yield Case(
        "tf.losses.sparse_softmax_cross_entropy(i, x, weights=[0., 2.])",
        {"i": array([2, 0], "int64"), "x": some(2, 3)},
    )
    yield Case("tf.losses.compute_weighted_loss(x, w)", {"x": some(2, 3), "w": array([[1], [0]])})
    yield Case(
        "tf.losses.compute_weighted_loss(x, w)", {"x": array([[NAN, 1], [2, 3]]), "w": array([[0], [1]])}
    )
    yield Case(
        "[tf.losses.add_loss(x), tf.losses.add_loss(2 * x), tf.losses.get_total_loss(), tf.losses.get_losses()][2:]",
        {"x": array(3)},
        ALONE,
    )
    yield Case("[tf.losses.get_regularization_loss(), tf.losses.get_regularization_losses()]", {}, ALONE)
    for ys in ("x * y", "[x, y]", "[x * y, y]"):
        yield Case(f"tf.gradients({ys}, [x, y])", {"x": some(3), "y": some(1, 3)[0]})


def _words() -> Iterator[Case]:
    """What old programs use beside the rest."""
    m, v, images = some(3, 4), some(5), some(2, 5, 4, 3)
    for text, inputs in (
        ("tf.einsum('ij,jk->ik', x, y)", {"x": m, "y": some(4, 2)}),
        ("tf.einsum('bij,jk->bik', x, y)", {"x": some(2, 3, 4), "y": some(4, 5)}),
        ("tf.einsum('bij,bkj->bik', x, y)", {"x": some(2, 3, 4), "y": some(2, 5, 4)}),
        ("tf.einsum('bi,bj->ij', x, y)", {"x": m, "y": some(3, 2)}),
        ("tf.einsum('i,j', x, y)", {"x": v, "y": some(2, 2)[0]}),
        ("tf.einsum('ij->ji', x)", {"x": m}),
        ("tf.einsum('ijk->k', x)", {"x": some(2, 3, 4)}),
        ("tf.einsum('ab,bc,cd->da', x, y, z)", {"x": m, "y": some(4, 2), "z": some(2, 5)}),
        ("tf.tensordot(x, y, 1)", {"x": some(2, 3, 4), "y": some(4, 5)}),
        ("tf.tensordot(x, y, [[1, 0], [0, 1]])", {"x": m, "y": some(4, 3)}),
        ("tf.tensordot(x, y, 0)", {"x": v, "y": some(2, 2)}),
        ("tf.scalar_mul(3.0, x)", {"x": m}),
        ("tf.accumulate_n([x, x, y])", {"x": m, "y": some(4, 3).T.copy()}),
        ("tf.cross(x, y)", {"x": some(4, 3), "y": some(3, 4).T.copy()}),
        ("tf.norm(x)", {"x": m}),
        ("tf.norm(x, axis=1)", {"x": m}),
        ("tf.norm(x, 1, axis=0, keepdims=True)", {"x": m}),
        ("tf.norm(x, 3, axis=1)", {"x": m}),
        ("tf.norm(x, np.inf, axis=-1)", {"x": m}),
        ("tf.norm(x, 'fro', axis=[0, 1])", {"x": m}),
        ("tf.norm(x, 1, axis=[-2, -1])", {"x": some(2, 3, 4)}),
        ("tf.cumprod(x)", {"x": v}),
        ("tf.cumprod(x, 1, exclusive=True)", {"x": m}),
        ("tf.cumprod(x, 1, reverse=True)", {"x": m}),
        ("tf.cumprod(x, 0, exclusive=True, reverse=True)", {"x": m}),
        ("tf.erfc(x)", {"x": m}),
        ("tf.atan2(x, y)", {"x": m, "y": some(4, 3).T.copy()}),
        (
            "tf.atan2(x, y)",
            {"x": np.array([0, 1, -1, 0, 2, -3], "float32"), "y": np.array([1, 0, 0, -1, -2, -2], "float32")},
        ),
        ("tf.nn.weighted_moments(x, [0], w)", {"x": m, "w": np.abs(some(3, 1))}),
        ("tf.nn.weighted_moments(x, [0, 1], w, keep_dims=True)", {"x": m, "w": np.abs(m) + 1}),
        ("tf.nn.sufficient_statistics(x, [0])[1:3]", {"x": m}),
        ("tf.nn.normalize_moments(3.0, x, y)", {"x": v, "y": np.abs(some(5)) + 9}),
        ("tf.losses.cosine_distance(x, y, axis=1)", {"x": m, "y": some(4, 3).T.copy()}),
        (
            "tf.losses.cosine_distance(x, y, axis=-1, weights=[[1.], [0.], [2.]])",
            {"x": m, "y": some(4, 3).T.copy()},
        ),
        ("tf.strided_slice(x, [0, 1], [3, 4], [2, 1])", {"x": m}),
        ("tf.strided_slice(x, [1, 1], [2, 3], end_mask=2, shrink_axis_mask=1)", {"x": m}),
        ("tf.log_sigmoid(x)", {"x": np.array([-100, -1, 0, 2, 90], "float32")}),
        ("tf.realdiv(x, y)", {"x": v, "y": some(5) + 3}),
        ("tf.div_no_nan(x, y)", {"x": v, "y": np.array([1, 0, -2, 0, 3], "float32")}),
        (
            "tf.truncatediv(x, y)",
            {"x": np.array([7, -7, 7, -7], "int32"), "y": np.array([2, 2, -2, -2], "int32")},
        ),
        (
            "tf.truncatemod(x, y)",
            {"x": np.array([7, -7, 7, -7], "int32"), "y": np.array([2, 2, -2, -2], "int32")},
        ),
        ("tf.clip_by_average_norm(x, 0.2)", {"x": m}),
        ("tf.clip_by_average_norm(x, 9.0)", {"x": m}),
        ("tf.verify_tensor_all_finite(x, 'bad')", {"x": v}),
        ("tf.check_numerics(x, 'bad')", {"x": np.array([1, np.nan], "float32")}),
        ("tf.meshgrid(x, y)", {"x": v, "y": some(2, 2)[0]}),
        ("tf.meshgrid(x, y, z, indexing='ij')", {"x": v, "y": some(2, 2)[0], "z": some(3)}),
        ("tf.reverse_v2(x, [1])", {"x": m}),
        ("tf.reverse_sequence(x, [2, 0, 3], seq_axis=1)", {"x": some(3, 4, 2)}),
        ("tf.invert_permutation(x)", {"x": np.array([2, 0, 3, 1], "int32")}),
        ("tf.space_to_depth(x, 2)", {"x": some(2, 4, 6, 3)}),
        ("tf.depth_to_space(x, 2)", {"x": some(2, 3, 2, 8)}),
        ("tf.matrix_band_part(x, 1, 0)", {"x": some(2, 3, 4)}),
        ("tf.matrix_band_part(x, -1, 1)", {"x": m}),
        ("tf.matrix_set_diag(x, y)", {"x": some(2, 3, 3), "y": some(2, 3)}),
        ("tf.confusion_matrix(x, y, 4)", {"x": np.array([0, 1, 3, 1]), "y": np.array([0, 2, 3, 1])}),
        (
            "tf.confusion_matrix(x, y, 3, 'float32', weights=w)",
            {"x": np.array([0, 1, 2, 1]), "y": np.array([0, 2, 2, 1]), "w": some(2, 2).ravel()},
        ),
        ("tf.unsorted_segment_sum(x, i, 4)", {"x": some(4, 3), "i": np.array([3, 0, 3, 1])}),
        ("tf.scatter_nd(i, x, [4, 3])", {"i": np.array([[3], [0], [3]]), "x": some(3, 3)}),
        ("tf.scatter_nd(i, x, [3, 4])", {"i": np.array([[2, 1], [0, 3]]), "x": some(2, 2)[0]}),
        ("tf.histogram_fixed_width(x, [-1.0, 1.0], 5)", {"x": some(30)}),
        ("tf.is_non_decreasing(x)", {"x": np.array([1, 2, 2, 3])}),
        ("tf.is_strictly_increasing(x)", {"x": np.array([1, 2, 2, 3])}),
        ("tf.identity_n([x, y])", {"x": v, "y": m}),
        ("tf.shape_n([x, y])", {"x": v, "y": m}),
        ("tf.broadcast_static_shape(x.shape, y.shape).as_list()", {"x": m, "y": some(4)}),
        ("tf.nn.conv1d(x, f, 2, 'SAME')", {"x": some(2, 5, 3), "f": some(3, 3, 2)}),
        ("tf.nn.conv1d(x, f, 1, 'VALID')", {"x": some(2, 5, 3), "f": some(2, 3, 2)}),
        ("tf.nn.conv3d(x, f, [1, 2, 1, 2, 1], 'SAME')", {"x": some(2, 4, 3, 4, 2), "f": some(3, 2, 2, 2, 3)}),
        (
            "tf.nn.conv3d(x, f, [1, 1, 1, 1, 1], 'VALID')",
            {"x": some(2, 4, 3, 4, 2), "f": some(2, 2, 3, 2, 2)},
        ),
        ("tf.nn.depthwise_conv2d(x, f, [1, 1, 1, 1], 'SAME')", {"x": images, "f": some(3, 2, 3, 2)}),
        ("tf.nn.depthwise_conv2d(x, f, [1, 2, 2, 1], 'VALID')", {"x": images, "f": some(2, 2, 3, 1)}),
        (
            "tf.nn.separable_conv2d(x, f, p, [1, 2, 2, 1], 'SAME')",
            {"x": images, "f": some(3, 3, 3, 2), "p": some(1, 1, 6, 4)},
        ),
        (
            "tf.nn.convolution(x, f, 'SAME', dilation_rate=[2, 2])",
            {"x": some(1, 4, 4, 2), "f": some(2, 2, 2, 2)},
        ),
        ("tf.nn.pool(x, [2, 3], 'MAX', 'SAME', strides=[2, 1])", {"x": images}),
        ("tf.nn.pool(x, [2], 'AVG', 'VALID')", {"x": some(2, 5, 3)}),
        ("tf.nn.max_pool3d(x, [1, 2, 2, 2, 1], [1, 2, 1, 2, 1], 'SAME')", {"x": some(2, 4, 3, 5, 2)}),
        ("tf.nn.avg_pool3d(x, [1, 2, 2, 2, 1], [1, 2, 2, 2, 1], 'VALID')", {"x": some(2, 4, 4, 5, 2)}),
        ("tf.nn.lrn(x, 1, bias=1.5, alpha=0.3, beta=0.75)", {"x": images}),
        ("tf.nn.local_response_normalization(x)", {"x": some(1, 2, 2, 7)}),
    ):
        yield Case(text, inputs)
    sampled = "(np.array([2, 4, 1]), np.array([[0.6], [0.2], [0.3]], 'float32'), np.array([0.5, 0.1, 0.2], 'float32'))"
    given = {"w": some(5, 4), "b": some(5), "x": m, "i": np.array([[2], [0], [1]])}
    for how in ("", ", remove_accidental_hits=True"):
        yield Case(f"tf.nn.nce_loss(w, b, i, x, 3, 5, sampled_values={sampled}{how})", given)
    yield Case(f"tf.nn.sampled_softmax_loss(w, b, i, x, 3, 5, sampled_values={sampled})", given)
    yield Case("tf.nn.log_uniform_candidate_sampler(i, 1, 4, False, 6)[1]", {"i": np.array([[2], [0], [1]])})


#: What makes an optimizer, of tf.train, and how many of its slots beside the variables are compared: none.
OPTIMIZERS = (
    "GradientDescentOptimizer(0.1)", "MomentumOptimizer(0.1, 0.9)", "MomentumOptimizer(0.1, 0.9, use_nesterov=True)", "AdagradOptimizer(0.1)",
    "AdagradOptimizer(0.1, initial_accumulator_value=0.5)", "AdadeltaOptimizer(0.5)", "AdadeltaOptimizer(0.3, rho=0.9, epsilon=1e-6)",
    "RMSPropOptimizer(0.1)", "RMSPropOptimizer(0.1, decay=0.8, momentum=0.7)", "RMSPropOptimizer(0.1, momentum=0.3, centered=True)",
    "AdamOptimizer(0.1)", "AdamOptimizer(0.01, beta1=0.5, beta2=0.9, epsilon=0.1)",
    "FtrlOptimizer(0.1)", "FtrlOptimizer(0.5, -0.7, 0.2, 0.1, 0.01)",
    "FtrlOptimizer(0.1, l2_shrinkage_regularization_strength=0.1, l1_regularization_strength=0.01)",
    "ProximalGradientDescentOptimizer(0.1)", "ProximalGradientDescentOptimizer(0.1, 0.5, 0.3)",
    "ProximalAdagradOptimizer(0.1)", "ProximalAdagradOptimizer(0.3, 0.2, 0.3, 0.1)",
    "AdagradDAOptimizer(0.3, tf.constant(0, 'int64'))", "AdagradDAOptimizer(0.5, tf.constant(3, 'int64'), 0.2, 0.05, 0.01)",
)  # fmt: skip
STEPS = 4


def _training() -> Iterator[Case]:
    for name, rest in (
        ("exponential_decay", "10, 0.5"),
        ("natural_exp_decay", "10, 0.5"),
        ("inverse_time_decay", "10, 0.5"),
    ):
        for how in ("", ", staircase=True"):
            for step in (0, 7, 10, 25):
                yield Case(f"tf.train.{name}(0.1, s, {rest}{how})", {"s": array(step, "int32")}, str(step))
    for how in ("", ", cycle=True", ", 0.01, 2.0", ", 0.01, 0.5, cycle=True"):
        for step in (0, 7, 10, 25):
            yield Case(f"tf.train.polynomial_decay(0.1, s, 10{how})", {"s": array(step, "int32")}, str(step))
    for text in (
        "cosine_decay(0.1, s, 10)",
        "cosine_decay(0.1, s, 10, alpha=0.2)",
        "cosine_decay_restarts(0.1, s, 10)",
        "cosine_decay_restarts(0.1, s, 10, 1., 0.5, 0.1)",
        "piecewise_constant(s, [7, 10], [0.3, 0.2, 0.1])",
    ):
        for step in (0, 7, 8, 10, 25):
            yield Case(f"tf.train.{text}", {"s": array(step, "int32")}, str(step))


def training(tf: Any, optimizer: str) -> Any:
    """(the step, the variable) of an optimizer on gradients of both signs, of 0, and that change with the variable."""
    v = tf.Variable(np.array([1, -2, 0.5, 3], "float32"))
    loss = tf.reduce_sum(np.array([0.5, -3, 0, 1e-3], "float32") * v) + 0.1 * tf.reduce_sum(tf.square(v[2:]))
    return eval(f"tf.train.{optimizer}", {"tf": tf}).minimize(loss), v


# -- values as text --------------------------------------------------------------------------------------
def written(value: Any) -> Any:
    """An array as text: dtype, shape, numbers. None stays."""
    if value is None:
        return None
    value = np.asarray(value)
    if value.dtype.kind == "f":
        numbers = [
            np.format_float_scientific(v, trim="-", exp_digits=1) if v and np.isfinite(v) else str(v)
            for v in value.ravel()
        ]
        numbers = [n.removesuffix("e+0").replace("e+", "e") for n in numbers]
        numbers = [n.removesuffix(".0") for n in numbers]
    elif value.dtype == bool:
        numbers = ["".join(str(int(v)) for v in value.ravel())]
    else:
        numbers = [str(v) for v in value.ravel()]
    return " ".join([value.dtype.name + str(list(value.shape)).replace(" ", ""), *numbers])


def read(text: str | None) -> np.ndarray | None:
    """The array that written gave."""
    if text is None:
        return None
    kind, *numbers = text.split(" ")
    dtype, shape = kind[:-1].split("[")
    sizes = [int(n) for n in shape.split(",") if n]
    if dtype == "bool":
        numbers = list(numbers[0])
    values = [float(n) for n in numbers] if dtype in FLOATS else [int(n) for n in numbers]
    with np.errstate(over="ignore"):
        return np.array(values, "float64" if dtype in FLOATS else "int64").astype(dtype).reshape(sizes)


# -- with TensorFlow ---------------------------------------------------------------------------------------
def main() -> None:
    """Write the values."""
    import os

    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    import tensorflow
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
    from tensorflow.python.framework import error_interpolation

    error_interpolation.interpolate_graph = lambda message, graph: message  # it crashes on evaluated text
    tf = tensorflow.compat.v1
    tf.disable_eager_execution()
    config = config_pb2.ConfigProto()
    rewriting: Any = config.graph_options.rewrite_options  # each op by itself, as it was written
    rewriting.disable_meta_optimizer = True
    rewriting.constant_folding = rewriter_config_pb2.RewriterConfig.OFF
    config.graph_options.optimizer_options.opt_level = config_pb2.OptimizerOptions.L0

    def run(case: Case) -> Any:
        with tf.Graph().as_default(), tf.Session(config=config) as session:
            feeds = case.fed(tf)
            try:
                outs, gradients = case.build(tf, feeds)
            except (AttributeError, TypeError, ValueError) as error:
                print(f"TensorFlow has no {case.key}: {str(error).splitlines()[0][:90]}", file=sys.stderr)
                return None
            fetches = [tf.convert_to_tensor(t) for t in (*outs, *gradients) if t is not None]
            try:
                found = iter(session.run(fetches, feeds))
            except tf.errors.OpError as error:
                message = error.message.splitlines()[0][:90]
                print(f"{type(error).__name__}: {case.key}: {message}", file=sys.stderr)
                wrong = isinstance(error, tf.errors.InvalidArgumentError) and "No OpKernel" not in message
                return "InvalidArgumentError" if wrong else None
            parts = [
                [None if t is None else written(next(found)) for t in some] for some in (outs, gradients)
            ]
            return parts if parts[1] else parts[:1]

    values: dict[str, Any] = {}
    for case in cases():
        if case.key in values:
            raise SystemExit(f"two cases are called {case.key}: give one a label")
        values[case.key] = run(case)
    values = {key: value for key, value in values.items() if value is not None}
    for optimizer in OPTIMIZERS:
        with tf.Graph().as_default(), tf.Session(config=config) as session:
            step, v = training(tf, optimizer)
            session.run(tf.global_variables_initializer())
            after = []
            for _ in range(STEPS):
                session.run(step)
                after.append(written(session.run(v)))
            values[f"tf.train.{optimizer}"] = [after]
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
    head = f'"TensorFlow": "{tensorflow.__version__}"'
    VALUES.write_text("{\n" + ",\n".join([head, *lines]) + "\n}\n")
    print(f"{len(values)} cases, {VALUES.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
