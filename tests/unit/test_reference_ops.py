"""Every op gives what TensorFlow gave: values and gradients, edges included, in NumPy and in C.

The cases and TensorFlow's values are in tests/reference/tensorflow_ops.py, which also wrote them.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import DtrainError
from dtrain.native import compiler
from dtrain.runtime.backend import Backend


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


reference = load(Path(__file__).parents[1] / "reference" / "tensorflow_ops.py")
VALUES = json.loads(reference.VALUES.read_text())
CASES = {case.key: case for case in reference.cases() if case.key in VALUES}


def difference(found, right, case):
    if right is None or found is None:
        return "" if right is None and found is None else f"{found} is not {right}"
    found = np.asarray(found)
    if (found.dtype, found.shape) != (right.dtype, right.shape):
        return f"{found.dtype}{found.shape} is not {right.dtype}{right.shape}"
    if right.dtype.kind != "f":
        bad = found != right
    else:
        eps = np.finfo(right.dtype).eps
        with np.errstate(all="ignore"):
            near = np.abs(found.astype("float64") - right) <= 4 * eps * np.abs(right.astype("float64"))
        same = (found == right) & (np.signbit(found) == np.signbit(right)) | np.isnan(found) & np.isnan(right)
        bad = ~(same | (near & np.isfinite(right) & (right != 0)))
    if not bad.any():
        return ""
    inputs = ""
    for i in np.argwhere(bad)[:8]:
        i = tuple(i)
        at = " ".join(str(a[i]) for a in case.inputs.values() if a.shape == right.shape) if case else ""
        inputs += f" at {list(map(int, i))} ({at}): {found[i]!s} right {right[i]!s};"
    return f"{int(bad.sum())} of {bad.size}:" + inputs


def main():
    counts = {}
    for kernels in ("numpy", "c"):
        groups = {}
        for key, case in CASES.items():
            groups.setdefault(hash(case.text.split("(")[0]) % 12, []).append(case)
        for group in groups.values():
            dt.reset_default_graph()
            fetches, feeds, made = [], {}, []
            for case in group:
                f = case.fed(dt)
                try:
                    outs, grads = case.build(dt, f)
                except Exception as e:
                    print(kernels, "BUILD", case.key, type(e).__name__, str(e)[:150], "| right", str(VALUES[case.key])[:150])
                    continue
                if isinstance(VALUES[case.key], str):
                    try:
                        with np.errstate(all="ignore"):
                            dt.Session(device=Backend(kernels)).run([t for t in outs if t is not None], f)
                        print(kernels, "NOERROR", case.key)
                    except DtrainError as e:
                        pass
                    continue
                outs = [None if t is None else dt.convert_to_tensor(t) for t in outs]
                made.append((case, outs, grads)); feeds |= f
            session = dt.Session(device=Backend(kernels))
            fetches = [t for _, o, g in made for t in (*o, *g) if t is not None]
            try:
                with np.errstate(all="ignore"):
                    got = dict(zip(fetches, session.run(fetches, feeds)))
            except Exception as e:
                print("RUN", kernels, [c.key for c, *_ in made][:2], e)
                got = {}
                for c, o, g in made:
                    f = [t for t in (*o, *g) if t is not None]
                    try:
                        with np.errstate(all="ignore"):
                            got |= zip(f, session.run(f, feeds))
                    except Exception as e:
                        print("RUN", kernels, c.key, e)
            for case, outs, grads in made:
                right = VALUES[case.key]
                for what, some, r in zip(("value", "grad"), (outs, grads), right):
                    if len(some) != len(r):
                        print(kernels, "COUNT", case.key, len(some), len(r)); continue
                    for t, x in zip(some, r):
                        d = difference(got.get(t), reference.read(x), case)
                        if d:
                            counts[case.key] = 1
                            print(kernels, what, case.key, "::", d)
    print(len(counts), "cases differ of", len(CASES))
if __name__ == "__main__":
    main()
