"""dt.keras against the values that real Keras gave: tests/reference/keras_values.json."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))
from keras_cases import CASES
from keras_dtrain import KERAS, ask, differences

#: The names of files are real Keras's, and some of its losses are NaN.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is written as safetensors"),
    pytest.mark.filterwarnings("ignore:step .* makes a NaN:RuntimeWarning"),
]

#: Cases in which dtrain differs on purpose, as docs/tensorflow1.md says, and why.
DIFFERENT = {
    "activations/softmax of NaN": "the whole row is NaN; TensorFlow's kernel on a CPU gives 0 beside the NaN",
    "frozen/normalization, compiled before, new": "trainable counts as it was when the model was compiled",
    "losses/kl_divergence labels without an axis": "Keras's function spreads [n] against [n, 1] to [n, n]",
    "utils/normalize along 0": "Keras divides by the norms of axis 0 along the last axis",
}

DRAWN = [name for name in CASES if name.startswith("initializers/") and name != "initializers/values"]


@pytest.mark.parametrize("name", [name for name in CASES if name not in DRAWN])
def test_dtrain_gives_what_keras_gave(name: str) -> None:
    found = list(differences(name, ask(name)))
    if name in DIFFERENT:
        assert found, f"there is no difference any more: {DIFFERENT[name]}"
    else:
        assert not found, "\n".join(found[:20])


@pytest.mark.parametrize("name", DRAWN)
def test_initializers_draw_from_keras_distributions(name: str) -> None:
    """Draws differ, and so these numbers of some 60,000 of them, by their standard errors."""
    found, right = ask(name), KERAS[name]
    deviation = right["deviation"]
    assert found["mean"] == pytest.approx(right["mean"], abs=0.03 * deviation)
    assert found["deviation"] == pytest.approx(deviation, rel=0.02)
    assert found["kurtosis"] == pytest.approx(right["kurtosis"], abs=0.15)
    for end in ("least", "greatest"):
        bounded = abs(right[end] - right["mean"]) < 3 * deviation
        assert found[end] == pytest.approx(right[end], abs=(0.03 if bounded else 1.0) * deviation)


def test_every_case_has_its_values() -> None:
    assert {*KERAS} == {"", *CASES} and {*DIFFERENT} <= {*CASES}
