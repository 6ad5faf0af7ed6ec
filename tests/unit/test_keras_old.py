"""What programs for Keras 1 and 2 say besides: values are Keras 2.15's where no other source is named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dtrain as dt
import dtrain.keras.backend as K
from dtrain.errors import GraphError, UsageError
from dtrain.keras import (
    activations,
    datasets,
    initializations,
    initializers,
    layers,
    losses,
    optimizers,
    regularizers,
)
from dtrain.keras.layers import Dense, Embedding, Highway, MaxoutDense, Merge, Reshape
from dtrain.keras.models import Model, Sequential, model_from_json
from dtrain.keras.preprocessing import image, sequence, text


def random(seed: int, *shape: int) -> np.ndarray:
    """As tests/reference/keras_cases.py has it."""
    at = np.arange(1, int(np.prod(shape)) + 1, dtype=np.int64) + 1000 * seed
    drawn = at * 48271 % 2147483647 * 16807 % 2147483647 % 2001
    return (drawn / 1000 - 1).reshape(shape).astype(np.float32)


def value(tensor: Any) -> np.ndarray:
    return np.asarray(dt.Session(comm=None).run(tensor))


# -- layers of Keras 1 -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("mode", "joined"),
    [
        ("sum", lambda a, b: a + b),
        ("mul", lambda a, b: a * b),
        ("concat", lambda a, b: np.concatenate([a, b], 1)),
        ("dot", lambda a, b: (a * b).sum(1, keepdims=True)),
        (lambda pair: pair[0] - 2 * pair[1], lambda a, b: a - 2 * b),
    ],
)
def test_merge_of_two_models(mode: Any, joined: Any) -> None:
    left = Sequential([Dense(3, input_dim=4)], comm=None)
    right = Sequential([Dense(3, input_dim=2)], comm=None)
    model = Sequential([Merge([left, right], mode=mode), Dense(2)], comm=None)
    x = [random(1, 5, 4), random(2, 5, 2)]
    found = model.predict(x)
    w = model.get_weights()
    assert [t.shape.as_list() for t in model.inputs] == [[None, 4], [None, 2]]
    assert len(w) == 6 and model.input_shape == [(None, 4), (None, 2)]
    expected = joined(x[0] @ w[0] + w[1], x[1] @ w[2] + w[3]) @ w[4] + w[5]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    model.compile("sgd", "mse")
    before = model.evaluate(x, np.ones((5, 2)), verbose=0)
    model.fit(x, np.ones((5, 2)), nb_epoch=3, verbose=0)
    assert model.evaluate(x, np.ones((5, 2)), verbose=0) < before


def test_merge_of_embeddings_is_written_and_read() -> None:
    words = [Sequential([Embedding(9, 4, input_length=1), Reshape((4,))], comm=None) for _ in range(2)]
    model = Sequential([Merge(words, mode="dot"), Dense(1, activation="sigmoid")], comm=None)
    again = model_from_json(model.to_json())
    again.set_weights(model.get_weights())
    x = [np.arange(9)[:, None], np.arange(9)[::-1, None]]
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


def test_merge_of_tensors_and_a_word_that_is_none() -> None:
    a, b = dt.constant(random(1, 2, 3)), dt.constant(random(2, 2, 3))
    np.testing.assert_allclose(value(Merge(mode="max")([a, b])), np.maximum(random(1, 2, 3), random(2, 2, 3)))
    with pytest.raises(UsageError, match="mode='plus'"):
        Merge(mode="plus")


def test_maxout_and_highway() -> None:
    x = random(3, 4, 5)
    model = Sequential([MaxoutDense(output_dim=5, nb_feature=3, input_dim=5)], comm=None)
    w, b = random(4, 3, 5, 5), random(5, 3, 5)
    model.set_weights([w, b])
    expected = (np.einsum("ni,fio->nfo", x, w) + b).max(1)
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5, atol=1e-6)
    model = Sequential([Highway(activation="tanh", init="zero", input_dim=5)], comm=None)
    assert model.get_weights()[-1].tolist() == [1.0] * 5 and not model.get_weights()[0].any()
    w, carry, b, carried = random(6, 5, 5), random(7, 5, 5), random(8, 5), random(9, 5)
    model.set_weights([w, carry, b, carried])
    gate = 1 / (1 + np.exp(-(x @ carry + carried)))
    np.testing.assert_allclose(model.predict(x), gate * np.tanh(x @ w + b) + (1 - gate) * x, atol=1e-6)


def test_convlstm_channels_first_and_its_states() -> None:
    x = random(1, 2, 3, 4, 4, 2)
    last = layers.ConvLSTM2D(3, 2, return_sequences=True, return_state=True)
    first = layers.ConvLSTM2D(3, 2, return_sequences=True, return_state=True, data_format="channels_first")
    a = last(dt.constant(x))
    b = first(dt.constant(x.transpose(0, 1, 4, 2, 3)))
    with dt.Session(comm=None) as session:
        session.run(dt.global_variables_initializer())
        for v, w in zip(first.weights, session.run(last.weights), strict=True):
            v.load(w, session)
        a, b = session.run([a, b])
    np.testing.assert_allclose(b[0], a[0].transpose(0, 1, 4, 2, 3), atol=1e-6)
    for one, other in zip(a[1:], b[1:], strict=True):
        np.testing.assert_allclose(other, one.transpose(0, 3, 1, 2), atol=1e-6)
    np.testing.assert_array_equal(a[0][:, -1], a[1])


def test_a_stateful_convlstm_goes_on() -> None:
    inner = layers.ConvLSTM2D(2, 3, padding="same", stateful=True, batch_input_shape=(2, 2, 4, 4, 1))
    whole = layers.ConvLSTM2D(2, 3, padding="same", input_shape=(4, 4, 4, 1))
    parts, once = Sequential([inner], comm=None), Sequential([whole], comm=None)
    once.set_weights(parts.get_weights())
    x = random(2, 2, 4, 4, 4, 1)
    parts.predict(x[:, :2])
    np.testing.assert_allclose(parts.predict(x[:, 2:]), once.predict(x), atol=1e-6)
    with pytest.raises(GraphError, match=r"sequences of images \[batch, steps, height"):
        Sequential([layers.ConvLSTM2D(2, 3, input_shape=(4, 4, 1))], comm=None).build()


# -- models ----------------------------------------------------------------------------------------------
def test_a_sequential_has_tensors_before_it_has_seen_data() -> None:
    model = Sequential([Dense(3, input_shape=(2,))], comm=None)
    assert [t.shape.as_list() for t in (*model.inputs, *model.outputs)] == [[None, 2], [None, 3]]
    assert model.input is model.inputs[0] and model.layers[0].output is not None
    model.add(Dense(4))
    assert model.outputs[0].shape.as_list() == [None, 4]
    inner = Model(model.inputs, model.layers[0].output)
    np.testing.assert_allclose(inner.predict(np.ones((1, 2))), np.ones((1, 2)) @ model.get_weights()[0])
    assert Sequential([Dense(3)], comm=None).inputs == []


#: loss, accuracy, mae, weighted accuracy: of evaluate, train_on_batch and evaluate again.
STEPS = {
    (False, 0): "1.461663 0.25 0.457385 0.25 1.461663 0.25 0.457385 0.25 1.37453 0.416667 0.455985 0.416667",
    (False, 1): "1.674367 0.25 0.457385 0.24543 1.674366 0.25 0.457385 0.24543 1.524267 0.416667 0.456732 "
    "0.472734",
    (False, 2): "1.943583 0.25 0.457385 0.125147 1.943583 0.25 0.457385 0.125147 1.684121 0.416667 0.456731 "
    "0.388432",
    (True, 0): "1.382732 0.222222 0.458648 0.222222 1.382732 0.222222 0.458648 0.222222 1.299124 0.444444 "
    "0.454155 0.444444",
    (True, 1): "1.528389 0.222222 0.458648 0.283737 1.528388 0.222222 0.458648 0.283737 1.444044 0.444444 "
    "0.454505 0.549641",
    (True, 2): "1.665442 0.222222 0.458648 0.117844 1.665442 0.222222 0.458648 0.117844 1.466897 0.444444 "
    "0.453356 0.473056",
}


@pytest.mark.parametrize(("masked", "axes"), STEPS)
def test_weights_of_steps_and_metrics_of_masked_sequences(masked: bool, axes: int) -> None:
    x, y = random(1, 4, 3, 2), np.eye(3)[(random(2, 4, 3) * 1.5 + 1.5).astype(int).clip(0, 2)]
    x[0, 2] = x[2, 1:] = 0
    weights = (None, random(3, 4, 3)[:, 0] + 1, random(3, 4, 3) + 1)[axes]
    before = layers.Masking(input_shape=(3, 2)) if masked else layers.Activation("linear", input_shape=(3, 2))
    rest = [layers.SimpleRNN(4, return_sequences=True), Dense(3, activation="softmax")]
    model = Sequential([before, *rest], comm=None)
    model.set_weights([random(5 + i, *a.shape) for i, a in enumerate(model.get_weights())])
    mode = "temporal" if axes == 2 else None
    how = {"metrics": ["accuracy", "mae"], "weighted_metrics": ["accuracy"], "sample_weight_mode": mode}
    model.compile(optimizers.SGD(0.1), "categorical_crossentropy", **how)
    found = [
        *model.evaluate(x, y, sample_weight=weights, verbose=0),
        *model.train_on_batch(x, y, sample_weight=weights),
        *model.evaluate(x, y, sample_weight=weights, verbose=0),
    ]
    expected = [float(v) for v in STEPS[masked, axes].split()]
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=2e-6)


def test_class_weight_of_each_output_counts_as_sample_weight_does() -> None:
    x = random(1, 6, 3)
    labels = [np.array([0, 1, 1, 0, 1, 0]), np.array([2, 0, 1, 2, 2, 0])]
    a = layers.Input((3,))
    model = Model(
        a, [Dense(1, activation="sigmoid", name="u")(a), Dense(3, activation="softmax", name="v")(a)]
    )
    model.compile(optimizers.SGD(0.0), ["binary_crossentropy", "sparse_categorical_crossentropy"])
    by_class = [{0: 2.0, 1: 0.5}, {0: 1.0, 1: 3.0, 2: 0.25}]
    weights = [np.array([w[int(c)] for c in y]) for w, y in zip(by_class, labels, strict=True)]
    expected = model.train_on_batch(x, labels, sample_weight=weights)
    for given in (by_class, dict(zip("uv", by_class, strict=True))):
        np.testing.assert_allclose(model.train_on_batch(x, labels, class_weight=given), expected, rtol=1e-6)
    with pytest.raises(UsageError, match="give a list of dicts"):
        model.train_on_batch(x, labels, class_weight={0: 1.0})
    one = Sequential([Dense(1, input_dim=3)], comm=None)
    one.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="the model has one output: it is not used"):
        one.train_on_batch(x, labels[0], class_weight=by_class)
    with pytest.raises(UsageError, match="one number for each example"):
        one.train_on_batch(x, labels[0], sample_weight=np.ones((6, 4)))
    with pytest.raises(UsageError, match="sample_weight_mode='rows'"):
        one.compile("sgd", "mse", sample_weight_mode="rows")


# -- first values, regularizers, names -------------------------------------------------------------------
def test_first_values_by_functions_of_a_shape() -> None:
    def mine(shape: Any, name: Any = None) -> Any:
        return initializations.normal(shape, scale=2.0, name=name)

    wide = Sequential([Dense(9, init=mine, input_dim=900)], comm=None).get_weights()[0]
    assert abs(wide.std() - 2) < 0.1
    wide = Sequential([Dense(9, init=initializations.uniform, input_dim=900)], comm=None).get_weights()[0]
    assert 0.049 < np.abs(wide).max() <= 0.05
    of_variable = Dense(2, kernel_initializer=lambda shape: K.variable(np.full(shape, 3.0)), input_dim=2)
    assert Sequential([of_variable], comm=None).get_weights()[0].tolist() == [[3, 3], [3, 3]]
    with_dtype = Dense(2, kernel_initializer=lambda shape, dtype=None: np.ones(shape, dtype), input_dim=1)
    assert Sequential([with_dtype], comm=None).get_weights()[0].tolist() == [[1, 1]]


def test_a_layer_of_keras_1_keeps_variables_of_initializations() -> None:
    class Old(layers.Layer):
        def build(self, input_shape: Any) -> None:
            init = initializations.get("glorot_uniform")
            self.W = init((input_shape[1], 3), name="W")
            self.b = K.zeros((3,))
            self.trainable_weights = [self.W, self.b]

        def call(self, x: Any, mask: Any = None) -> Any:
            return K.dot(x, self.W) + self.b

    model = Sequential([Old(input_shape=(4,))], comm=None)
    model.compile(optimizers.SGD(0.1), "mse")
    x, (w, b) = random(1, 5, 4), model.get_weights()
    model.train_on_batch(x, np.zeros((5, 3)))
    slope = 2 / 15 * (x @ w + b)
    np.testing.assert_allclose(model.get_weights()[1], b - 0.1 * slope.sum(0), atol=1e-6)
    np.testing.assert_allclose(model.get_weights()[0], w - 0.1 * x.T @ slope, atol=1e-6)


def test_show_accuracy_is_a_metric() -> None:
    model = Sequential([Dense(3, activation="softmax", input_dim=2)], comm=None)
    model.compile(loss="categorical_crossentropy", optimizer="sgd")
    x, y = random(1, 6, 2), np.eye(3)[np.arange(6) % 3]
    shown = model.fit(x, y, nb_epoch=2, show_accuracy=True, verbose=0).history
    assert sorted(shown) == ["accuracy", "loss"]
    loss, accuracy = model.evaluate(x, y, show_accuracy=True, verbose=0)
    assert accuracy == (model.predict(x).argmax(1) == np.arange(6) % 3).mean() and loss > 0


def test_old_names_of_regularizers_and_plain_data() -> None:
    w = dt.constant([[1.0, -2.0]])
    assert value(regularizers.activity_l1(0.5)(w)) == 1.5
    assert value(regularizers.l1l2(0.5, 0.25)(w)) == pytest.approx(2.75)
    assert value(regularizers.WeightRegularizer(l2=0.5)(w)) == 2.5
    for module, thing in (
        (regularizers, regularizers.l2(0.5)),
        (initializers, initializers.Constant(3)),
        (optimizers, optimizers.SGD(0.5)),
    ):
        again = module.deserialize(module.serialize(thing))
        assert again.get_config() == thing.get_config()
    assert activations.serialize(activations.relu) == "relu" and losses.MSE is losses.mse


# -- sets ------------------------------------------------------------------------------------------------
def test_sets_by_their_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pixels, labels = np.arange(6 * 12, dtype=np.uint8).reshape(6, 2, 2, 3), np.arange(6, dtype=np.uint8)
    asked = []

    def load(name: str, comm: Any) -> Any:
        asked.append(name)
        return SimpleNamespace(x=pixels, y=labels, train=range(4), test=range(4, 6))

    monkeypatch.setattr(datasets.cache, "load", load)
    monkeypatch.setenv("HOME", str(tmp_path))
    for module, name, shape in (
        (datasets.cifar10, "cifar10", (4, 1)),
        (datasets.cifar100, "cifar100", (4, 1)),
        (datasets.fashion_mnist, "fashion-mnist", (4,)),
    ):
        (x, y), (u, v) = module.load_data()
        assert asked.pop() == name and y.shape == shape and v.ravel().tolist() == [4, 5]
        np.testing.assert_array_equal(np.concatenate([x, u]), pixels)
        x[:] = 0  # the caller's own
    with pytest.raises(UsageError, match="only 'fine'"):
        datasets.cifar100.load_data("coarse")


# -- preprocessing ---------------------------------------------------------------------------------------
def test_skipgrams() -> None:
    pairs, labels = sequence.skipgrams([1, 2, 0, 3, 2], 5, 1, 0, shuffle=False)
    assert (pairs, labels) == ([[1, 2], [2, 1], [3, 2], [2, 3]], [1, 1, 1, 1])
    pairs, labels = sequence.skipgrams([1, 2, 3], 5, 2, 1.0, seed=3)
    assert len(pairs) == 12 and sum(labels) == 6 and all(1 <= b < 5 for _, b in pairs)
    assert sequence.skipgrams([1, 2, 3], 5, 2, 1.0, seed=3) == (pairs, labels)
    assert sequence.skipgrams([1, 2], 5, 1, 0, False, True)[1] == [[0, 1], [0, 1]]
    kept = sequence.make_sampling_table(6, 1e-2)
    np.testing.assert_allclose(kept, [0.099683, 0.099683, 0.173165, 0.234501, 0.288658, 0.337869], atol=1e-6)
    assert sequence.skipgrams([1, 2, 1], 5, sampling_table=np.zeros(5)) == ([], [])


def test_time_series() -> None:
    g = sequence.TimeseriesGenerator(np.arange(20).reshape(10, 2), np.arange(10), 4, 2, 3, 1, batch_size=2)
    assert len(g) == 1 and g[0][0].tolist() == [[[2, 3], [6, 7]], [[8, 9], [12, 13]]]
    assert g[0][1].tolist() == [5, 8]
    g = sequence.TimeseriesGenerator(
        np.arange(10), np.arange(10) * 2, 3, reverse=True, batch_size=4, end_index=8
    )
    assert [x.tolist() for x, _ in g] == [
        [[2, 1, 0], [3, 2, 1], [4, 3, 2], [5, 4, 3]],
        [[6, 5, 4], [7, 6, 5]],
    ]
    assert [y.tolist() for _, y in g] == [[6, 8, 10, 12], [14, 16]]
    with pytest.raises(UsageError, match="leaves no window"):
        sequence.TimeseriesGenerator(np.arange(4), np.arange(4), 4)


def test_texts_and_images(tmp_path: Path) -> None:
    assert text.hashing_trick("the cat sat on the mat", 10, "md5") == [6, 3, 1, 1, 6, 8]
    assert text.one_hot("The cat sat", 10) == [6, 3, 1]
    pytest.importorskip("PIL")
    pixels = np.arange(48).reshape(4, 4, 3)
    image.save_img(tmp_path / "a.png", pixels, scale=False)
    found = image.img_to_array(image.load_img(tmp_path / "a.png"))
    np.testing.assert_array_equal(found, pixels)
    assert image.load_img(tmp_path / "a.png", grayscale=True, target_size=(2, 3)).size == (3, 2)


# -- backend ---------------------------------------------------------------------------------------------
X = random(1, 2, 6, 5, 3)


@pytest.mark.parametrize(
    "work",
    [
        lambda x, how: K.conv2d(x, random(2, 2, 3, 3, 4), (2, 1), "same", how),
        lambda x, how: K.depthwise_conv2d(x, random(2, 2, 2, 3, 2), (1, 2), "valid", how),
        lambda x, how: K.separable_conv2d(x, random(2, 2, 2, 3, 2), random(3, 1, 1, 6, 2), data_format=how),
        lambda x, how: K.pool2d(x, (2, 2), (2, 2), "same", how),
        lambda x, how: K.pool2d(x, (3, 2), (1, 1), "valid", how, "avg"),
        lambda x, how: K.resize_images(x, 2, 3, how),
        lambda x, how: K.spatial_2d_padding(x, ((1, 0), (2, 1)), how),
        lambda x, how: K.bias_add(x, np.array([1.0, 2.0, 3.0], np.float32), how),
    ],
)
def test_channels_first_is_the_same_moved(work: Any) -> None:
    last = value(work(dt.constant(X), "channels_last"))
    first = value(work(dt.constant(X.transpose(0, 3, 1, 2)), "channels_first"))
    np.testing.assert_allclose(first, last.transpose(0, 3, 1, 2), rtol=1e-6, atol=1e-6)


def test_transposed_convolution_of_channels_first() -> None:
    kernel, x = random(2, 2, 2, 4, 3), dt.constant(X)
    last = value(K.conv2d_transpose(x, kernel, (2, 12, 10, 4), (2, 2), "same"))
    moved = dt.constant(X.transpose(0, 3, 1, 2))
    first = value(K.conv2d_transpose(moved, kernel, (2, 4, 12, 10), (2, 2), "same", "channels_first"))
    np.testing.assert_allclose(first, last.transpose(0, 3, 1, 2), rtol=1e-6, atol=1e-6)


def test_volumes_of_the_backend() -> None:
    x = random(1, 1, 3, 4, 3, 2)
    kernel = random(2, 2, 2, 2, 2, 3)
    found = value(K.conv3d(dt.constant(x), kernel))
    expected = sum(
        np.einsum("ndhwi,io->ndhwo", x[:, d : d + 2, h : h + 3, w : w + 2], kernel[d, h, w])
        for d in range(2)
        for h in range(2)
        for w in range(2)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    pooled = value(K.pool3d(dt.constant(x), (3, 2, 3), (1, 2, 1), pool_mode="avg"))
    np.testing.assert_allclose(pooled[0, 0, :, 0], x[0].reshape(3, 2, 2, 3, 2).mean((0, 2, 3)), rtol=1e-5)
    wide = value(K.spatial_3d_padding(dt.constant(x)))
    assert wide.shape == (1, 5, 6, 5, 2) and wide.sum() == pytest.approx(x.sum(), abs=1e-4)
    assert value(K.resize_volumes(dt.constant(x), 2, 1, 3)).shape == (1, 6, 4, 9, 2)


def test_normalization_of_the_backend() -> None:
    gamma, beta = np.array([1.0, 2.0, 3.0], np.float32), np.array([0.5, 0.0, -1.0], np.float32)
    y, mean, spread = K.normalize_batch_in_training(dt.constant(X), gamma, beta, [0, 1, 2], 1e-3)
    y, mean, spread = (value(t) for t in (y, mean, spread))
    np.testing.assert_allclose(mean, X.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(spread, X.var((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(y, (X - mean) / np.sqrt(spread + 1e-3) * gamma + beta, rtol=1e-4, atol=1e-5)
    moved = dt.constant(X.transpose(0, 3, 1, 2))
    again = value(K.batch_normalization(moved, mean, spread, beta, gamma, axis=1))
    np.testing.assert_allclose(again, y.transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value(K.batch_normalization(X, mean, spread, beta, gamma, 1e-3)), y, atol=1e-5)


def test_rnn_of_the_backend() -> None:
    x, w = random(1, 2, 4, 3), random(2, 3, 3)
    mask = np.array([[1, 1, 0, 1], [0, 1, 1, 0]], bool)

    def step(now: Any, states: Any) -> Any:
        h = K.tanh(now + K.dot(states[0], states[1]))
        return h * 2.0, [h]

    last, every, (state,) = K.rnn(
        step, dt.constant(x), [K.zeros((2, 3))], mask=dt.constant(mask), constants=[dt.constant(w)]
    )
    h, y, ys = np.zeros((2, 3)), np.zeros((2, 3)), []
    for i in range(4):
        new = np.tanh(x[:, i] + h @ w)
        h = np.where(mask[:, i : i + 1], new, h)
        y = np.where(mask[:, i : i + 1], 2 * new, y)
        ys.append(y)
    with dt.Session(comm=None) as session:
        session.run(dt.global_variables_initializer())
        found = session.run([last, every, state])
    for a, b in zip(found, (y, np.stack(ys, 1), h), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    with pytest.raises(GraphError, match="known number of steps"):
        K.rnn(step, layers.Input((None, 3)), [])


def test_small_functions_of_the_backend() -> None:
    np.testing.assert_allclose(value(K.cumprod(dt.constant([1.0, 2.0, 3.0]))), [1, 2, 6])
    np.testing.assert_allclose(value(K.relu(dt.constant([-1.0, 1.0, 3.0]), threshold=2.0)), [0, 0, 3])
    assert K.get_variable_shape(dt.constant(X)) == X.shape
    kernel = random(3, 2, 3, 4)
    causal = value(K.conv1d(dt.constant(random(4, 1, 5, 3)), kernel, padding="causal"))
    padded = np.pad(random(4, 1, 5, 3), [(0, 0), (1, 0), (0, 0)])
    np.testing.assert_allclose(causal, value(K.conv1d(dt.constant(padded), kernel)), atol=1e-6)


def test_convolutions_of_sequences_of_any_length() -> None:
    inner = [
        layers.ConvLSTM2D(2, 3, padding="same", return_sequences=True, input_shape=(None, 4, 4, 1)),
        layers.BatchNormalization(),
        layers.Conv3D(1, 3, padding="same"),
    ]
    model = Sequential(inner, comm=None)
    assert model.output_shape == (None, None, 4, 4, 1)
    model.compile("sgd", "mse")
    for steps in (2, 3):
        x = random(steps, 2, steps, 4, 4, 1)
        assert model.train_on_batch(x, x) > 0 and model.predict(x).shape == x.shape


def test_a_cell_begins_with_zeros() -> None:
    cells = layers.LSTMCell(3), layers.StackedRNNCells([layers.GRUCell(2), layers.LSTMCell(3)])
    x = dt.constant(random(1, 2, 4))
    for cell in cells:
        whole = layers.RNN(cell)
        sequence_ = whole(dt.constant(random(1, 2, 1, 4)))
        y, _ = cell.call(x)
        with dt.Session(comm=None) as session:
            session.run(dt.global_variables_initializer())
            np.testing.assert_allclose(*session.run([y, sequence_]), atol=1e-6)


def test_a_loss_that_penalises_gradients_by_a_tensor_of_the_model() -> None:
    a, b = layers.Input((3,)), layers.Input((3,))
    between = layers.Lambda(lambda pair: 0.25 * pair[0] + 0.75 * pair[1])([a, b])
    critic = Sequential([Dense(4, activation="tanh", input_shape=(3,)), Dense(1)], comm=None)
    model = Model([a, b], [critic(a), critic(between)], comm=None)

    def penalty(y_true: Any, y_pred: Any) -> Any:
        (slope,) = [K.gradients(y_pred, between)[0]]
        return K.mean(K.square(1 - K.sqrt(K.sum(K.square(slope), axis=[1]))))

    model.compile(optimizers.SGD(0.1), [lambda y, p: K.mean(y * p), penalty], loss_weights=[0.0, 1.0])
    x = [random(1, 6, 3), random(2, 6, 3)]
    w, c, v, _ = critic.get_weights()
    inner = 1 - np.tanh((0.25 * x[0] + 0.75 * x[1]) @ w + c) ** 2
    norm = np.sqrt((((inner * v[:, 0]) @ w.T) ** 2).sum(1))
    losses_ = [model.train_on_batch(x, [np.ones(6), np.ones(6)])[0] for _ in range(30)]
    assert losses_[0] == pytest.approx(((1 - norm) ** 2).mean(), rel=1e-4) and losses_[-1] < 0.5 * losses_[0]


# -- what callbacks and programs see of a loss -----------------------------------------------------------
def test_the_loss_as_a_tensor_and_its_gradients() -> None:
    model = Sequential(
        [Dense(4, activation="tanh", input_shape=(3,)), Dense(2, activation="softmax")], comm=None
    )
    with pytest.raises(AttributeError, match="no attribute 'total_loss'"):
        _ = model.total_loss
    model.compile("sgd", "sparse_categorical_crossentropy")
    slopes = model.optimizer.get_gradients(model.total_loss, model.trainable_weights)
    given = model.inputs + model.sample_weights + model.targets + [K.learning_phase()]
    x, y, weights = random(1, 8, 3), np.arange(8)[:, None] % 2, np.linspace(0, 2, 8)
    found = K.function(given, [model.total_loss, *slopes])([x, weights, y, 0])
    assert found[0] == pytest.approx(model.evaluate(x, y, sample_weight=weights, verbose=0), rel=1e-5)
    before = model.get_weights()
    model.compile(optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    model.train_on_batch(x, y, sample_weight=weights)
    for old, new, slope in zip(before, model.get_weights(), found[1:], strict=True):
        np.testing.assert_allclose(old - new, slope, rtol=1e-4, atol=1e-6)


def test_callbacks_see_what_is_tested_on() -> None:
    seen = []

    class Sees(dt.keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append(self.validation_data)

    model = Sequential([Dense(3, activation="softmax", input_shape=(2,))], comm=None)
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = random(1, 10, 2), np.arange(10) % 3
    model.fit(x, y, verbose=0, validation_split=0.3, callbacks=[Sees()])
    model.fit(x, y, verbose=0, validation_data=(x[:4], y[:4], np.arange(4)), callbacks=[Sees()])
    model.fit(x, y, verbose=0, callbacks=[Sees()])
    np.testing.assert_array_equal(seen[0][0], x[7:])
    assert seen[0][1].tolist() == [[1], [2], [0]] and seen[0][2].tolist() == [1, 1, 1]
    assert seen[1][2].tolist() == [0, 1, 2, 3] and seen[2] is None


def test_histograms_of_gradients(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = Sequential([Dense(2, input_shape=(2,), name="d")], comm=None)
    model.compile(optimizers.SGD(0.0), "mse")
    board = dt.keras.callbacks.TensorBoard(tmp_path, histogram_freq=1, write_grads=True)
    with pytest.raises(UsageError, match="validation_data or validation_split"):
        model.fit(np.ones((4, 2)), np.zeros((4, 2)), verbose=0, callbacks=[board])
    x, y = random(1, 6, 2), random(2, 6, 2)
    model.fit(x, y, verbose=0, epochs=2, validation_data=(x, y), callbacks=[board])
    read = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    (first, _) = read.Histograms("d/kernel_grad")
    w, b = model.get_weights()
    slope = x.T @ (x @ w + b - y) / 6
    assert first.histogram_value.num == 4
    assert first.histogram_value.sum == pytest.approx(slope.sum(), abs=1e-5)


# -- helpers ---------------------------------------------------------------------------------------------
def test_helpers_of_keras_2() -> None:
    utils = dt.keras.utils
    a, b = layers.Input((3,)), layers.Input((3,))
    y = Dense(2)(layers.add([a, Dense(3)(b)]))
    assert utils.get_source_inputs(y) == [a, b]
    model = Model([a, b], y)
    assert utils.count_params(model.weights) == model.count_params() == 20
    lines: list[str] = []
    utils.print_summary(model, print_fn=lines.append)
    assert any("Total params: 20" in line for line in lines)
    assert [utils.conv_output_length(7, 3, p, 2) for p in ("valid", "same", "full", "causal")] == [3, 4, 5, 4]
    assert (
        utils.conv_output_length(None, 3, "same", 1) is None
        and utils.conv_input_length(3, 3, "valid", 2) == 7
    )
    x = np.arange(6)
    assert dt.keras.models.slice_X([x, None], 2, 4)[0].tolist() == [2, 3]
    assert utils.slice_arrays(x, [5, 0]).tolist() == [5, 0]
    data = utils.serialize_keras_object(regularizers.l2(0.5))
    known = {"L1L2": regularizers.L1L2}
    assert utils.deserialize_keras_object(data, known).get_config() == {"l1": 0.0, "l2": 0.5}


# -- on several ranks ------------------------------------------------------------------------------------
def _recurrent(comm: Any) -> list[Any]:
    """Steps with a mask and weights of steps, in batches that ranks share unevenly."""
    inner = [
        layers.ConvLSTM2D(2, 2, padding="same", return_sequences=True, input_shape=(3, 3, 2, 1)),
        layers.TimeDistributed(layers.Flatten()),
        layers.Masking(0.1),
        layers.SimpleRNN(3, return_sequences=True),
        Dense(3, activation="softmax"),
    ]
    model = Sequential(inner, comm=comm)
    model.set_weights([random(5 + i, *a.shape) for i, a in enumerate(model.get_weights())])
    how = {"metrics": ["accuracy"], "sample_weight_mode": "temporal"}
    model.compile(optimizers.SGD(0.1), "sparse_categorical_crossentropy", **how)
    x, y = random(1, 7, 3, 3, 2, 1), np.arange(21).reshape(7, 3) % 3
    history = model.fit(x, y, 4, 2, 0, shuffle=False, sample_weight=random(2, 7, 3) + 1).history
    return [history["loss"], history["accuracy"], *model.get_weights()]


def _merged(comm: Any) -> list[Any]:
    """Two models merged, with a transposed convolution and weights of classes."""
    left = Sequential(
        [Dense(8, input_dim=4), Reshape((2, 2, 2)), layers.Conv2DTranspose(1, 2, strides=2)], comm=comm
    )
    right = Sequential([layers.UpSampling2D(2, interpolation="bilinear", input_shape=(2, 2, 1))], comm=comm)
    model = Sequential([Merge([left, right]), layers.Flatten(), Dense(2, activation="softmax")], comm=comm)
    model.set_weights([random(5 + i, *a.shape) for i, a in enumerate(model.get_weights())])
    model.compile(optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    x, y = [random(1, 7, 4), random(2, 7, 2, 2, 1)], np.arange(7) % 2
    history = model.fit(x, y, 3, 2, 0, shuffle=False, class_weight={0: 2.0}).history
    (slope,) = model.optimizer.get_gradients(model.total_loss, model.trainable_weights[-1:])
    given = [*model.inputs, *model.targets, *model.sample_weights]
    (found,) = K.function(given, [slope])([*x, y[:, None], np.ones(7)])
    return [history["loss"], found, *model.get_weights()]


@pytest.mark.parametrize("body", [_recurrent, _merged])
def test_ranks_give_what_one_gives(body: Any, on_threads: Any) -> None:
    (alone,) = on_threads(1, body)
    for size in (2, 3):
        for found in on_threads(size, body):
            for a, b in zip(found, alone, strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
