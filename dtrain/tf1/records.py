"""TFRecord files: records with their lengths and masked CRC-32C checksums.

Source: TensorFlow's tensorflow/core/lib/io/record_writer.h describes the format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dtrain.errors import DataError

_HEAD = struct.Struct("<QI")
_CRC = struct.Struct("<I")


def _table() -> list[int]:
    values = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        values.append(n)
    return values


_TABLE = _table()


def _checksum(data: bytes) -> int:
    """The masked CRC-32C (Castagnoli) of some bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(record: bytes) -> bytes:
    """A record as it is in a file."""
    length = struct.pack("<Q", len(record))
    return length + _CRC.pack(_checksum(length)) + record + _CRC.pack(_checksum(record))


def records_of(data: bytes, name: str) -> Iterator[bytes]:
    """The records of a file's content. The checksum of a record's length is compared, as is that it is whole.

    Raises:
        DataError: the file is damaged.
    """
    at = 0
    while at < len(data):
        end = at + _HEAD.size
        if end > len(data):
            raise DataError(f"{name}: truncated record at {at}: the file is no TFRecord file, or cut off.")
        length, crc = _HEAD.unpack_from(data, at)
        if crc != _checksum(data[at : at + 8]):
            raise DataError(f"{name}: corrupted record at {at}: the file is no TFRecord file, or damaged.")
        if end + length + _CRC.size > len(data):
            raise DataError(f"{name}: truncated record at {at}: the file is cut off.")
        yield data[end : end + length]
        at = end + length + _CRC.size
