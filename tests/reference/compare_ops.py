"""dtrain's results on the cases of tensorflow_ops.py, compared with TensorFlow's."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import DtrainError
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import Backend


def load(name: str) -> Any:
    """A module beside this one."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tensorflow_ops = load("tensorflow_ops")
VALUES: dict[str, Any] = json.loads(tensorflow_ops.VALUES.read_text())
CASES = {case.key: case for case in tensorflow_ops.cases() if case.key in VALUES}
#: Cases are computed this many together, as one plan.
GROUPS = 12

#: Where dtrain gives other numbers on purpose, or none: the cases whose keys match, and why.
DIFFERENT = (
    (
        r"tf\.nn\.max_pool.* no numbers",
        "a NaN in a window stays one; on CPUs TensorFlow passes over it, and has -3.4e38 for -inf",
    ),
    (
        r"tf\.nn\.c?relu6?\(x\) .*infinite flow",
        "where the gate is closed 0 flows; in TensorFlow an infinity times 0, which is NaN",
    ),
    (
        r"tf\.nn\.softmax_cross_entropy.* no probabilities",
        "the gradient is that of the loss; TensorFlow's takes for granted that labels add up to 1",
    ),
    (
        r"tf\.nn\.weighted_cross_entropy",
        "the slope at 0 is that of the loss; TensorFlow has the slopes of |x| and relu(x) as 0 there",
    ),
    (
        r"tf\.nn\.fused_batch_norm.*is_training=False",
        "gradients reach a given mean and variance; in TensorFlow none do",
    ),
    (
        r"tf\.reduce_prod\(x.*(,1\) .*ties|\) .*(nan,0|inf,0|inf,2))",
        "of a product that is infinite or NaN the gradient is NaN at other entries",
    ),
    (r"tf\.erf\(x\) \| x=float64", "of an infinity it is 1; TensorFlow has NaN in float64, and 1 in float32"),
    (
        r"tf\.nn\.swish\(x\) \| x=float32",
        "at 3e38 the gradient is NaN, since x times what flows in is infinite",
    ),
)
#: Ops whose numbers are sums, or end in a difference, which loses digits: errors are of numbers near 1.
#: elu and selu are exp(x) - 1 in TensorFlow, whose digits are lost near 0.
SUMS = re.compile(
    r"matmul|conv2d|pool|moments|batch_norm|normalize|norm\(|softmax|cross_entropy|losses|tanh|sigmoid|softplus|elu|swish|reduce|cumsum|trace"
    r"|l2_loss|xw_plus|relu_layer|decay|Optimizer|einsum|tensordot|convolution|conv[13]d|lrn|local_response|nce_loss"
    r"|sampled_softmax|erfc|cumprod"
)
#: Ops whose zeros may have either sign: of 0 and -0 either is the larger, and a remainder has the divisor's.
UNSIGNED = re.compile(r"max|elu\(|floormod|mod\(|%")


def differences(kernels: str, group: int, comm: Communicator | None = None, shard: int = 0) -> Iterator[str]:
    """A line for each result of a group that is not TensorFlow's, and for each case of DIFFERENT that is.

    shard: how many of the inputs of each case, from the first, are fed as rows of all ranks.
    """
    made: list[tuple[Any, list[Any], list[Any]]] = []
    feeds: dict[Any, Any] = {}
    with dt.Graph().as_default():
        session = dt.Session(comm=comm, device=Backend(kernels))
        for case in list(CASES.values())[group::GROUPS]:
            right = VALUES[case.key]
            if right == "InvalidArgumentError" or case.label == tensorflow_ops.ALONE or _reason(case.key):
                yield from _alone(case, right, kernels, comm, shard)
                continue
            given = case.fed(dt)
            made.append((case, *_built(case, given)))
            feeds |= _shards(given, comm, shard)
        found = session.run([t for _, *some in made for part in some for t in part if t is not None], feeds)
    yield from _compared(made, iter(found))


