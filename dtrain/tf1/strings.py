"""tf.strings and its older names: text made of numbers and of text, by Python.

As files that are read, it is computed of constants, of what is fed and in the functions of data sets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import bool_, int32, int64, string
from dtrain.graph.graph import Tensor
from dtrain.graph.shape import broadcast
from dtrain.names import module_getattr
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.python import in_python
from dtrain.tf1.parsing import string_to_number as to_number
from dtrain.tf1.sparse import SparseTensor

__all__ = [
    "as_string",
    "join",
    "length",
    "lower",
    "reduce_join",
    "regex_full_match",
    "regex_replace",
    "split",
    "string_join",
    "string_split",
    "strip",
    "substr",
    "to_hash_bucket_fast",
    "to_number",
    "upper",
]

__getattr__ = module_getattr("tf.strings")


def as_string(
    input: Any,
    precision: int = -1,
    scientific: bool = False,
    shortest: bool = False,
    width: int = -1,
    fill: str = "",
    name: str | None = None,
) -> Tensor:
    """Numbers as text: integers by their digits, true and false, floats with six digits after the point.

    precision: digits after the point; scientific: with an exponent; shortest: the shorter of both;
    width: at least so many characters, filled on the left by blanks or by fill ('0', '+', ' ', or '-': on
    the right).

    Raises:
        GraphError: scientific and shortest are both set, or precision is given for integers.
    """
    x = convert_to_tensor(input)
    if scientific and shortest:
        raise GraphError("as_string: scientific or shortest, not both.")
    if precision > -1 and not x.dtype.is_floating:
        raise GraphError(f"as_string: precision is for floats, and not for {x.dtype.name}.")
    if len(fill) > 1 or (fill and fill not in "0+ -"):
        raise GraphError(f"as_string: fill is '0', '+', ' ' or '-', and not {fill!r}.")
    form = "%" + fill + (str(width) if width > -1 else "") + (f".{precision}" if precision > -1 else "")
    form += ("e" if scientific else "g" if shortest else "f") if x.dtype.is_floating else "d"

    def text(value: Any) -> bytes:
        if x.dtype == bool_:
            return b"true" if value else b"false"
        return (form % value).encode()

    return _each(text, x, name or "AsString")


def join(inputs: Sequence[Any], separator: str = "", name: str | None = None) -> Tensor:
    """The texts of tensors, entry by entry, one after another; a scalar goes with every entry."""
    tensors = [convert_to_tensor(value) for value in inputs]
    shapes = [t.spec.shape for t in tensors if t.spec.shape != ()]
    shape: Any = () if not shapes else shapes[0]

    def joined(*values: Any) -> Any:
        arrays = np.broadcast_arrays(*(np.asarray(v, object) for v in values))
        between = separator.encode()
        made = [between.join(entries) for entries in zip(*(a.ravel().tolist() for a in arrays), strict=True)]
        return _objects(made).reshape(arrays[0].shape)

    for other in shapes:
        shape = broadcast(shape, other)
    return in_python(joined, tensors, [string], [shape], name or "StringJoin")[0]


def reduce_join(
    inputs: Any,
    axis: int | None = None,
    keep_dims: bool = False,
    separator: str = "",
    name: str | None = None,
    keepdims: bool | None = None,
    reduction_indices: int | None = None,
) -> Tensor:
    """The texts along an axis, or all of them, one after another."""
    x = convert_to_tensor(inputs)
    axis, keep = reduction_indices if axis is None else axis, bool(keepdims or keep_dims)
    shape = x.spec.shape
    if shape is not None:
        at = range(len(shape)) if axis is None else [axis % max(len(shape), 1)]
        kept = [(1 if i in at else d) for i, d in enumerate(shape) if keep or i not in at]
        shape = tuple(kept)
    between = separator.encode()

    def joined(value: Any) -> Any:
        array = np.asarray(value, object)
        if axis is None:
            made = _objects([between.join(array.ravel().tolist())]).reshape([1] * array.ndim if keep else [])
            return made
        rows = np.moveaxis(array, axis, -1)
        flat = rows.reshape(-1, rows.shape[-1]).tolist()
        made = _objects([between.join(row) for row in flat]).reshape(rows.shape[:-1])
        return np.expand_dims(made, axis) if keep else made

    return in_python(joined, [x], [string], [shape], name or "ReduceJoin")[0]


def string_split(
    source: Any, delimiter: str = " ", skip_empty: bool = True, sep: str | None = None
) -> SparseTensor:
    """The parts of texts [n], as a SparseTensor [n, most parts]; of one text, values are its parts.

    delimiter: characters, each of which parts; '' parts after every character.
    """
    letters = (delimiter if sep is None else sep).encode()

    def parts(value: Any) -> list[Any]:
        rows = [_parts(text, letters, skip_empty) for text in np.asarray(value, object).ravel().tolist()]
        at = [(i, j) for i, row in enumerate(rows) for j in range(len(row))]
        most = max((len(row) for row in rows), default=0)
        return [
            np.array(at, np.int64).reshape(-1, 2),
            _objects([part for row in rows for part in row]),
            np.array([len(rows), most], np.int64),
        ]

    kinds = [int64, string, int64]
    return SparseTensor(*in_python(parts, [source], kinds, [[None, 2], [None], [2]], "StringSplit"))


split, string_join = string_split, join


def _parts(text: bytes, letters: bytes, skip_empty: bool) -> list[bytes]:
    if not letters:
        return [bytes([c]) for c in text]
    found = re.split(b"[" + re.escape(letters) + b"]", text)
    return [part for part in found if part] if skip_empty else found


def substr(input: Any, pos: Any, len: Any, name: str | None = None) -> Tensor:
    """`len` bytes of each text from `pos` on, which counts from the end where it is below 0."""

    def part(value: Any, start: Any, count: Any) -> Any:
        texts, starts, counts = np.broadcast_arrays(np.asarray(value, object), start, count)
        made = []
        for text, at, n in zip(texts.ravel().tolist(), starts.ravel(), counts.ravel(), strict=True):
            first = max(int(at) + (text.__len__() if at < 0 else 0), 0)
            made.append(text[first : first + int(n)])
        return _objects(made).reshape(texts.shape)

    x, start, count = (convert_to_tensor(value) for value in (input, pos, len))
    shape = broadcast(broadcast(x.spec.shape, start.spec.shape), count.spec.shape)
    return in_python(part, [x, start, count], [string], [shape], name or "Substr")[0]


def length(input: Any, name: str | None = None, unit: str = "BYTE") -> Tensor:
    """How many bytes, or for unit UTF8_CHAR characters, each text has: int32."""
    count: Callable[[bytes], int] = len if unit == "BYTE" else lambda text: len(text.decode())
    return _each(count, input, name or "StringLength", int32)


def lower(input: Any, encoding: str = "", name: str | None = None) -> Tensor:
    """Small letters; of encoding 'utf-8' beyond ASCII, too."""
    return _each(lambda t: t.decode().lower().encode() if encoding else t.lower(), input, name or "Lower")


def upper(input: Any, encoding: str = "", name: str | None = None) -> Tensor:
    """Capital letters; of encoding 'utf-8' beyond ASCII, too."""
    return _each(lambda t: t.decode().upper().encode() if encoding else t.upper(), input, name or "Upper")


def strip(input: Any, name: str | None = None) -> Tensor:
    """Without blanks at both ends."""
    return _each(lambda text: text.strip(), input, name or "StringStrip")


def regex_replace(
    input: Any, pattern: str, rewrite: str, replace_global: bool = True, name: str | None = None
) -> Tensor:
    """Each match of a regular expression, or the first, replaced. Python's expressions, not RE2's."""
    found, by = re.compile(pattern.encode()), rewrite.encode()
    return _each(lambda t: found.sub(by, t, 0 if replace_global else 1), input, name or "RegexReplace")


def regex_full_match(input: Any, pattern: str, name: str | None = None) -> Tensor:
    """Whether a regular expression matches the whole text. Python's expressions, not RE2's."""
    found = re.compile(pattern.encode())
    return _each(lambda text: found.fullmatch(text) is not None, input, name or "RegexFullMatch", bool_)


def to_hash_bucket_fast(input: Any, num_buckets: int, name: str | None = None) -> Tensor:
    """A number below num_buckets of each text, int64; another hash than TensorFlow's."""
    from zlib import crc32

    return _each(lambda text: crc32(text) % num_buckets, input, name or "StringToHashBucketFast", int64)


def _each(function: Callable[[Any], Any], input: Any, name: str, kind: Any = string) -> Tensor:
    """A function of every entry."""
    x = convert_to_tensor(input)

    def every(value: Any) -> Any:
        array = np.asarray(value)
        made = [function(entry) for entry in array.ravel().tolist()]
        return (_objects(made) if kind == string else np.array(made, kind.numpy)).reshape(array.shape)

    return in_python(every, [x], [kind], [x.spec.shape], name)[0]


def _objects(values: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array
