"""load: a model that SavedModelBuilder wrote, into a session."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dtrain.errors import CheckpointError, UsageError
from dtrain.files import read_regular
from dtrain.graph.graph_def import unpacked
from dtrain.tf1.saved_model.builder import FILE, VALUES
from dtrain.tf1.saved_model.signature_def_utils import SignatureDef
from dtrain.tf1.saved_model.utils import TensorInfo
from dtrain.train.meta_graph import MOST_BYTES, MetaGraphDef, import_meta_graph

__all__ = ["load", "maybe_saved_model_directory"]


def maybe_saved_model_directory(export_dir: str | os.PathLike[str]) -> bool:
    """Whether a folder may hold a model of SavedModelBuilder's."""
    return (Path(export_dir) / FILE).is_file()


def load(
    sess: Any,
    tags: Iterable[str],
    export_dir: str | os.PathLike[str],
    import_scope: str | None = None,
    **saver_kwargs: Any,
) -> MetaGraphDef:
    """Build a saved model into the session's graph and give its variables their values. Every rank calls it.

    Returns:
        Its graph as a MetaGraphDef; signature_def has the names of its inputs' and outputs' tensors.

    Raises:
        UsageError: the model has other tags.
        CheckpointError: it is not there, or damaged.
    """
    folder = Path(export_dir)
    try:
        content = json.loads(read_regular(folder / FILE, MOST_BYTES))
        found, signatures, main_op = content["tags"], content["signatures"], content["main_op"]
        meta = MetaGraphDef.FromString(content["meta"].encode())
    except FileNotFoundError:
        raise CheckpointError(
            f"SavedModel file does not exist at {export_dir}: it has no {FILE}; TensorFlow's are not read."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / FILE} cannot be read: {error}.") from None
    if set(found) != set(tags):
        raise UsageError(f"load: the model in {export_dir} has the tags {found}, not {sorted(tags)}.")
    with sess.graph.as_default():
        saver = import_meta_graph(meta, import_scope=import_scope, **saver_kwargs)
    if saver is not None:
        saver.restore(sess, str(folder / VALUES))
    if main_op:
        sess.run(f"{import_scope}/{main_op}" if import_scope else main_op)
    meta.signature_def = {name: _signature(form) for name, form in signatures.items()}
    return meta


def _signature(form: Any) -> SignatureDef:
    inputs, outputs = (
        {
            key: TensorInfo(name, unpacked(dtype), unpacked(shape))
            for key, (name, dtype, shape) in infos.items()
        }
        for infos in form[:2]
    )
    return SignatureDef(inputs, outputs, form[2])
