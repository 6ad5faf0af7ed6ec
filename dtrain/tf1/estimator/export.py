"""tf.estimator.export: what an Estimator's exported model takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dtrain.errors import UsageError
from dtrain.graph.graph import TensorLike
from dtrain.names import module_getattr
from dtrain.ops.base import placeholder
from dtrain.tf1.saved_model.signature_constants import DEFAULT_SERVING_SIGNATURE_DEF_KEY
from dtrain.tf1.saved_model.signature_def_utils import (
    SignatureDef,
    classification_signature_def,
    predict_signature_def,
    regression_signature_def,
)

__all__ = [
    "ClassificationOutput",
    "ExportOutput",
    "PredictOutput",
    "RegressionOutput",
    "ServingInputReceiver",
    "TensorServingInputReceiver",
    "build_raw_serving_input_receiver_fn",
]

__getattr__ = module_getattr("tf.estimator.export")


class ServingInputReceiver(NamedTuple):
    """features: what the model function gets; receiver_tensors: placeholders that a caller feeds."""

    features: Any
    receiver_tensors: Any
    receiver_tensors_alternatives: Any = None


#: The same; the model function gets one tensor.
TensorServingInputReceiver = ServingInputReceiver


def build_raw_serving_input_receiver_fn(
    features: Mapping[str, Any], default_batch_size: int | None = None
) -> Callable[[], ServingInputReceiver]:
    """What makes a placeholder for each feature, a tensor of the same shape; the first size is any."""

    def receiver() -> ServingInputReceiver:
        made = {
            name: placeholder(t.dtype, [default_batch_size, *t.shape.as_list()[1:]], name)
            for name, t in features.items()
        }
        return ServingInputReceiver(made, made)

    return receiver


class ExportOutput:
    """What an exported model gives; its kinds say how."""

    def signature(self, inputs: Mapping[str, Any]) -> SignatureDef:
        """With these inputs."""
        raise NotImplementedError


class PredictOutput(ExportOutput):
    """A dict of tensors, or one tensor."""

    def __init__(self, outputs: Any) -> None:
        self.outputs = dict(outputs) if isinstance(outputs, Mapping) else {"output": outputs}

    def signature(self, inputs: Mapping[str, Any]) -> SignatureDef:
        return predict_signature_def(inputs, self.outputs)


class ClassificationOutput(ExportOutput):
    """Scores or classes, or both; there is one input."""

    def __init__(self, scores: Any = None, classes: Any = None) -> None:
        if scores is None and classes is None:
            raise UsageError("ClassificationOutput: give scores or classes.")
        self.scores, self.classes = scores, classes

    def signature(self, inputs: Mapping[str, Any]) -> SignatureDef:
        return classification_signature_def(_one(inputs), self.classes, self.scores)


class RegressionOutput(ExportOutput):
    """A number an example; there is one input."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def signature(self, inputs: Mapping[str, Any]) -> SignatureDef:
        return regression_signature_def(_one(inputs), self.value)


def _one(inputs: Mapping[str, Any]) -> Any:
    if len(inputs) != 1:
        raise UsageError(f"A classification or regression has one input, and not {sorted(inputs)}.")
    return next(iter(inputs.values()))


def signatures(receiver: ServingInputReceiver, outputs: Any, predictions: Any) -> dict[str, SignatureDef]:
    """By name, what a model gives of what a receiver takes; the only one is also the default one."""
    inputs = receiver.receiver_tensors
    inputs = {"input": inputs} if isinstance(inputs, TensorLike) else dict(inputs)
    made = dict(outputs or {DEFAULT_SERVING_SIGNATURE_DEF_KEY: PredictOutput(predictions)})
    if len(made) == 1:
        made.setdefault(DEFAULT_SERVING_SIGNATURE_DEF_KEY, next(iter(made.values())))
    if DEFAULT_SERVING_SIGNATURE_DEF_KEY not in made:
        raise UsageError(f"export_outputs {sorted(made)}: one is '{DEFAULT_SERVING_SIGNATURE_DEF_KEY}'.")
    found = {}
    for name, output in made.items():
        if len(inputs) > 1 and not isinstance(output, PredictOutput):
            continue  # as in TensorFlow: what has one input is not for this receiver
        found[name] = output.signature(inputs)
    return found
