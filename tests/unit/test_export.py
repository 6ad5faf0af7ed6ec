"""ONNX: what ONNX Runtime computes of an exported network is what dtrain does."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.cli import main
from dtrain.comm import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.data import load
from dtrain.data.dataset import Dataset
from dtrain.errors import UsageError
from dtrain.export.frozen import freeze
from dtrain.keras.layers import (
    AveragePooling2D,
    BatchNormalization,
    CenterCrop,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    MaxPooling2D,
    RandomCrop,
    RandomFlip,
    RandomTranslation,
    Rescaling,
)
from dtrain.keras.models import Sequential
from dtrain.task import trainer
from dtrain.task.models import MODELS

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
random = np.random.default_rng(0)


def ask(model: Any, **given: np.ndarray) -> dict[str, np.ndarray]:
    """A model's outputs in ONNX Runtime; model: a path or its bytes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def metadata(path: Path) -> dict[str, str]:
    return dict(
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        .get_modelmeta()
        .custom_metadata_map
    )


def both(build: Callable[..., Any], *arrays: np.ndarray, fixed: float | None = None) -> tuple[Any, Any]:
    """What a function of placeholders gives in dtrain, and in ONNX Runtime, for a batch of another size."""
    from dtrain.export.file import model_of

    with dt.Graph().as_default() as graph:
        graph.seed = 2
        inputs = {
            f"x{i}": dt.placeholder(a.dtype, [None, *a.shape[1:]], name=f"x{i}") for i, a in enumerate(arrays)
        }
        training = dt.placeholder("float32", [], name="training")
        y = build(*inputs.values(), *([] if fixed is None else [training]))
        ys = list(y) if isinstance(y, list | tuple) else [y]
        session = dt.Session(graph=graph, comm=None)
        session.run(dt.global_variables_initializer())
        for v in dt.global_variables():  # not zeros and ones
            session.set_value(v, random.uniform(0.5, 1.5, v.shape.as_list()).astype(v.dtype.numpy))
        values = {v.op.name: session.run(v) for v in dt.global_variables()}
        feeds: dict[Any, Any] = dict(zip(inputs.values(), arrays, strict=True))
        fed = {} if fixed is None else {training: fixed}
        right = session.run(ys, feeds | fed)
        frozen = freeze(inputs, {f"y{i}": t for i, t in enumerate(ys)}, values, fed)
    found = ask(
        model_of(frozen, {}).SerializeToString(),
        **dict(zip(inputs, arrays, strict=True)),
    )
    return right, [found[f"y{i}"] for i in range(len(ys))]


X = random.uniform(-2, 2, (9, 6)).astype(np.float32)
IMAGES = random.uniform(-2, 2, (4, 7, 6, 3)).astype(np.float32)

