"""Elements of data sets that have parts: tuples and dicts, nested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dtrain.graph.graph import Spec


def is_structure(value: Any) -> bool:
    """Whether it has parts, which a list has not: a list is an array."""
    return isinstance(value, tuple | Mapping) and not isinstance(value, Spec)


def flat(structure: Any) -> list[Any]:
    """The parts, those of a dict by its sorted keys."""
    if isinstance(structure, Mapping):
        return [leaf for key in sorted(structure) for leaf in flat(structure[key])]
    if is_structure(structure):
        return [leaf for part in structure for leaf in flat(part)]
    return [structure]


def packed(like: Any, leaves: Sequence[Any]) -> Any:
    """Leaves, in flat's order, in the structure of another value."""
    rest = iter(leaves)
    return mapped(lambda _: next(rest), like)


def mapped(function: Callable[[Any], Any], structure: Any) -> Any:
    """The structure with function(part) for each part."""
    if isinstance(structure, Mapping):
        parts = {key: mapped(function, structure[key]) for key in sorted(structure)}
        return {key: parts[key] for key in structure}
    if is_structure(structure):
        made = [mapped(function, part) for part in structure]
        return type(structure)(*made) if hasattr(structure, "_fields") else tuple(made)
    return function(structure)