def _alone(case: Any, right: Any, kernels: str, comm: Communicator | None, shard: int) -> Iterator[str]:
    """A case that fails, that needs a graph of its own, or that is known to differ."""
    if right == "InvalidArgumentError" and shard:
        return  # only a rank with such a row fails, and ends the others
    try:
        with dt.Graph().as_default():
            given = case.fed(dt)
            outs, gradients = _built(case, given)
            session = dt.Session(comm=comm, device=Backend(kernels))
            fetches = [t for t in (*outs, *gradients) if t is not None]
            found = session.run(fetches, _shards(given, comm, shard))
    except DtrainError as error:
        if not (right == "InvalidArgumentError" or _reason(case.key)):
            yield f"{case.key}: {error}"
        return
    if right == "InvalidArgumentError":
        yield f"{case.key}: no error"
        return
    wrong = list(_compared([(case, outs, gradients)], iter(found)))
    if not _reason(case.key):
        yield from wrong
    elif not wrong:
        yield f"{case.key}: is in DIFFERENT and does not differ"


def _built(case: Any, given: dict[Any, np.ndarray]) -> tuple[list[Any], list[Any]]:
    outs, gradients = case.build(dt, given)
    return [None if t is None else dt.convert_to_tensor(t) for t in outs], gradients


def _reason(key: str) -> str:
    return next((why for pattern, why in DIFFERENT if re.match(pattern, key)), "")


def _shards(given: dict[Any, np.ndarray], comm: Communicator | None, count: int) -> dict[Any, Any]:
    """What this rank feeds: its rows of the first `count` inputs, and the others whole."""
    feeds: dict[Any, Any] = dict(given)
    for x, array in list(given.items())[:count]:
        if comm is not None and array.ndim:
            low, high = shard_bounds(len(array), comm.rank, comm.size)
            feeds[x] = dt.Shard(array[low:high], len(array))
    return feeds


def _compared(made: Sequence[tuple[Any, list[Any], list[Any]]], found: Iterator[Any]) -> Iterator[str]:
    for case, outs, gradients in made:
        right = VALUES[case.key]
        for what, tensors, texts in zip(("value", "gradient"), (outs, gradients), right, strict=False):
            assert len(tensors) == len(texts), case.key
            for tensor, text in zip(tensors, texts, strict=True):
                value = None if tensor is None else np.asarray(next(found))
                wrong = difference(value, tensorflow_ops.read(text), case, what == "value")
                if wrong:
                    yield f"{what} of {case.key}: {wrong}"


def steps(optimizer: str, kernels: str) -> Iterator[str]:
    """A line for each step after which the variable is not TensorFlow's."""
    with dt.Graph().as_default():
        step, variable = tensorflow_ops.training(dt, optimizer)
        session = dt.Session(device=Backend(kernels))
        session.run(dt.global_variables_initializer())
        for i, text in enumerate(VALUES[f"tf.train.{optimizer}"][0]):
            session.run(step)
            case = tensorflow_ops.Case(optimizer, {})
            wrong = difference(session.run(variable), tensorflow_ops.read(text), case, signed=False)
            if wrong:
                yield f"{optimizer}, step {i + 1}: {wrong}"


def difference(found: np.ndarray | None, right: np.ndarray | None, case: Any, signed: bool) -> str:
    """Where two arrays differ by more than rounding, '' where they do not; what is below normal numbers is 0.

    signed: whether 0 and -0 are two numbers.
    """
    if found is None or right is None:
        return "" if found is right else f"{found} is not {right}"
    if (found.dtype, found.shape) != (right.dtype, right.shape):
        return f"{found.dtype.name}{list(found.shape)} is not {right.dtype.name}{list(right.shape)}"
    if right.dtype.kind != "f":
        bad = found != right
    else:
        rounding, least = (
            np.finfo(right.dtype).eps,
            float(np.finfo(np.float32 if right.itemsize > 2 else right.dtype).tiny),
        )
        a, b = found.astype("float64"), right.astype("float64")
        a, b = (np.where(np.abs(x) < least, np.copysign(0, x), x) for x in (a, b))
        with np.errstate(invalid="ignore"):
            near = np.abs(a - b) <= 4 * rounding * np.abs(b) + (
                16 * rounding if SUMS.search(case.text) else 0
            )
        bad = ~(near | (a == b) | (np.isnan(a) & np.isnan(b)))
        if signed and not UNSIGNED.search(case.text):
            bad |= (a == 0) & (b == 0) & (np.signbit(a) != np.signbit(b))
    places = [tuple(int(i) for i in at) for at in np.argwhere(bad)]
    given = [a for a in case.inputs.values() if a.shape == right.shape]
    shown = "; ".join(
        f"of {[str(a[at]) for a in given]} {found[at]} where {right[at]} is right" for at in places[:4]
    )
    return f"{len(places)} of {bad.size}: {shown}" if places else ""
