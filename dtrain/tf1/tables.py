"""tables_initializer. There are no lookup tables to fill; but programs collect initializers of iterators."""

from __future__ import annotations

from dtrain.graph.collections import GraphKeys
from dtrain.graph.graph import Operation, get_collection
from dtrain.ops.state import group

__all__ = ["initialize_all_tables", "tables_initializer"]


def tables_initializer(name: str = "init_all_tables") -> Operation:
    """An operation that runs what is in the collection TABLE_INITIALIZERS."""
    return group(*get_collection(GraphKeys.TABLE_INITIALIZERS), name=name)


initialize_all_tables = tables_initializer
