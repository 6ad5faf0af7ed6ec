"""Keras's rarer layers and forms: volumes, locally connected, channels first, tensors and data sets as x."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as tf
from dtrain.errors import GraphError, UsageError
from dtrain.keras import backend as K
from dtrain.keras import layers
from dtrain.keras.models import Model, Sequential, model_from_yaml
from dtrain.keras.utils import model_to_dot
from dtrain.tf1 import dataset

RNG = np.random.default_rng(3)


def array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def test_locally_connected() -> None:
    x = array(2, 5, 6, 3)
    layer = layers.LocallyConnected2D(4, (2, 3), strides=(1, 2), input_shape=(5, 6, 3))
    found = Sequential([layer]).predict(x)
    kernel, bias = array(*layer.kernel.shape.as_list()), array(*layer.bias.shape.as_list())
    assert kernel.shape == (8, 18, 4) and bias.shape == (4, 2, 4) and found.shape == (2, 4, 2, 4)
    model = Sequential([layers.LocallyConnected2D(4, (2, 3), strides=(1, 2), input_shape=(5, 6, 3))])
    model.set_weights([kernel, bias])
    expected = np.empty((2, 4, 2, 4))
    for i in range(4):
        for j in range(2):
            window = x[:, i : i + 2, 2 * j : 2 * j + 3].reshape(2, -1)
            expected[:, i, j] = window @ kernel[i * 2 + j] + bias[i, j]
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-4, atol=1e-5)
    y = array(2, 6, 3)
    model = Sequential([layers.LocallyConnected1D(4, 3, input_shape=(6, 3))])
    kernel, bias = array(4, 9, 4), array(4, 4)
    model.set_weights([kernel, bias])
    expected = np.stack([y[:, i : i + 3].reshape(2, -1) @ kernel[i] + bias[i] for i in range(4)], 1)
    np.testing.assert_allclose(model.predict(y), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="only 'valid'"):
        layers.LocallyConnected2D(4, 3, padding="same")


def test_volumes() -> None:
    x = array(2, 4, 5, 6, 3)
    model = Sequential([layers.Conv3D(2, (2, 2, 3), input_shape=(4, 5, 6, 3))])
    kernel, bias = array(2, 2, 3, 3, 2), array(2)
    model.set_weights([kernel, bias])
    expected = np.zeros((2, 3, 4, 4, 2))
    for d, i, j in np.ndindex(2, 2, 3):
        expected += x[:, d : d + 3, i : i + 4, j : j + 4] @ kernel[d, i, j]
    np.testing.assert_allclose(model.predict(x), expected + bias, rtol=1e-4, atol=1e-4)
    pooled = x[:, :4, :4, :6].reshape(2, 2, 2, 2, 2, 3, 2, 3)
    shape = {"input_shape": (4, 5, 6, 3)}
    for layer, value in (
        (layers.MaxPooling3D(**shape), pooled.max((2, 4, 6))),
        (layers.AveragePooling3D(**shape), pooled.mean((2, 4, 6))),
        (layers.GlobalMaxPooling3D(**shape), x.max((1, 2, 3))),
        (layers.GlobalAveragePooling3D(**shape), x.mean((1, 2, 3))),
        (layers.UpSampling3D((1, 2, 1), **shape), x.repeat(2, 2)),
        (layers.ZeroPadding3D((0, 1, 0), **shape), np.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0), (0, 0)])),
        (layers.Cropping3D(((1, 0), (0, 2), (1, 1)), **shape), x[:, 1:, :-2, 1:-1]),
        (layers.SpatialDropout3D(0.5, **shape), x),
    ):
        np.testing.assert_allclose(Sequential([layer]).predict(x), value, rtol=1e-5, atol=1e-6)


def test_batch_normalization_of_channels_that_lie_first() -> None:
    x = array(8, 3, 4, 5)
    results = []
    for axis, given in ((1, x), (-1, x.transpose(0, 2, 3, 1))):
        model = Sequential(
            [
                layers.BatchNormalization(axis=axis, momentum=0.5, input_shape=given.shape[1:]),
                layers.Flatten(),
            ]
        )
        model.compile("sgd", lambda t, p: K.mean(K.square(p), -1))
        model.fit(given, np.zeros((8, 60)), epochs=2, batch_size=4, verbose=0, shuffle=False)
        out = model.predict(given).reshape(8, *given.shape[1:])
        results.append((out if axis == 1 else out.transpose(0, 3, 1, 2), *model.get_weights()))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_batch_dot_of_four_axes_is_matmul_and_map_fn_takes_any_batch() -> None:
    a, b = array(2, 3, 4), array(2, 3, 5, 4)
    x, y = K.placeholder((None, 3, 4)), K.placeholder((None, 3, 5, 4))
    product = K.batch_dot(x, y, [2, 3])
    turned = K.batch_dot(K.placeholder((None, 3, 5)), y, [2, 2])
    assert K.int_shape(product) == (None, 3, 5) and K.int_shape(turned) == (None, 3, 4)
    each = K.map_fn(lambda v: K.sum(v, 0) * 2, x)
    found = K.function([x, y], [product, each])([a, b])
    np.testing.assert_allclose(found[0], np.einsum("nid,nijd->nij", a, b), rtol=1e-5)
    np.testing.assert_allclose(found[1], a.sum(1) * 2, rtol=1e-5)
    with pytest.raises(GraphError, match="one of the last two"):
        K.batch_dot(x, y, [1, 3])


def test_gradients_of_a_sequential_model() -> None:
    model = Sequential([layers.Dense(3, input_shape=(4,), name="d")])
    loss = K.mean(K.square(model.output[:, 1]))
    slopes = K.gradients(loss, model.input)[0]
    slopes /= K.sqrt(K.mean(K.square(slopes))) + 1e-5
    x = array(2, 4)
    value, found = K.function([model.input], [loss, slopes])([x])
    kernel, bias = model.get_weights()
    out = x @ kernel + bias
    expected = np.outer(out[:, 1], kernel[:, 1])
    np.testing.assert_allclose(found, expected / np.sqrt((expected**2).mean()), rtol=1e-3)
    np.testing.assert_allclose(value, (out[:, 1] ** 2).mean(), rtol=1e-5)
    session = K.get_session()
    np.testing.assert_allclose(session.run(model.output, {model.input: x}), out, rtol=1e-5)


@pytest.mark.parametrize("form", ["data set", "iterator", "tensors", "Input"])
def test_batches_of_the_graph(form: str) -> None:
    x, y = array(24, 4), array(24, 2)
    with tf.Graph().as_default():
        data: Any = dataset.Dataset.from_tensor_slices((x, y)).repeat().batch(8)
        iterator = data.make_one_shot_iterator()
        a, b = iterator.get_next()
        start = layers.Input(tensor=a) if form == "Input" else layers.Input((4,))
        model = Model(start, layers.Dense(2, name="out")(start))
        model.set_weights([np.zeros((4, 2)), np.zeros(2)])
        model.compile("sgd", "mse", target_tensors=[b] if form == "Input" else None)
        given = {"data set": (data,), "iterator": (iterator,), "tensors": (a, b), "Input": ()}[form]
        model.fit(*given, steps_per_epoch=3, epochs=2, verbose=0)
        tested = model.evaluate(*given, steps=3, verbose=0)
        weights = model.get_weights()
    with tf.Graph().as_default():
        start = layers.Input((4,))
        model = Model(start, layers.Dense(2, name="out")(start))
        model.set_weights([np.zeros((4, 2)), np.zeros(2)])
        model.compile("sgd", "mse")
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False)
        np.testing.assert_allclose(tested, model.evaluate(x, y, verbose=0), rtol=1e-5)
        for one, other in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
        with pytest.raises(UsageError, match="x is missing"):
            model.fit(steps_per_epoch=2)


def test_pages_and_files(tmp_path: Path) -> None:
    model = Sequential([layers.Embedding(5, 2, input_length=3, name="e"), layers.Flatten(), layers.Dense(1)])
    again = model_from_yaml(model.to_yaml())
    again.set_weights(model.get_weights())
    x = np.array([[0, 1, 2], [3, 4, 0]])
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    assert b"<svg" in model_to_dot(model).create(prog="dot", format="svg")
    pytest.importorskip("tensorboard")
    model.compile("sgd", "mse")
    board = tf.keras.callbacks.TensorBoard(tmp_path, embeddings_freq=1, embeddings_metadata="names.tsv")
    model.fit(x, np.zeros((2, 1)), verbose=0, callbacks=[board])
    rows = np.loadtxt(tmp_path / "e.tsv", delimiter="\t")
    np.testing.assert_allclose(rows, model.get_weights()[0], rtol=1e-6)
    said = (tmp_path / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "e.tsv"' in said and 'metadata_path: "names.tsv"' in said
