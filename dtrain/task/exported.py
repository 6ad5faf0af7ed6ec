"""A trained network as an ONNX file, with what it is in its metadata."""

from __future__ import annotations

import json
from pathlib import Path

from dtrain.data.dataset import NUMBERS
from dtrain.errors import EnvironmentProblem, UsageError
from dtrain.export.file import OPSET, library, model_of
from dtrain.export.frozen import freeze
from dtrain.files import write_atomically
from dtrain.info import __version__
from dtrain.task.saved import Result, Saved
from dtrain.train.checkpoint import digest_of, digest_of_all


def check(to: str) -> None:
    """Refuse now what would be refused when the network is there.

    Raises:
        UsageError: the name is not a file's that can be written. EnvironmentProblem: onnx is not installed.
    """
    if not to.lower().endswith(".onnx"):
        raise UsageError(f"--to {to}: give a name that ends in .onnx.")
    if not Path(to).resolve().parent.is_dir():
        raise UsageError(f"--to {to}: there is no folder {Path(to).parent}: make it first.")
    library()


def _named(result: Result) -> str:
    """What the only output is called."""
    if result.kind == NUMBERS:
        return "output"
    return "probabilities" if result.probabilities is result.output else "logits"


def export(saved: Saved, to: str) -> str:
    """Write the file; returns what it is, in a line.

    Raises:
        UsageError: an op has no form in ONNX; it is named with its line.
        EnvironmentProblem: the file cannot be written.
    """
    outputs = {result.name or _named(result): result.output for result in saved.results}
    values = saved.values()
    frozen = freeze(saved.inputs, outputs, values, saved.fixed)
    facts = {name: str(value) for name, value in saved.told.items() if value not in ("", None)}
    if named := {result.name: result.names for result in saved.results if result.names}:
        facts["classes"] = json.dumps(named.get("", named))
    facts["outputs"] = json.dumps({name: r.kind for name, r in zip(outputs, saved.results, strict=True)})
    facts["parameters_digest"] = digest_of_all({name: digest_of(name, a) for name, a in values.items()})
    facts["dtrain"] = __version__
    data = model_of(frozen, facts).SerializeToString()
    try:
        write_atomically(Path(to), data)
    except OSError as error:
        raise EnvironmentProblem(f"--to {to} cannot be written: {error.strerror or error}.") from None
    rows = {name: ", ".join(map(str, t.shape.as_list()[1:])) for name, t in frozen.inputs.items()}
    taken = ", ".join(f"{name} {t.dtype.name}[batch, {rows[name]}]" for name, t in frozen.inputs.items())
    parameters = f"{sum(value.size for value in values.values()):,} parameters, {len(data):,} bytes"
    made = f"{to}: {saved.told['model']}, {parameters}, opset {OPSET}"
    return f"{made}; takes {taken}; gives {', '.join(outputs)}"
