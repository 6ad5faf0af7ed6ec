"""Text and bytes to numbers, in the functions of data sets: files, CSV lines, raw bytes, Examples."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dtrain.errors import DataError, InvalidArgumentError, UsageError
from dtrain.graph.dtypes import as_dtype, float32, string
from dtrain.graph.graph import Tensor
from dtrain.graph.shape import as_dims, is_static, size_of
from dtrain.ops.base import convert_to_tensor, to_array
from dtrain.ops.python import in_python
from dtrain.tf1.example import Example

__all__ = [
    "FixedLenFeature",
    "decode_csv",
    "decode_raw",
    "parse_example",
    "parse_single_example",
    "read_file",
    "string_to_number",
]


def read_file(filename: Any, name: str | None = None) -> Tensor:
    """The bytes of a file. Raises DataError while running."""

    def read(path: bytes) -> bytes:
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(f"read_file: {path.decode()}: {error.strerror}.") from None

    return in_python(read, [filename], [string], [[]], name or "ReadFile")[0]


def decode_raw(bytes: Any, out_type: Any, little_endian: bool = True, name: str | None = None) -> Tensor:
    """The numbers that bytes are in memory: [how many] of one string, [n, how many] of n strings."""
    dtype, strings = as_dtype(out_type), convert_to_tensor(bytes)
    order = dtype.numpy.newbyteorder("<" if little_endian else ">")

    def decode(value: Any) -> np.ndarray:
        array = np.asarray(value, object)
        try:
            rows = [np.frombuffer(v, order).astype(dtype.numpy) for v in array.ravel().tolist()]
        except ValueError as error:
            raise InvalidArgumentError(f"decode_raw: {error}.") from None
        return np.array(rows).reshape(*array.shape, -1)

    outer = strings.spec.shape
    shape = None if outer is None else (*outer, None)
    return in_python(decode, [strings], [dtype], [shape], name or "DecodeRaw")[0]


def string_to_number(string_tensor: Any, out_type: Any = float32, name: str | None = None) -> Tensor:
    """The numbers that strings say."""
    dtype, strings = as_dtype(out_type), convert_to_tensor(string_tensor)

    def decode(value: Any) -> np.ndarray:
        array = np.asarray(value, object)
        return _numbers(array.ravel().tolist(), dtype).reshape(array.shape)

    return in_python(decode, [strings], [dtype], [strings.spec.shape], name or "StringToNumber")[0]


def decode_csv(
    records: Any,
    record_defaults: Sequence[Any],
    field_delim: str = ",",
    use_quote_delim: bool = True,
    name: str | None = None,
    na_value: str = "",
    select_cols: Sequence[int] | None = None,
) -> list[Tensor]:
    """The fields of lines of CSV: a tensor for each, of the lines' shape and its default's dtype.

    record_defaults: of each field [what it is where the line has nothing], or [] or a dtype where it has to
        have something. na_value: text that counts as nothing.

    Raises:
        InvalidArgumentError: while running, of a line that does not fit.
    """
    lines = convert_to_tensor(records)
    dtypes, fills = [], []
    for default in record_defaults:
        if isinstance(default, list | tuple | np.ndarray | Tensor):
            array = to_array(default, None) if not isinstance(default, Tensor) else _known(default)
            dtypes.append(string if array.dtype == object else as_dtype(array.dtype))
            fills.append(array.ravel()[0] if array.size else None)
        else:
            dtypes.append(string if default == string else as_dtype(default))
            fills.append(None)

    def decode(value: Any) -> list[np.ndarray]:
        array = np.asarray(value, object)
        texts = [line.decode() for line in array.ravel().tolist()]
        quoting: Any = csv.QUOTE_MINIMAL if use_quote_delim else csv.QUOTE_NONE
        rows = list(csv.reader(texts, delimiter=field_delim, quoting=quoting))
        if select_cols is not None:
            rows = [[row[i] for i in select_cols] for row in rows]
        if odd := [row for row in rows if len(row) != len(dtypes)]:
            raise InvalidArgumentError(
                f"decode_csv: Expect {len(dtypes)} fields but have {len(odd[0])} in a record."
            )
        columns = []
        for i, (dtype, fill) in enumerate(zip(dtypes, fills, strict=True)):
            column: list[Any] = [row[i] for row in rows]
            empty = [text in ("", na_value) for text in column]
            if fill is None and any(empty):
                raise InvalidArgumentError(f"decode_csv: Field {i} is required but missing in a record.")
            column = [fill if e else text for text, e in zip(column, empty, strict=True)]
            values = to_array(column, string) if dtype.is_string else _numbers(column, dtype)
            columns.append(values.reshape(array.shape))
        return columns if len(columns) > 1 else columns[0]  # type: ignore[return-value]  # one output is no list

    shapes = [lines.spec.shape] * len(dtypes)
    return in_python(decode, [lines], dtypes, shapes, name or "DecodeCSV")


def _numbers(texts: Sequence[Any], dtype: Any) -> np.ndarray:
    try:
        kind = int if dtype.is_integer else float
        return np.array([kind(text) for text in texts], dtype.numpy)
    except (ValueError, OverflowError):
        odd = next(t for t in texts if not _is_number(t, kind))
        raise InvalidArgumentError(f"{odd!r} is not a valid {dtype.name}.") from None


def _is_number(text: Any, kind: type) -> bool:
    try:
        kind(text)
    except (ValueError, OverflowError):
        return False
    return True


def _known(tensor: Tensor) -> np.ndarray:
    from dtrain.ops.late import known_value

    value = known_value(tensor)
    if value is None:
        raise UsageError("decode_csv: record_defaults have to be constants.")
    return value


# -- Examples --------------------------------------------------------------------------------------------
class FixedLenFeature(NamedTuple):
    """A feature of this shape and dtype (float32, int64 or string) in each Example."""

    shape: Any
    dtype: Any
    default_value: Any = None


def parse_single_example(
    serialized: Any, features: Mapping[str, Any], name: str | None = None, example_names: Any = None
) -> dict[str, Tensor]:
    """The features of one serialised Example, by name. Features of varying length are refused."""
    return _parsed(serialized, features, (), name or "ParseSingleExample")


def parse_example(
    serialized: Any, features: Mapping[str, Any], name: str | None = None, example_names: Any = None
) -> dict[str, Tensor]:
    """parse_single_example of a vector of Examples."""
    strings = convert_to_tensor(serialized)
    return _parsed(strings, features, strings.spec.shape or (None,), name or "ParseExample")


def _parsed(
    serialized: Any, features: Mapping[str, Any], outer: tuple[Any, ...], name: str
) -> dict[str, Tensor]:
    names = sorted(features)
    for key in names:
        if not isinstance(features[key], FixedLenFeature):
            raise UsageError(
                f"{key}: {type(features[key]).__name__}: tensors are dense: take FixedLenFeature."
            )
    kinds = {key: string if features[key].dtype == string else as_dtype(features[key].dtype) for key in names}
    shapes = {key: as_dims(features[key].shape) or () for key in names}

    def one(data: bytes) -> list[np.ndarray]:
        found = Example.FromString(data).features.feature
        values = []
        for key in names:
            feature, kind, shape = found.get(key), kinds[key], shapes[key]
            which = "bytes_list" if kind.is_string else "float_list" if kind.is_floating else "int64_list"
            if feature is None or feature.WhichOneof() is None:
                if features[key].default_value is None:
                    raise InvalidArgumentError(f"Feature: {key} (data type: {kind.name}) is required.")
                value = to_array(features[key].default_value, kind)
            else:
                if feature.WhichOneof() != which:
                    raise InvalidArgumentError(f"Feature: {key} is a {feature.WhichOneof()}, and no {which}.")
                value = to_array(getattr(feature, which).value, kind)
            if is_static(shape) and value.size != size_of(shape):
                raise InvalidArgumentError(
                    f"Key: {key}. Number of values != expected: {value.size} for shape {list(shape)}."
                )
            values.append(value.reshape([-1 if d is None else d for d in shape]))
        return values

    def parse(value: Any) -> Any:
        if not outer:
            values = one(value)
        else:
            columns = zip(*(one(data) for data in value.tolist()), strict=True)
            values = [np.stack(column) for column in columns]
        return values if len(values) > 1 else values[0]

    tensors = in_python(
        parse, [serialized], [kinds[k] for k in names], [(*outer, *shapes[k]) for k in names], name
    )
    return dict(zip(names, tensors, strict=True))
