"""Nested tuples, lists and dicts of tensors: taken apart into a flat list and put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dtrain.errors import GraphError


def is_nested(value: Any) -> bool:
    """Whether it is a list, a tuple or a dict."""
    return isinstance(value, list | tuple | dict)


def flatten(structure: Any) -> list[Any]:
    """The leaves, of a dict in the order of its keys."""
    if isinstance(structure, dict):
        structure = [structure[key] for key in sorted(structure)]
    if isinstance(structure, list | tuple):
        return [leaf for part in structure for leaf in flatten(part)]
    return [structure]


def pack(structure: Any, leaves: Sequence[Any]) -> Any:
    """The leaves in the places of another structure's."""
    left = list(leaves)
    packed = _pack(structure, left)
    assert not left
    return packed


def _pack(structure: Any, left: list[Any]) -> Any:
    if isinstance(structure, dict):
        packed = {key: _pack(structure[key], left) for key in sorted(structure)}
        return type(structure)((key, packed[key]) for key in structure)
    if isinstance(structure, list | tuple):
        parts = [_pack(part, left) for part in structure]
        return type(structure)(*parts) if hasattr(structure, "_fields") else type(structure)(parts)
    return left.pop(0)


def same(a: Any, b: Any) -> bool:
    """Whether two structures differ in their leaves alone; a list is like a tuple."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return not is_nested(a) and not is_nested(b)


def check_same(a: Any, b: Any, what: str) -> None:
    """Raise GraphError where two structures, as what calls them, differ."""
    if not same(a, b):
        raise GraphError(f"{what} have different structures: {a!r} and {b!r}.")


def map_structure(function: Callable[..., Any], *structures: Any) -> Any:
    """The first structure, with what a function gives of the leaves at each place."""
    return pack(structures[0], [function(*leaves) for leaves in zip(*map(flatten, structures), strict=True)])


__all__ = ["check_same", "flatten", "is_nested", "map_structure", "pack", "same"]
