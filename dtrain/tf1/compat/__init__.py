"""tf.compat: v1 is dtrain itself; text and bytes as each other."""

from __future__ import annotations

import numbers
import os
from typing import Any

import numpy as np

from dtrain.names import module_getattr
from dtrain.tf1.compat import v1 as v1

__all__ = [
    "as_bytes",
    "as_str",
    "as_str_any",
    "as_text",
    "bytes_or_text_types",
    "complex_types",
    "integral_types",
    "path_to_str",
    "real_types",
]

__getattr__ = module_getattr("tf.compat")

#: What isinstance asks for numbers and text, NumPy's among them.
integral_types = (numbers.Integral, np.integer)
real_types = (numbers.Real, np.integer, np.floating)
complex_types = (numbers.Complex, np.number)
bytes_or_text_types = (bytes, str)


def as_bytes(bytes_or_text: bytes | str, encoding: str = "utf-8") -> bytes:
    """Bytes, of text by its encoding. Raises TypeError for what is neither."""
    if isinstance(bytes_or_text, str):
        return bytes_or_text.encode(encoding)
    if isinstance(bytes_or_text, bytes | bytearray):
        return bytes(bytes_or_text)
    raise TypeError(f"Expected binary or unicode string, got {bytes_or_text!r}")


def as_text(bytes_or_text: bytes | str, encoding: str = "utf-8") -> str:
    """Text, of bytes by their encoding. Raises TypeError for what is neither."""
    if isinstance(bytes_or_text, str):
        return bytes_or_text
    return as_bytes(bytes_or_text).decode(encoding)


as_str = as_text


def as_str_any(value: Any) -> str:
    """Text of anything: bytes are decoded, all else is what str makes of it."""
    return as_text(value) if isinstance(value, bytes) else str(value)


def path_to_str(path: str | bytes | os.PathLike[str]) -> str:
    """A path as text."""
    return as_str_any(os.fspath(path))
