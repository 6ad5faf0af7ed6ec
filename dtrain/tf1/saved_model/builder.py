"""SavedModelBuilder: a graph, its variables' values and its signatures in a folder of dtrain's own format."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dtrain.errors import CheckpointError, NotSupportedError, UsageError
from dtrain.files import write_atomically
from dtrain.graph.graph_def import packed
from dtrain.ops.state import Variable, global_variables
from dtrain.tf1.saved_model.signature_def_utils import SignatureDef
from dtrain.tf1.saved_model.utils import TensorInfo
from dtrain.train.meta_graph import meta_graph_of
from dtrain.train.saver import Saver

__all__ = ["SavedModelBuilder"]

FILE, VALUES = "saved_model.json", "variables/variables"


class SavedModelBuilder:
    """Writes a model into a new folder; saved_model.loader.load reads it. Rank 0 writes.

    The files are dtrain's: TensorFlow and its serving do not read them; `dtrain export` writes ONNX.

    Raises:
        UsageError: an AssertionError in TensorFlow. The folder exists and is not empty.
    """

    def __init__(self, export_dir: str | os.PathLike[str]) -> None:
        self._folder = Path(export_dir)
        if (self._folder / FILE).exists():
            raise UsageError(f"SavedModelBuilder: {export_dir} holds a model already; give a new folder.")
        self._graph: dict[str, Any] | None = None
        self._rank = 0

    def add_meta_graph_and_variables(
        self,
        sess: Any,
        tags: Iterable[str],
        signature_def_map: Mapping[str, SignatureDef] | None = None,
        assets_collection: Any = None,
        legacy_init_op: Any = None,
        clear_devices: bool = False,
        main_op: Any = None,
        strip_default_attrs: bool = False,
        saver: Saver | None = None,
    ) -> None:
        """Take a session's graph and write its variables' values.

        legacy_init_op, main_op: run when it is loaded. There are no devices to clear, no defaults to strip.

        Raises:
            UsageError: assets are given, or there is a graph already.
            FailedPreconditionError: a variable has no value.
        """
        if assets_collection:
            raise UsageError("SavedModelBuilder: assets are not supported; copy the files yourself.")
        if self._graph is not None:
            raise UsageError("SavedModelBuilder: one graph is saved; make another builder for another.")
        with sess.graph.as_default():
            variables: list[Variable] = global_variables()
            saver = saver or (Saver(variables) if variables else None)
        meta = meta_graph_of(sess.graph, None if saver is None else saver._built())
        op = main_op if main_op is not None else legacy_init_op
        self._rank = sess.comm.rank
        self._graph = {
            "tags": sorted(tags),
            "signatures": {name: _form(given) for name, given in (signature_def_map or {}).items()},
            "main_op": None if op is None else op.name,
            "meta": meta.SerializeToString().decode(),
        }
        if saver is not None:
            saver.save(sess, str(self._folder / VALUES), write_meta_graph=False, write_state=False)

    def add_meta_graph(self, *args: Any, **named: Any) -> None:
        """Raises NotSupportedError: a model has one graph."""
        raise NotSupportedError("SavedModelBuilder.add_meta_graph: a saved model of dtrain's has one graph.")

    def save(self, as_text: bool = False) -> bytes:
        """Write the graph and return the file's path as bytes, as TensorFlow does. JSON is text always."""
        if self._graph is None:
            raise UsageError("SavedModelBuilder.save: there is no graph yet: add_meta_graph_and_variables.")
        path = self._folder / FILE
        if self._rank == 0:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                write_atomically(path, json.dumps(self._graph).encode())
            except OSError as error:
                raise CheckpointError(f"the model cannot be saved as {path}: {error}.") from None
        return str(path).encode()


def _form(signature: SignatureDef) -> list[Any]:
    def infos(given: Mapping[str, TensorInfo]) -> dict[str, Any]:
        return {
            key: [info.name, packed(info.dtype), packed(info.tensor_shape)] for key, info in given.items()
        }

    return [infos(signature.inputs), infos(signature.outputs), signature.method_name]
