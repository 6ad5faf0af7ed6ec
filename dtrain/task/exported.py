"""A trained network as an ONNX file, with what it is in its metadata."""

from __future__ import annotations

import json
from pathlib import Path

from dtrain.errors import EnvironmentProblem
from dtrain.export.file import OPSET, model_of
from dtrain.export.frozen import freeze
from dtrain.files import write_atomically
from dtrain.info import __version__
from dtrain.task.saved import CLASSES, LABELS, Saved
from dtrain.train.checkpoint import digest_of, digest_of_all


def export(saved: Saved, to: str) -> str:
    """Write the file; returns what it is, in a line.

    Raises:
        UsageError: an op has no form in ONNX; it is named with its line.
        EnvironmentProblem: the file cannot be written.
    """
    kinds = {CLASSES: "logits", LABELS: "logits"}
    outputs = {result.name or kinds.get(result.kind, "output"): result.output for result in saved.results}
    values = saved.values()
    frozen = freeze(saved.inputs, outputs, values, saved.fixed)
    facts = {name: str(value) for name, value in saved.told.items() if value not in ("", None)}
    named = {result.name: result.names for result in saved.results if result.names}
    if named:
        facts["classes"] = json.dumps(named[""] if "" in named else named)
    facts["outputs"] = json.dumps({name: r.kind for name, r in zip(outputs, saved.results, strict=True)})
    facts["parameters_digest"] = digest_of_all(
        {name: digest_of(name, value) for name, value in values.items()}
    )
    facts["dtrain"] = __version__
    model = model_of(frozen, facts)
    data = model.SerializeToString()
    try:
        write_atomically(Path(to), data)
    except OSError as error:
        raise EnvironmentProblem(f"--to {to} cannot be written: {error.strerror or error}.") from None
    parameters = sum(value.size for value in values.values())
    given = ", ".join(
        f"{n} {t.dtype.name}[batch, {', '.join(map(str, t.shape.as_list()[1:]))}]"
        for n, t in frozen.inputs.items()
    )
    return f"{to}: {saved.told['model']}, {parameters:,} parameters, {len(data):,} bytes, opset {OPSET}; takes {given}, gives {', '.join(outputs)}"