#: Families of ops: functions of x [n, 6], whose results are compared.
FORMS: dict[str, Callable[[dt.Tensor], Any]] = {
    "arithmetic": lambda x: (x + 1) * x / (dt.abs(x) + 2) - dt.square(x) ** 1.5,
    "functions": lambda x: [f(x) for f in (dt.exp, dt.tanh, dt.sigmoid, dt.sin, dt.cos, dt.sinh, dt.cosh)],
    "of a part": lambda x: [f(dt.abs(x) / 4 + 0.1) for f in (dt.log, dt.rsqrt, dt.tan, dt.asin, dt.acos)],
    "inverse": lambda x: [dt.atan(x), dt.atanh(x / 3), dt.asinh(x), dt.acosh(dt.abs(x) + 1.1)],
    "near nothing": lambda x: [dt.expm1(x), dt.log1p(dt.abs(x)), dt.erf(x)],
    "rounding": lambda x: [dt.floor(x), dt.ceil(x), dt.rint(x), dt.sign(x), x // 0.7, x % 0.7],
    "of integers": lambda x: [f(dt.cast(x * 3, "int32")) for f in (lambda i: i // 2, lambda i: i % 3)],
    "casts": lambda x: [dt.cast(x, "int32"), dt.cast(x > 0, "int64"), dt.cast(x, "float64")],
    "activations": lambda x: [f(x) for f in (dt.nn.relu, dt.nn.elu, dt.nn.selu, dt.nn.leaky_relu)],
    "smooth ones": lambda x: [f(x) for f in (dt.nn.softplus, dt.nn.softsign, dt.nn.swish, dt.nn.softmax)],
    "others": lambda x: [dt.nn.log_softmax(x), dt.nn.relu6(x * 4)],
    "logic": lambda x: dt.logical_or(dt.logical_and(x > 0, dt.logical_not(dt.equal(x, 1.0))), x <= -1),
    "choice": lambda x: dt.where(x >= 0.5, x, dt.minimum(x, -1.0)),
    "kinds": lambda x: [dt.is_nan(dt.log(x)), dt.is_finite(1 / dt.nn.relu(x)), dt.not_equal(dt.sign(x), 1)],
    "reductions": lambda x: [f(x, 1) for f in (dt.reduce_mean, dt.reduce_max, dt.reduce_prod, dt.reduce_sum)],
    "over the batch": lambda x: [x - dt.reduce_mean(x, 0), dt.reduce_sum(x), dt.reduce_min(x, 0, True)],
    "truth": lambda x: [dt.reduce_all(x > -1, 1), dt.reduce_any(x > 1, 1), dt.argmax(x, 1), dt.argmin(x, 1)],
    "sums": lambda x: [dt.cumsum(x, 1), dt.cumsum(x, 1, exclusive=True, reverse=True)],
    "shapes": lambda x: [dt.reshape(x, shape) for shape in ([-1, 2, 3], [dt.shape(x)[0] * 2, 3], [-1])],
    "axes": lambda x: [dt.transpose(dt.reshape(x, [-1, 2, 3]), [0, 2, 1]), dt.squeeze(x[:, None], 1)],
    "slices": lambda x: [x[:, 1:4], x[:, ::-1], x[:, -1], x[:, 4:1:-2], x[..., None, 0], x[:, -3:]],
    "parts": lambda x: [dt.concat([x, x * 2], 1), *dt.split(x, 3, 1), *dt.split(x, [1, 5], 1)],
    "stacked": lambda x: [dt.stack([x, x + 1], 1), *dt.unstack(x, axis=1)],
    "repeats": lambda x: [dt.tile(x, [1, 2]), dt.pad(x, [[0, 0], [1, 2]])],
    "broadcast": lambda x: dt.broadcast_to(x[:, None], [dt.shape(x)[0], 2, 6]),
    "picked": lambda x: [dt.gather(x, [5, 0], axis=1), dt.one_hot(dt.argmax(x, 1), 6), *dt.nn.top_k(x, 3)],
    "products": lambda x: dt.matmul(x, dt.Variable(dt.ones([6, 4]))),
    "turned": lambda x: dt.matmul(dt.Variable(dt.ones([6, 5])), x, transpose_a=True, transpose_b=True),
    "stacks": lambda x: dt.matmul(*[dt.reshape(x, [-1, 2, 3])] * 2, transpose_b=True),
    "filled": lambda x: [dt.zeros_like(x) + 1, dt.fill([dt.shape(x)[0], 2], 3.0)],
    "counted": lambda x: x * dt.cast(dt.shape(x)[0], "float32"),
    "normalized": lambda x: dt.nn.l2_normalize(x, 1),
    "gathered": lambda x: dt.gather_nd(dt.Variable(dt.ones([3, 4])), dt.cast(dt.abs(x[:, :2]), "int32")),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_each_family_of_ops(name: str) -> None:
    for right, found in zip(*both(FORMS[name], X), strict=True):
        assert found.dtype == right.dtype and found.shape == right.shape
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


WINDOWS: dict[str, Callable[[dt.Tensor], Any]] = {
    **{
        f"convolution {padding} {strides} {dilations}": lambda x, p=padding, s=strides, d=dilations: (
            dt.nn.conv2d(x, dt.Variable(dt.ones([3, 2, 3, 5])), s, p, dilations=d)
        )
        for padding, strides, dilations in (
            ("SAME", 1, 1),
            ("VALID", [1, 2, 3, 1], 1),
            ("SAME", 2, 1),
            ("SAME", 1, 2),
        )
    },
    **{
        f"{kind.__name__} {padding}": lambda x, k=kind, p=padding: k(x, [1, 3, 2, 1], [1, 2, 1, 1], p)
        for kind in (dt.nn.max_pool, dt.nn.avg_pool)
        for padding in ("SAME", "VALID")
    },
    **{
        f"transpose {padding} {stride}": lambda x, p=padding, s=stride, n=size: dt.nn.conv2d_transpose(
            x, dt.Variable(dt.ones([3, 3, 4, 3])), [dt.shape(x)[0], *n, 4], s, p
        )
        for padding, stride, size in (("SAME", 1, (7, 6)), ("SAME", 2, (13, 12)), ("VALID", 2, (16, 13)))
    },
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name: str) -> None:
    ((right,), (found,)) = both(WINDOWS[name], IMAGES)
    assert found.shape == right.shape
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


def test_what_only_training_does_is_not_there() -> None:
    def model(x: dt.Tensor, training: dt.Tensor) -> dt.Tensor:
        for layer in (
            RandomTranslation(0.2, 0.2), RandomFlip(), RandomCrop(5, 5), Conv2D(4, 3), BatchNormalization(),
            Dropout(0.5), BatchNormalization(synchronized=False), Flatten(), Dense(3),
        ):  # fmt: skip
            x = layer(x, training)
        return x

    ((right,), (found,)) = both(model, IMAGES, fixed=0.0)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-4)
    with pytest.raises(
        UsageError,
        match=r"RandomNormal '\w+' \(built at .*test_export.py:\d+\) has no form in ONNX: it draws",
    ):
        both(lambda x: x + dt.random_normal([6]), X)
    with pytest.raises(UsageError, match=r"RowUniform '.*' \(built at .*\) has no form in ONNX: it draws"):
        both(model, IMAGES, fixed=1.0)
    with pytest.raises(UsageError, match=r"MaxPoolGrad '.*' .*no form in ONNX: there is none"):
        both(lambda x: dt.gradients(dt.nn.max_pool(x, 2, 2, "SAME"), x)[0], IMAGES)


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setattr("dtrain.data.SYNTHETIC_TRAIN", 100)
    monkeypatch.setattr("dtrain.data.SYNTHETIC_TEST", 100)
    return load("synthetic", SingleCommunicator())


@pytest.mark.parametrize("name", MODELS)
def test_a_run_of_each_model(
    name: str, few_digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, to = tmp_path / "run", tmp_path / "m.onnx"
    config = TrainConfig(
        model=name, dataset="synthetic", epochs=1, batch_size=100, tensorboard="off", run_dir=str(run)
    )
    trainer.train(config, SingleCommunicator())
    capsys.readouterr()
    assert main(["export", str(run), "--to", str(to)]) == 0
    said = capsys.readouterr().out
    assert f"{to}: {name}, " in said and "opset 17; takes x uint8[batch, 28, 28]; gives logits" in said
    assert main(["predict", str(run), "--to", str(tmp_path / "p.npy"), "--probabilities"]) == 0
    (logits,) = ask(str(to), x=few_digits.x[few_digits.part("test")[:]]).values()
    each = np.exp(logits - logits.max(1, keepdims=True))
    found, right = each / each.sum(1, keepdims=True), np.load(tmp_path / "p.npy")
    assert len(right) == 100 and (found.argmax(1) == right.argmax(1)).all()
    np.testing.assert_allclose(found, right, atol=1e-5)
    facts = metadata(to)
    assert json.loads(facts["classes"]) == [str(i) for i in range(10)]
    assert facts["preprocessing"] == "pixels / 255" and facts["epoch"] == "1" and facts["step"] == "1"
    assert facts["data_digest"] == few_digits.digest and len(facts["parameters_digest"]) == 64


def test_a_model_of_keras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = random.integers(0, 256, (300, 8, 8, 1)).astype(np.float32), random.integers(0, 3, 300)
    layers = [
        Rescaling(1 / 255, input_shape=(8, 8, 1)), RandomFlip("horizontal"), CenterCrop(7, 8),
        Conv2D(6, 3, padding="same", activation="relu"), BatchNormalization(), MaxPooling2D(2),
        Conv2D(5, 2, strides=2, activation="elu"), AveragePooling2D(2, padding="same"), Dropout(0.2),
        GlobalAveragePooling2D(), Dense(3, "softmax"),
    ]  # fmt: skip
    model = Sequential(layers, comm=None)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "m.safetensors")
    assert main(["export", str(tmp_path / "m.safetensors"), "--to", str(tmp_path / "m.onnx")]) == 0
    found = ask(str(tmp_path / "m.onnx"), x=x)["probabilities"]
    np.testing.assert_allclose(found, model.predict(x), atol=1e-6)


def test_what_cannot_be_exported_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--to", "m.pb"]) == 2
    assert "give a name that ends in .onnx" in capsys.readouterr().err
    assert main(["export", str(tmp_path)]) == 5
    assert "is not a run directory" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none.safetensors")]) == 5
    assert "is missing" in capsys.readouterr().err


TWO = """
import numpy as np
import dtrain as dt
from dtrain.keras.layers import Dense


def task():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(60, 2)).astype("float32"), rng.integers(0, 9, (60, 3)).astype("int64")
    labels = {"kind": (a[:, 0] > 0).astype("int32"), "size": a[:, :1] * 2}

    def part(rows):
        return {"a": a[rows], "b": b[rows]}, {name: y[rows] for name, y in labels.items()}

    def model(x, training):
        h = dt.concat([x["a"], dt.cast(x["b"], "float32")], 1)
        h = dt.nn.dropout(h, 1 - 0.3 * training)
        return {"kind": Dense(2, name="kind")(h), "size": Dense(1, name="size")(h)}

    kind = dt.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    data = part(slice(40)), part(slice(40, 60))
    return dt.Task(data=data, model=model, loss={"kind": kind, "size": "mse"})
"""


def test_several_inputs_and_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "two.py").write_text(TWO)
    run = str(tmp_path / "run")
    config = TrainConfig(task=str(tmp_path / "two.py"), epochs=1, tensorboard="off", run_dir=run)
    trainer.train(config, SingleCommunicator())
    assert main(["export", run, "--to", str(tmp_path / "m.onnx")]) == 0
    assert "takes a float32[batch, 2], b int64[batch, 3]; gives kind, size" in capsys.readouterr().out
    assert main(["predict", run, "--part", "train", "--to", str(tmp_path / "p.csv")]) == 0
    _, *lines = csv.reader((tmp_path / "p.csv").read_text().splitlines())
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(60, 2)).astype("float32"), rng.integers(0, 9, (60, 3)).astype("int64")
    found = ask(str(tmp_path / "m.onnx"), a=a[:40], b=b[:40])
    assert [str(k) for k in found["kind"].argmax(1)] == [line[1] for line in lines]
    np.testing.assert_allclose(found["size"][:, 0], [float(line[2]) for line in lines], rtol=1e-5, atol=1e-6)
    facts = metadata(tmp_path / "m.onnx")
    assert json.loads(facts["outputs"]) == {"kind": "classes", "size": "numbers"}
    assert json.loads(facts["classes"]) == {"kind": ["0", "1"]}
