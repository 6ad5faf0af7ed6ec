"""What help() shows of public names: arguments, sections in one form, own names, examples that run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import operator
import re
from collections.abc import Iterator
from typing import Any

import pytest
from test_words import PATTERN

import dtrain as dt

KERAS = ["", ".layers", ".losses", ".metrics", ".optimizers", ".callbacks"]
MODULES = ["dtrain", "dtrain.nn", "dtrain.train", "dtrain.losses", *(f"dtrain.keras{name}" for name in KERAS)]
#: Public names that are second names, and the names that help() shows for them.
ALIASES = {
    "dtrain": {
        "constant_initializer": "Constant",
        "floor_div": "floordiv",
        "glorot_normal_initializer": "glorot_normal",
        "glorot_uniform_initializer": "glorot_uniform",
        "lin_space": "linspace",
        "mod": "floormod",
        "mul": "multiply",
        "neg": "negative",
        "ones_initializer": "Ones",
        "random_normal_initializer": "RandomNormal",
        "random_uniform_initializer": "RandomUniform",
        "select": "where",
        "sub": "subtract",
        "truediv": "divide",
        "truncated_normal_initializer": "TruncatedNormal",
        "variance_scaling_initializer": "VarianceScaling",
        "zeros_initializer": "Zeros",
    },
    "dtrain.keras.layers": {
        "AtrousConv1D": "Conv1D",
        "AtrousConv2D": "Conv2D",
        "AtrousConvolution1D": "Conv1D",
        "AtrousConvolution2D": "Conv2D",
        "AvgPool1D": "AveragePooling1D",
        "AvgPool2D": "AveragePooling2D",
        "AvgPool3D": "AveragePooling3D",
        "Convolution3D": "Conv3D",
        "Convolution3DTranspose": "Conv3DTranspose",
        "Deconv2D": "Conv2DTranspose",
        "Deconv3D": "Conv3DTranspose",
        "Deconvolution3D": "Conv3DTranspose",
        "GlobalAvgPool3D": "GlobalAveragePooling3D",
        "GlobalMaxPool3D": "GlobalMaxPooling3D",
        "SeparableConvolution1D": "SeparableConv1D",
        "Deconvolution2D": "Conv2DTranspose",
        "MaxPool3D": "MaxPooling3D",
        "Convolution1D": "Conv1D",
        "Convolution2D": "Conv2D",
        "Convolution2DTranspose": "Conv2DTranspose",
        "CuDNNGRU": "GRU",
        "CuDNNLSTM": "LSTM",
        "GlobalAvgPool1D": "GlobalAveragePooling1D",
        "GlobalAvgPool2D": "GlobalAveragePooling2D",
        "GlobalMaxPool1D": "GlobalMaxPooling1D",
        "GlobalMaxPool2D": "GlobalMaxPooling2D",
        "MaxPool1D": "MaxPooling1D",
        "MaxPool2D": "MaxPooling2D",
        "SeparableConvolution2D": "SeparableConv2D",
    },
    "dtrain.keras.optimizers": {
        "deserialize": "get",
        "adadelta": "Adadelta",
        "adagrad": "Adagrad",
        "adam": "Adam",
        "adamax": "Adamax",
        "nadam": "Nadam",
        "rmsprop": "RMSprop",
        "sgd": "SGD",
    },
}
#: Keras's short names of losses, in keras.losses and keras.metrics.
LOSSES = {
    "KLD": "kl_divergence",
    "MAE": "mean_absolute_error",
    "MAPE": "mean_absolute_percentage_error",
    "MSE": "mean_squared_error",
    "MSLE": "mean_squared_logarithmic_error",
    "deserialize": "get",
    "cosine": "cosine_similarity",
    "cosine_proximity": "cosine_similarity",
    "kld": "kl_divergence",
    "kullback_leibler_divergence": "kl_divergence",
    "logcosh": "log_cosh",
    "mae": "mean_absolute_error",
    "mape": "mean_absolute_percentage_error",
    "mse": "mean_squared_error",
    "msle": "mean_squared_logarithmic_error",
}
ALIASES["dtrain.keras.losses"] = ALIASES["dtrain.keras.metrics"] = LOSSES
SECTIONS = ["Args", "Attributes", "Returns", "Yields", "Raises", "Example"]


#: Methods that programs call most; the others of these classes are not looked at.
METHODS = {
    "dtrain.Session": "run make_callable",
    "dtrain.train.Optimizer": "minimize compute_gradients apply_gradients",
    "dtrain.train.Saver": "save restore",
    "dtrain.keras.Model": "compile fit evaluate predict train_on_batch test_on_batch predict_on_batch save",
    "dtrain.keras.layers.Layer": "add_weight",
}


def public() -> Iterator[tuple[str, str, Any]]:
    for module in MODULES:
        found = importlib.import_module(module)
        for name in sorted(found.__all__):
            value = getattr(found, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                yield module, name, value
                for method in METHODS.get(f"{module}.{name}", "").split():
                    yield module, f"{name}.{method}", getattr(value, method)


ALL = list(public())


def documented(value: Any) -> str:
    return inspect.getdoc(value) or ""


def sections(doc: str) -> dict[str, str]:
    """The text of each section; '' is what comes before them."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):\n", doc, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(doc: str) -> list[str]:
    """The arguments that Args: describes."""
    found = re.findall(r"^    (\w+(?:, \w+)*): +\S", sections(doc).get("Args", ""), re.M)
    return [name for names in found for name in names.split(", ")]


