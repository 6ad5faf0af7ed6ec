"""What old programs use of six, which TensorFlow 1 brought along: found where six is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dtrain.tf1.six import moves

__all__ = [
    "PY2",
    "PY3",
    "binary_type",
    "integer_types",
    "iteritems",
    "iterkeys",
    "itervalues",
    "moves",
    "string_types",
    "text_type",
]

PY2, PY3 = False, True
string_types, integer_types, text_type, binary_type = (str,), (int,), str, bytes


def iteritems(d: Any) -> Iterator[Any]:
    """Over d.items()."""
    return iter(d.items())


def iterkeys(d: Any) -> Iterator[Any]:
    """Over d.keys()."""
    return iter(d.keys())


def itervalues(d: Any) -> Iterator[Any]:
    """Over d.values()."""
    return iter(d.values())
