"""The initializer of lookup tables, of which there are none: vocabularies are known when columns are made."""

from __future__ import annotations

from dtrain.graph.graph import Operation
from dtrain.ops.state import no_op

__all__ = ["initialize_all_tables", "tables_initializer"]


def tables_initializer(name: str = "init_all_tables") -> Operation:
    """An operation that does nothing: no table has to be filled."""
    return no_op(name)


initialize_all_tables = tables_initializer
