"""Every op gives what TensorFlow gave: values and gradients, edges included, in NumPy and in C.

The cases and TensorFlow's values are made by tests/reference/tensorflow_ops.py; what differs on purpose, and
why, is in compare_ops.py beside it.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dtrain as dt
from dtrain.native import compiler

FOLDER = Path(__file__).parents[1] / "reference"
spec = importlib.util.spec_from_file_location("compare_ops", FOLDER / "compare_ops.py")
assert spec is not None and spec.loader is not None
compare_ops: Any = importlib.util.module_from_spec(spec)
sys.modules["compare_ops"] = compare_ops
spec.loader.exec_module(compare_ops)

#: Exported functions that have no values of TensorFlow's: why, and their names.
WITHOUT_VALUES = {
    "variables, which the optimizers have": r"(initialize_)?(all_|global_|local_|model_|trainable_)?variables"
    r"(_initializer)?|(get_)?(local_)?variable(_scope)?|get_variable_scope|is_variable_initialized"
    r"|report_uninitialized_variables|assign(_add|_sub)?",
    "they compute nothing": r"placeholder|group|no_op|as_dtype",
    "the graph": r".*collections?(_ref)?|control_dependencies|get_default_(graph|session)|name_scope"
    r"|reset_default_graph",
    "random numbers": r"random_.*|truncated_normal|set_random_seed|(glorot|variance|truncated).*_initializer",
    "of contrib, which TensorFlow 2 has not: see test_adaptive_optimizers": r"train\.(AdaMax|Nadam)Optimizer",
    "what is around a step": r"train\.(.*Hook|.*Session|.*Creator|Scaffold|SessionRun.*|.*Timer|NanLoss.*)",
    "their values are in tensorflow_more.json: see test_more_names": r"losses\.mean_pairwise_squared_error",
    "files, and the counter of steps": r"train\.(Optimizer|Saver|.*checkpoint.*|.*global_step)",
}


@pytest.mark.parametrize("group", range(compare_ops.GROUPS))
@pytest.mark.parametrize("kernels", ["numpy", "c"])
def test_results_are_those_of_tensorflow(kernels: str, group: int) -> None:
    if kernels == "c" and not compiler.command():
        pytest.skip("there is no C compiler")
    wrong = list(compare_ops.differences(kernels, group))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("kernels", ["numpy", "c"])
@pytest.mark.parametrize("optimizer", compare_ops.tensorflow_ops.OPTIMIZERS)
def test_steps_of_optimizers_are_those_of_tensorflow(optimizer: str, kernels: str) -> None:
    if kernels == "c" and not compiler.command():
        pytest.skip("there is no C compiler")
    wrong = list(compare_ops.steps(optimizer, kernels))
    assert not wrong, "\n".join(wrong)


def test_every_exported_op_has_values_of_tensorflow() -> None:
    """A name counts as tried where the case has it, or another name of the same function."""
    text = " ".join([*compare_ops.CASES, *compare_ops.VALUES])
    tried = {_named(name) for name in re.findall(r"tf\.((?:\w+\.)?\w+)\(", text)}
    without = re.compile("|".join(WITHOUT_VALUES.values()))
    missing, needless = [], []
    for prefix, module in (("", dt), ("nn.", dt.nn), ("losses.", dt.losses), ("train.", dt.train)):
        for name in module.__all__:
            value = getattr(module, name)
            if (
                isinstance(value, ModuleType)
                or not callable(value)
                or (name[0].isupper() and prefix != "train.")
            ):
                continue
            excused = bool(without.fullmatch(prefix + name))
            if value not in tried and not excused:
                missing.append(prefix + name)
            elif value in tried and excused and prefix + name in text:
                needless.append(prefix + name)
    assert not missing and not needless


def _named(name: str) -> Any:
    """What dtrain has under a name."""
    value: Any = dt
    for part in name.split("."):
        value = getattr(value, part, None)
    return value
