"""simple_save: a model with one signature in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dtrain.tf1.saved_model.builder import SavedModelBuilder
from dtrain.tf1.saved_model.signature_constants import DEFAULT_SERVING_SIGNATURE_DEF_KEY
from dtrain.tf1.saved_model.signature_def_utils import predict_signature_def
from dtrain.tf1.saved_model.tag_constants import SERVING

__all__ = ["simple_save"]


def simple_save(
    session: Any,
    export_dir: str | os.PathLike[str],
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    legacy_init_op: Any = None,
) -> None:
    """Write a session's graph and values into a new folder, for predictions."""
    builder = SavedModelBuilder(export_dir)
    signatures = {DEFAULT_SERVING_SIGNATURE_DEF_KEY: predict_signature_def(inputs, outputs)}
    builder.add_meta_graph_and_variables(session, [SERVING], signatures, legacy_init_op=legacy_init_op)
    builder.save()
