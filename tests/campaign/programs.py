"""The program of a case, as text: what a person would write, and what the campaign runs.

`python tests/campaign/programs.py NUMBER` prints it; under mpirun it compares itself with one process and
NumPy kernels.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import graphs
import models
from draw import Draw, Random

#: What a program begins with.
PREAMBLE = '''\
"""{title}"""

import os
import tempfile

os.environ["DTRAIN_KERNELS"] = {kernels!r}
os.environ |= {environment!r}

import numpy as np

import dtrain as dt
from dtrain.keras import activations, callbacks, layers, losses, metrics, optimizers, regularizers
from dtrain.keras.models import Sequential, load_model
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.batch import Batch
from dtrain.train.batches import Pace, windows

CHECK = {check}  # look for NaN and infinities
STEPS = {steps}  # in a call
NUDGE = {nudge}  # a seed by which inputs move to a neighbouring float32, or 0

Pace.__call__ = lambda self, taken: STEPS


def rounded(a, dtype="f4"):
    """Numbers as float32 or float64."""
    a = np.asarray(a, dtype)
    if NUDGE:
        towards = np.random.default_rng(NUDGE).choice([-np.inf, 0, np.inf], a.shape)
        a = np.where(towards == 0, a, np.nextafter(a, towards.astype(dtype)))
    return a.astype(np.float32 if dtype == "f4" else np.float64)


def normal(r, *shape, dtype="f4"):
    return rounded(r.normal(size=shape), dtype)


def drawn(r, shape, dtype="f4"):
    """First values of a weight: none is 0, and a variance is positive."""
    if len(shape) == 1:
        return rounded(r.uniform(0.2, 1, shape), dtype)
    return rounded(r.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), dtype)


def shard(comm, rows):
    rank, size = (comm.rank, comm.size) if comm else (0, 1)
    low, high = shard_bounds(len(rows), rank, size)
    return dt.Shard(rows[low:high], len(rows))


'''

#: What a printed program ends with.
ENDING = """

if __name__ == "__main__":
    comm = dt.comm.world()
    found = case(comm)
    CHECK, STEPS, os.environ["DTRAIN_KERNELS"] = False, 1, "numpy"
    alone = case(None)

    def show(name, a, b):
        if isinstance(a, dict):
            for key in a:
                show(f"{name} {key}", a[key], b[key])
        elif isinstance(a, (list, tuple)):
            for i, (one, other) in enumerate(zip(a, b, strict=True)):
                show(f"{name} {i}", one, other)
        elif a is not None and comm.rank == 0:
            a, b = np.asarray(a, "f8"), np.asarray(b, "f8")
            off = np.abs(a - b).max(initial=0) if a.shape == b.shape else np.inf
            print(f"{name}: {a.shape} differs by {off:.3g} of {np.abs(b).max(initial=0):.3g}")

    show("", found, alone)
"""


#: What a case is written as, some more often than others.
FORMS = {"keras": models.keras, "graph": graphs.graph, "train": models.train}
SHARES = (*["keras"] * 4, *["graph"] * 4, "train")
#: Ways to sum, and the environment that asks for each.
SUMS = {
    "shared": {},
    "mpi": {"DTRAIN_AVERAGE": "mpi"},
    "early": {"DTRAIN_AVERAGE": "mpi", "DTRAIN_OVERLAP": "on"},
}


@dataclass(frozen=True)
class Setting:
    """How a case is run: on how many ranks, by which kernels, how many steps a call, whether it is checked.

    sums: how ranks sum, of SUMS. poison: whether memory that a step must write first is full of NaN.
    nudge: see the programs.
    """

    ranks: int = 1
    kernels: str = "numpy"
    steps: int = 1
    check: bool = False
    sums: str = "shared"
    poison: bool = False
    nudge: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """What a job of such cases has in its environment: settings with the same share a job."""
        sums = SUMS[self.sums] if self.ranks > 1 else {}
        return sums | ({"DTRAIN_POISON": "1"} if self.poison else {})


def setting(number: int, most: int = 5) -> Setting:
    """That of a case, on 1 to `most` ranks."""
    random = Random(3, number)
    return Setting(
        ranks=random.upto(1, most),
        kernels=random.one(("c", "c", "numpy")),
        steps=random.one((1, 2, 3, 25)),
        check=random.chance(0.6),
        sums=random.one(("shared", "shared", "shared", "mpi", "early")),
        poison=random.chance(0.3),
    )


def form(number: int) -> str:
    """What a case is written as."""
    return str(Draw(number).form.one(SHARES))


def program(number: int, how: Setting, whole: bool = False) -> str:
    """The text of a case. whole: with what makes it a program of its own."""
    before, body = FORMS[form(number)](Draw(number))
    title = f"Case {number} of tests/campaign, {form(number)}: on {how.ranks} ranks."
    options = {k: getattr(how, k) for k in ("kernels", "environment", "check", "steps", "nudge")}
    head = PREAMBLE.format(title=title, **options)
    lines = [*before, "def case(comm):", *(f"    {line}" for line in body), ""]
    return head + "\n".join(lines) + ENDING * whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int)
    parser.add_argument("--kernels", choices=("c", "numpy"))
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    how = setting(given.number)
    how = replace(how, kernels=given.kernels or how.kernels, steps=given.steps or how.steps)
    print(program(given.number, how, whole=True))


if __name__ == "__main__":
    main()
