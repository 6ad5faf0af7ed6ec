"""tf.train.Example: named lists of numbers or bytes, in the form of protocol buffers.

Source: TensorFlow's core/example/example.proto and feature.proto, and the wire format of protocol buffers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from dtrain.errors import DataError, UsageError

__all__ = ["BytesList", "Example", "Feature", "Features", "FloatList", "Int64List"]


class BytesList:
    """A list of bytes, `value`; text is kept as UTF-8."""

    def __init__(self, value: Iterable[Any] = ()) -> None:
        self.value = [v.encode() if isinstance(v, str) else bytes(v) for v in value]

    def _body(self) -> bytes:
        return b"".join(_field(1, v) for v in self.value)


class FloatList:
    """A list of float32 numbers, `value`."""

    def __init__(self, value: Iterable[Any] = ()) -> None:
        self.value = np.asarray(list(value), np.float32).astype(float).tolist()

    def _body(self) -> bytes:
        return _field(1, np.asarray(self.value, "<f4").tobytes()) if self.value else b""


class Int64List:
    """A list of int64 numbers, `value`."""

    def __init__(self, value: Iterable[Any] = ()) -> None:
        self.value = [int(v) for v in value]

    def _body(self) -> bytes:
        return _field(1, b"".join(_varint(v) for v in self.value)) if self.value else b""


_LISTS: dict[int, tuple[str, type]] = {
    1: ("bytes_list", BytesList),
    2: ("float_list", FloatList),
    3: ("int64_list", Int64List),
}


class Feature:
    """One list: bytes_list, float_list or int64_list."""

    def __init__(
        self,
        bytes_list: BytesList | None = None,
        float_list: FloatList | None = None,
        int64_list: Int64List | None = None,
    ) -> None:
        given = {"bytes_list": bytes_list, "float_list": float_list, "int64_list": int64_list}
        self._kind = next((name for name, value in given.items() if value is not None), None)
        if sum(value is not None for value in given.values()) > 1:
            raise UsageError("Feature: give one of bytes_list, float_list and int64_list.")
        self.bytes_list = bytes_list or BytesList()
        self.float_list = float_list or FloatList()
        self.int64_list = int64_list or Int64List()

    def WhichOneof(self, group: str = "kind") -> str | None:
        """Which list it has."""
        return self._kind

    def _body(self) -> bytes:
        return b"".join(
            _field(number, getattr(self, name)._body())
            for number, (name, _) in _LISTS.items()
            if name == self._kind
        )


class Features:
    """Features by name, `feature`."""

    def __init__(self, feature: Mapping[str, Feature] | None = None) -> None:
        self.feature = dict(feature or {})

    def _body(self) -> bytes:
        return b"".join(
            _field(1, _field(1, name.encode()) + _field(2, self.feature[name]._body()))
            for name in sorted(self.feature)
        )


class Example:
    """An example: `features`."""

    def __init__(self, features: Features | None = None) -> None:
        self.features = features or Features()

    def SerializeToString(self) -> bytes:
        """It as bytes, the same for the same features."""
        return _field(1, self.features._body())

    def ParseFromString(self, data: bytes) -> int:
        """Take what the bytes hold; returns how many they are. Raises DataError."""
        found = Features()
        for number, body in _fields(data):
            if number == 1:
                for _, entry in _fields(body):
                    parts = dict(_fields(entry))
                    found.feature[parts.get(1, b"").decode()] = _feature(parts.get(2, b""))
        self.features = found
        return len(data)

    @classmethod
    def FromString(cls, data: bytes) -> Example:
        """The example that bytes hold. Raises DataError."""
        example = cls()
        example.ParseFromString(data)
        return example


def _feature(data: bytes) -> Feature:
    for number, body in _fields(data):
        if number in _LISTS:
            name, kind = _LISTS[number]
            return Feature(**{name: kind(_values(number, body))})
    return Feature()


def _values(number: int, body: bytes) -> list[Any]:
    values: list[Any] = []
    for field, data in _fields(body):
        if field != 1:
            continue
        if number == 1:
            values.append(data)
        elif number == 2:
            values += np.frombuffer(data, "<f4").tolist()
        elif isinstance(data, int):
            values.append(_signed(data))
        else:
            at = 0
            while at < len(data):
                value, at = _read_varint(data, at)
                values.append(_signed(value))
    return values


# -- protocol buffers --------------------------------------------------------------------------------------
def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _field(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise DataError("an Example is damaged: its bytes end in the middle of a number.")
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """(number, content) of each field of a message."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _read_varint(data, at)
            yield number, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, at = _read_varint(data, at)
        if length is None or at + length > len(data):
            raise DataError("an Example is damaged, or these bytes are none.")
        yield number, data[at : at + length]
        at += length
