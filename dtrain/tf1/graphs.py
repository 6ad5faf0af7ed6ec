"""tf.train.write_graph: a graph as a file, and FileWriterCache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dtrain.comm import launcher
from dtrain.graph.graph import Graph
from dtrain.graph.graph_def import GraphDef, graph_def_of
from dtrain.ops import summary_proto
from dtrain.summary import FileWriter

__all__ = ["FileWriterCache", "write_graph"]


def write_graph(
    graph_or_graph_def: Graph | GraphDef, logdir: str | os.PathLike[str], name: str, as_text: bool = True
) -> str:
    """Write a graph as a GraphDef message, as text or binary, and give the path. Rank 0 writes.

    Its operations are dtrain's: TensorBoard shows it, and TensorFlow cannot run it.
    """
    definition: Any = graph_or_graph_def
    if isinstance(definition, Graph):
        definition = graph_def_of(definition.operations)
    message = summary_proto.protos().graph_pb2.GraphDef.FromString(summary_proto.graph(definition))
    path = Path(logdir, name)
    if launcher.rank() == 0:
        from google.protobuf import text_format

        path.parent.mkdir(parents=True, exist_ok=True)
        data = text_format.MessageToString(message).encode() if as_text else message.SerializeToString()
        path.write_bytes(data)
    return str(path)


class FileWriterCache:
    """A FileWriter a folder."""

    _writers: dict[str, FileWriter] = {}  # noqa: RUF012

    @classmethod
    def get(cls, logdir: str | os.PathLike[str]) -> FileWriter:
        """The folder's writer, made at the first call."""
        folder = os.fspath(logdir)
        if folder not in cls._writers:
            cls._writers[folder] = FileWriter(folder)
        return cls._writers[folder]

    @classmethod
    def clear(cls) -> None:
        """Close and forget them."""
        for writer in cls._writers.values():
            writer.close()
        cls._writers.clear()