def parameters(value: Any) -> list[str]:
    try:
        return [p for p in inspect.signature(value).parameters if p != "self"]
    except ValueError:  # an exception without a signature of its own
        return []


def test_the_names_are_found() -> None:
    assert len(ALL) >= 450


def name_and_first_line(module: str, name: str, value: Any) -> None:
    assert value.__qualname__ == ALIASES.get(module, {}).get(name, name)
    assert value.__name__ == value.__qualname__.rpartition(".")[2]
    first, *rest = documented(value).splitlines() or [""]
    assert 5 < len(first) <= 110 and first[-1] in ".)", first
    assert not rest or not rest[0], "the line after the first is empty"


def arguments_are_described(value: Any) -> None:
    """Each parameter has an entry with a text under Args:, and each entry is a parameter.

    A class that inherits __init__ may name the class whose help() describes its arguments.
    """
    listed = entries(documented(value))
    inherited: list[str] = []
    if inspect.isclass(value) and "__init__" not in vars(value):
        for other in re.findall(r"help\(dt\.([\w.]+)\)", documented(value)):
            inherited += entries(documented(operator.attrgetter(other)(dt)))
    missing = [p for p in parameters(value) if p not in listed + inherited]
    unknown = [p for p in listed if p not in parameters(value)]
    assert not missing and not unknown, f"missing {missing}, unknown {unknown}"


def sections_have_one_form(value: Any) -> None:
    doc = documented(value)
    headings = re.findall(r"^(\w+)(?:, .*)?:\n    ", doc, re.M)
    assert headings == [h for h in SECTIONS if h in headings], f"sections {headings}, not of {SECTIONS}"
    for heading, text in sections(doc).items():
        lines = [line for line in text.splitlines() if line]
        assert not heading or (lines and all(line.startswith("    ") for line in lines)), heading
    for error in re.findall(r"^    (\S.*?)(?::|$)", sections(doc).get("Raises", ""), re.M):
        assert issubclass(getattr(dt.errors, error), Exception)


def the_words_are_the_field_s(value: Any) -> None:
    found = PATTERN.findall(" ".join(documented(value).split()))
    assert not found, f"{found}: see docs/reference/words.md"


@pytest.mark.parametrize("module, name, value", ALL, ids=[f"{m}.{n}" for m, n, _ in ALL])
def test_a_public_name_is_documented(module: str, name: str, value: Any) -> None:
    name_and_first_line(module, name, value)
    arguments_are_described(value)
    sections_have_one_form(value)
    the_words_are_the_field_s(value)


EXAMPLES = {id(v): (f"{m}.{n}", v) for m, n, v in ALL if ">>>" in documented(v)}


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 30


@pytest.mark.parametrize("name, value", EXAMPLES.values(), ids=[name for name, _ in EXAMPLES.values()])
def test_example(name: str, value: Any) -> None:
    test = doctest.DocTestParser().get_doctest(documented(value), {"dt": dt}, name, None, None)
    report: list[str] = []
    with dt.Graph().as_default():
        result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.failed == 0, "".join(report)


def test_help_of_an_op_answers_alone() -> None:
    import pydoc

    text = pydoc.plain(pydoc.render_doc(dt.nn.conv2d))
    assert "conv2d(input" in text and "[height, width, in, out]" in text and "GraphError" in text
