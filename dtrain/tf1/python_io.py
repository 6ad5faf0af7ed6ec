"""tf.python_io: TFRecord files in Python's hands."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from typing import Any

from dtrain.errors import DataError, UsageError
from dtrain.names import module_getattr
from dtrain.tf1.records import framed, records_of

__all__ = ["TFRecordCompressionType", "TFRecordOptions", "TFRecordWriter", "tf_record_iterator"]

__getattr__ = module_getattr("tf.python_io")


class TFRecordCompressionType:
    """How a file is compressed."""

    NONE, ZLIB, GZIP = range(3)


class TFRecordOptions:
    """compression_type: of TFRecordCompressionType, or '', 'ZLIB' or 'GZIP'."""

    def __init__(self, compression_type: Any = TFRecordCompressionType.NONE) -> None:
        names = {0: "", 1: "ZLIB", 2: "GZIP", None: "", "": "", "ZLIB": "ZLIB", "GZIP": "GZIP"}
        if compression_type not in names:
            raise UsageError(f"TFRecordOptions: compression_type {compression_type!r} is not known.")
        self.compression_type = names[compression_type]


class TFRecordWriter:
    """Writes records, which are bytes, to a file; closed by close() or at the end of a `with` block.

    On several ranks each writes what it is asked to: let rank 0 write a file that all share.
    """

    def __init__(self, path: str | os.PathLike[str], options: Any = None) -> None:
        kind = _compression(options)
        if kind == "ZLIB":
            raise UsageError("TFRecordWriter: files compressed by ZLIB are read only; write GZIP.")
        try:
            self._file: Any = gzip.open(path, "wb", 6) if kind == "GZIP" else open(path, "wb")  # noqa: SIM115
        except OSError as error:
            raise DataError(f"TFRecordWriter: {os.fspath(path)}: {error.strerror}.") from None

    def write(self, record: bytes) -> None:
        """Append a record."""
        self._file.write(framed(record.encode() if isinstance(record, str) else bytes(record)))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> TFRecordWriter:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def tf_record_iterator(path: str | os.PathLike[str], options: Any = None) -> Iterator[bytes]:
    """The records of a file. Raises DataError."""
    kind = _compression(options)
    try:
        with open(path, "rb") as file:
            data = file.read()
        if kind:
            data = gzip.decompress(data) if kind == "GZIP" else zlib.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"tf_record_iterator: {os.fspath(path)}: {error}") from None
    return records_of(data, os.fspath(path))


def _compression(options: Any) -> str:
    if options is None:
        return ""
    return (
        options.compression_type
        if isinstance(options, TFRecordOptions)
        else TFRecordOptions(options).compression_type
    )
