"""Data types, under TensorFlow 1's names. Each wraps one NumPy dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.errors import GraphError


class DType:
    """The element type of a tensor, such as dt.float32.

    It equals its name and its NumPy dtype: `t.dtype == "float32"`.

    Args:
        name: TensorFlow's name of the type.
        numpy: the NumPy dtype.
    """

    __slots__ = ("as_numpy_dtype", "name", "numpy")

    def __init__(self, name: str, numpy: Any) -> None:
        self.name = name
        self.numpy = np.dtype(numpy)
        self.as_numpy_dtype = numpy

    @property
    def is_floating(self) -> bool:
        return self.numpy.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.numpy.kind in "iu"

    @property
    def is_string(self) -> bool:
        return self.numpy.kind == "O"

    @property
    def is_bool(self) -> bool:
        return self.numpy.kind == "b"

    @property
    def base_dtype(self) -> DType:
        """Itself: a variable's dtype is no other than its value's."""
        return self

    real_dtype = base_dtype

    @property
    def min(self) -> Any:
        """The smallest number."""
        return np.finfo(self.numpy).min if self.is_floating else np.iinfo(self.numpy).min

    @property
    def max(self) -> Any:
        """The largest number."""
        return np.finfo(self.numpy).max if self.is_floating else np.iinfo(self.numpy).max

    def is_compatible_with(self, other: Any) -> bool:
        """Whether it is the same."""
        return self == other

    def __eq__(self, other: object) -> bool:
        if isinstance(other, DType):
            return self.name == other.name
        try:
            return as_dtype(other).name == self.name
        except GraphError:
            return False

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"tf.{self.name}"

    def __str__(self) -> str:
        return f"<dtype: '{self.name}'>"


float16 = DType("float16", np.float16)
float32 = DType("float32", np.float32)
float64 = DType("float64", np.float64)
int8 = DType("int8", np.int8)
int16 = DType("int16", np.int16)
int32 = DType("int32", np.int32)
int64 = DType("int64", np.int64)
uint8 = DType("uint8", np.uint8)
bool_ = DType("bool", np.bool_)

#: Bytes, such as a serialised summary. Nothing computes with them, so `ALL` and as_dtype leave it out.
string = DType("string", np.object_)

ALL = (float16, float32, float64, int8, int16, int32, int64, uint8, bool_)
FLOATING = tuple(d for d in ALL if d.is_floating)
NUMERIC = tuple(d for d in ALL if not d.is_bool)

_BY_NAME = {d.name: d for d in ALL} | {"float": float32, "double": float64, "int": int32}
_BY_NUMPY = {d.numpy: d for d in ALL}

DTypeLike = DType | str | type | np.dtype


def as_dtype(value: Any) -> DType:
    """The DType of a value that names one.

    Args:
        value: a DType, a name ("float" is float32, as in TensorFlow 1), a NumPy dtype or a Python type.

    Returns:
        DType: the type.

    Raises:
        GraphError: there is no such type.

    Example:
        >>> dt.as_dtype("float") == dt.float32
        True
    """
    if isinstance(value, DType):
        return value
    if isinstance(value, str) and value in _BY_NAME:
        return _BY_NAME[value]
    for kind, dtype in ((float, float32), (int, int32), (bool, bool_)):
        if value is kind:  # not ==, which NumPy's float64 answers for float
            return dtype
    try:
        if value is not None:  # which NumPy takes for float64
            return _BY_NUMPY[np.dtype(value)]
        raise TypeError
    except (TypeError, KeyError):
        names = ", ".join(d.name for d in ALL)
        raise GraphError(f"{value!r} is not a dtype that dtrain has; it has {names}.") from None
