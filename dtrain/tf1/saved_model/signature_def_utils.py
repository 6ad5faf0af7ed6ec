"""Signatures: inputs and outputs of a saved model by names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dtrain.tf1.saved_model import signature_constants as names
from dtrain.tf1.saved_model.utils import TensorInfo, build_tensor_info

__all__ = [
    "SignatureDef",
    "build_signature_def",
    "classification_signature_def",
    "predict_signature_def",
    "regression_signature_def",
]


@dataclass
class SignatureDef:
    """Tensors by the names that callers know, and what the whole is for."""

    inputs: dict[str, TensorInfo] = field(default_factory=dict)
    outputs: dict[str, TensorInfo] = field(default_factory=dict)
    method_name: str = ""


def build_signature_def(
    inputs: Mapping[str, TensorInfo] | None = None,
    outputs: Mapping[str, TensorInfo] | None = None,
    method_name: str | None = None,
) -> SignatureDef:
    """Of what build_tensor_info gave."""
    return SignatureDef(dict(inputs or {}), dict(outputs or {}), method_name or "")


def _infos(tensors: Mapping[str, Any]) -> dict[str, TensorInfo]:
    return {name: build_tensor_info(tensor) for name, tensor in tensors.items() if tensor is not None}


def predict_signature_def(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> SignatureDef:
    """Of tensors by name."""
    return SignatureDef(_infos(inputs), _infos(outputs), names.PREDICT_METHOD_NAME)


def classification_signature_def(examples: Any, classes: Any, scores: Any) -> SignatureDef:
    """Of a classifier; classes or scores may be None."""
    outputs = {names.CLASSIFY_OUTPUT_CLASSES: classes, names.CLASSIFY_OUTPUT_SCORES: scores}
    inputs = {names.CLASSIFY_INPUTS: examples}
    return SignatureDef(_infos(inputs), _infos(outputs), names.CLASSIFY_METHOD_NAME)


def regression_signature_def(examples: Any, predictions: Any) -> SignatureDef:
    """Of a regression."""
    inputs, outputs = {names.REGRESS_INPUTS: examples}, {names.REGRESS_OUTPUTS: predictions}
    return SignatureDef(_infos(inputs), _infos(outputs), names.REGRESS_METHOD_NAME)
