"""tf.contrib.predictor: a saved model as a function of arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dtrain.errors import UsageError
from dtrain.graph.graph import Graph
from dtrain.names import module_getattr
from dtrain.runtime.session import Session
from dtrain.tf1.saved_model.loader import load
from dtrain.tf1.saved_model.signature_constants import DEFAULT_SERVING_SIGNATURE_DEF_KEY

__all__ = ["from_saved_model"]

__getattr__ = module_getattr("tf.contrib.predictor")


class Predictor:
    """Arrays by the names of a signature's inputs in, a dict of its outputs out; made by from_saved_model."""

    def __init__(self, session: Session, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self.session, self.graph = session, session.graph
        self.feed_tensors, self.fetch_tensors = dict(inputs), dict(outputs)

    def __call__(self, input_dict: Mapping[str, Any]) -> dict[str, Any]:
        if unknown := sorted(set(input_dict) - set(self.feed_tensors)):
            raise UsageError(f"the predictor has no input {unknown}; it has {sorted(self.feed_tensors)}.")
        feeds = {self.feed_tensors[name]: value for name, value in input_dict.items()}
        found: dict[str, Any] = self.session.run(self.fetch_tensors, feeds)
        return found


def from_saved_model(
    export_dir: str | bytes | os.PathLike[str],
    signature_def_key: str | None = None,
    signature_def: Any = None,
    input_names: Mapping[str, str] | None = None,
    output_names: Mapping[str, str] | None = None,
    tags: str = "serve",
    graph: Graph | None = None,
    config: Any = None,
) -> Predictor:
    """A function of arrays, of a folder that export_savedmodel or SavedModelBuilder wrote.

    Args:
        signature_def_key: the signature's name, by default the default one; or signature_def, one itself.
        input_names, output_names: names of tensors by other names, instead of a signature.
        tags: those of the model, with commas between.
        graph: where it is built, by default a new one.
        config: of its session.

    Raises:
        UsageError: there is no such signature.
        CheckpointError: there is no such model.
    """
    session = Session(graph=graph or Graph(), config=config)
    folder = export_dir.decode() if isinstance(export_dir, bytes) else export_dir
    meta = load(session, tags.split(","), folder)
    if input_names is None or output_names is None:
        name = signature_def_key or DEFAULT_SERVING_SIGNATURE_DEF_KEY
        if signature_def is None and name not in meta.signature_def:
            raise UsageError(f"{folder} has no signature {name}; it has {sorted(meta.signature_def)}.")
        found = signature_def or meta.signature_def[name]
        input_names = {key: info.name for key, info in found.inputs.items()}
        output_names = {key: info.name for key, info in found.outputs.items()}
    inputs, outputs = (
        {key: session.graph.get_tensor_by_name(name) for key, name in names.items()}
        for names in (input_names, output_names)
    )
    return Predictor(session, inputs, outputs)
