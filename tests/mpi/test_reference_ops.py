"""Every op gives what TensorFlow gave also where its inputs are rows of all ranks.

See tests/unit/test_reference_ops.py.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from dtrain.comm import Communicator

pytestmark = pytest.mark.mpi

FOLDER = Path(__file__).parents[1] / "reference"
spec = importlib.util.spec_from_file_location("compare_ops", FOLDER / "compare_ops.py")
assert spec is not None and spec.loader is not None
compare_ops: Any = importlib.util.module_from_spec(spec)
sys.modules["compare_ops"] = compare_ops
spec.loader.exec_module(compare_ops)


@pytest.mark.ranks(3)  # the shares are unlike, and some empty; on other numbers: test_few_rows.py
@pytest.mark.parametrize("shard", [1, 9], ids=["first", "all"])
@pytest.mark.parametrize("group", range(compare_ops.GROUPS))
def test_results_are_those_of_tensorflow(comm: Communicator, group: int, shard: int) -> None:
    """The first input of each case is sharded, or all are."""
    wrong = list(compare_ops.differences("numpy", group, comm, shard))
    assert not wrong, "\n".join(wrong)
