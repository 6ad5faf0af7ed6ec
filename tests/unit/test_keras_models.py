"""Functional models: graphs of calls, what they share, and what differs from a Sequential."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
import dtrain.keras.backend as K
from dtrain.comm import Communicator
from dtrain.errors import CheckpointError, GraphError, UsageError
from dtrain.keras.layers import (
    GRU,
    LSTM,
    Activation,
    Add,
    AlphaDropout,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GaussianDropout,
    GaussianNoise,
    Input,
    Lambda,
    Layer,
    MaxPooling2D,
    Reshape,
    SpatialDropout1D,
    TimeDistributed,
    add,
)
from dtrain.keras.models import Model, Sequential, clone_model, load_model, model_from_json
from dtrain.keras.preprocessing.image import ImageDataGenerator
from dtrain.keras.preprocessing.sequence import pad_sequences
from dtrain.keras.preprocessing.text import Tokenizer

Array = np.ndarray


def draw(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture(autouse=True)
def _anew() -> None:
    dt.reset_default_graph()


# -- graphs of calls -------------------------------------------------------------------------------------
def test_layers_come_in_keras_order_with_names_of_their_own() -> None:
    a, b = Input((3,)), Input((3,))
    shared = Dense(4)
    left, right = Dense(4)(shared(a)), shared(b)
    model = Model([a, b], Dense(1)(add([left, right])), comm=None)
    assert [layer.name for layer in model.layers] == [
        "input_1",
        "input_2",
        "dense",
        "dense_1",
        "add",
        "dense_2",
    ]
    assert model.layers[2] is shared and len(model.weights) == 6
    assert model.input_shape == [(None, 3), (None, 3)] and model.output_shape == (None, 1)
    assert model.output_names == ["dense_2"] and model.get_layer(index=-1).name == "dense_2"
    with pytest.raises(AttributeError, match="called 2 times: get_output_at"):
        _ = shared.output
    assert shared.get_output_at(1) is right


def test_a_model_of_inner_tensors_shares_weights_and_trains_them() -> None:
    x = Input((4,))
    h = Dense(3, "tanh", name="h")(x)
    model = Model(x, Dense(2)(h), comm=None)
    inner = Model(model.input, model.get_layer("h").output)
    rows = draw(6, 4)
    before = inner.predict(rows)
    model.compile("sgd", "mse")
    model.fit(rows, draw(6, 2), verbose=0)
    w, b, *_ = model.get_weights()
    np.testing.assert_allclose(inner.predict(rows), np.tanh(rows @ w + b), rtol=1e-5)
    assert not np.allclose(before, inner.predict(rows))


def test_ops_between_layers_are_copied_and_not_saved(tmp_path: Path) -> None:
    x = Input((3,))
    scaled = Dense(2)(x * 2.0 + 1.0)
    model = Model(x, scaled - K.mean(scaled, axis=1, keepdims=True), comm=None)
    rows = draw(5, 3)
    w, b = model.get_weights()
    y = (rows * 2 + 1) @ w + b
    np.testing.assert_allclose(model.predict(rows), y - y.mean(1, keepdims=True), rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match=r"has the op .* between its layers.*Lambda"):
        model.save(tmp_path / "m")


def test_dropout_and_normalisation_of_a_replayed_model_train_and_test() -> None:
    dt.set_random_seed(0)
    x = Input((50,))
    model = Model(x, BatchNormalization(momentum=0.0)(Dropout(0.5)(x)), comm=None)
    model.compile("sgd", "mse")
    rows = np.ones((40, 50), np.float32)
    np.testing.assert_allclose(model.predict(rows), rows, rtol=1e-3)
    model.train_on_batch(rows, rows)
    mean = model.layers[-1].get_weights()[2]
    assert 0.5 < mean.min() < mean.max() < 1.5 and mean.std() > 0.05  # halves of 2, column by column
    phase = K.function([model.input, K.learning_phase()], [model.layers[1].output])
    kept, dropped = phase([rows, 0])[0], phase([rows, 1])[0]
    np.testing.assert_array_equal(kept, rows)
    assert set(np.unique(dropped)) == {0.0, 2.0}


@pytest.mark.parametrize(
    "noise", [GaussianNoise(0.5), GaussianDropout(0.3), AlphaDropout(0.3), SpatialDropout1D(0.4)], ids=repr
)
def test_noise_is_of_the_global_batch(noise: Layer, on_threads: Callable[..., list[Any]]) -> None:
    config = noise.get_config()

    def body(comm: Communicator) -> Any:
        with dt.Graph().as_default():
            dt.set_random_seed(4)
            x = Input((6, 3))
            layer = type(noise).from_config(config)
            model = Model(x, Flatten()(layer(x)), comm=comm)
            of = K.function([x, K.learning_phase()], [model.output])
            model.compile("sgd", "mse")
            rows = draw(7, 6, 3)
            return of([rows, 1])[0], model.train_on_batch(rows, draw(7, 18)), model.predict(rows)

    (one,) = on_threads(1, body)
    assert not np.allclose(one[0], one[2]) and np.allclose(one[2], draw(7, 6, 3).reshape(7, -1))
    for found in on_threads(3, body):
        for a, b in zip(found, one, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    if isinstance(noise, AlphaDropout):
        return
    column = one[0].reshape(7, 6, 3)
    if isinstance(noise, SpatialDropout1D):
        assert all(len({v == 0 for v in c}) == 1 for row in column for c in row.T)


def test_ranks_train_a_graph_of_two_outputs_as_one_does(on_threads: Callable[..., list[Any]]) -> None:
    def body(comm: Communicator) -> Any:
        with dt.Graph().as_default():
            dt.set_random_seed(2)
            words, rest = Input((5,), dtype="int32"), Input((4, 3))
            h = Concatenate()([GRU(4)(Embedding(7, 3, mask_zero=True)(words)), LSTM(3, dropout=0.2)(rest)])
            drawn = Lambda(lambda t: t + 0.1 * K.random_normal(K.shape(t)))(h)
            model = Model(
                [words, rest], [Dense(2, "softmax", name="kind")(drawn), Dense(1, name="size")(h)], comm=comm
            )
            model.compile("adam", ["sparse_categorical_crossentropy", "mse"], metrics={"kind": "accuracy"})
            rng = np.random.default_rng(0)
            x = [rng.integers(0, 7, (11, 5)), rng.normal(size=(11, 4, 3)).astype("f")]
            y = {"kind": rng.integers(0, 2, 11), "size": rng.normal(size=(11, 1))}
            history = model.fit(x, y, batch_size=4, epochs=2, verbose=0, validation_split=0.2).history
            return [*map(list, history.values()), *model.get_weights(), *model.predict(x)]

    (one,) = on_threads(1, body)
    for found in (*on_threads(2, body), *on_threads(3, body)):
        for a, b in zip(found, one, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_what_a_step_should_run_is_told_where_no_model_runs_it() -> None:
    """The collection of TensorFlow's programs has the updates of layers on their placeholders alone."""
    x = Input((3,))
    model = Model(x, BatchNormalization()(x), comm=None)
    model.compile("sgd", "mse")
    model.train_on_batch(draw(4, 3), draw(4, 3))
    assert dt.get_collection(dt.GraphKeys.UPDATE_OPS) == []
    BatchNormalization()(dt.placeholder("float32", [None, 3]))
    assert len(dt.get_collection(dt.GraphKeys.UPDATE_OPS)) == 2
    model(dt.placeholder("float32", [None, 3]), training=True)
    assert len(dt.get_collection(dt.GraphKeys.UPDATE_OPS)) == 4


# -- models in models ------------------------------------------------------------------------------------
def test_a_sequential_moves_with_its_weights_and_its_optimizer() -> None:
    """Trained on in another graph it goes where one goes that stayed in its own."""
    inner = Sequential([Dense(3, input_shape=(2,)), Dense(1)], comm=None)
    stayed = clone_model(inner)
    stayed.set_weights(inner.get_weights())
    rows, y = draw(4, 2), draw(4, 1)
    for model in (inner, stayed):
        model.compile("adam", "mse")
        model.train_on_batch(rows, y)
    x = Input((2,))
    outer = Model(x, inner(x), comm=None)
    assert inner.graph is x.graph is not stayed.graph
    np.testing.assert_array_equal(outer.predict(rows), stayed.predict(rows))
    assert inner.train_on_batch(rows, y) == pytest.approx(stayed.train_on_batch(rows, y), rel=1e-6)
    for a, b in zip(outer.get_weights(), stayed.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_what_is_frozen_is_what_was_when_it_was_compiled() -> None:
    """A discriminator learns by itself and stays in the model of both, normalisation included."""
    judge = Sequential([Dense(3, input_shape=(2,)), BatchNormalization(momentum=0.5), Dense(1)], comm=None)
    judge.compile("sgd", "mse")
    judge.trainable = False
    x = Input((2,))
    both = Model(x, judge(Dense(2)(x)), comm=None)
    both.compile("sgd", "mse")
    rows, y = draw(8, 2), draw(8, 1)
    first = judge.get_weights()
    both.train_on_batch(rows, y)
    for a, b in zip(judge.get_weights(), first, strict=True):
        np.testing.assert_array_equal(a, b)
    judge.train_on_batch(rows, y)
    assert all(
        not np.array_equal(a, b) for a, b in zip(judge.get_weights(), first, strict=True) if a.size > 1
    )


def test_a_model_of_ones_own_class() -> None:
    class Own(Model):
        def __init__(self) -> None:
            super().__init__(name="own", comm=None)
            self.hidden, self.last, self.drop = Dense(4, "relu"), Dense(2), Dropout(0.5)

        def call(self, x: Any, training: Any = None) -> Any:
            return self.last(self.drop(self.hidden(x), training=training))

    model = Own()
    model.compile("sgd", "mse")
    rows, y = draw(6, 3), draw(6, 2)
    model.fit(rows, y, epochs=2, verbose=0)
    w, b, v, c = model.get_weights()
    np.testing.assert_allclose(model.predict(rows), np.maximum(rows @ w + b, 0) @ v + c, rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match="save_weights"):
        model.save("m")


def test_an_inputs_tensor_is_its_input_and_its_output() -> None:
    given = Input((3,), name="given")
    model = Model(given, Dense(2)(given), comm=None)
    first = model.layers[0]
    assert first.input is given and first.output is given and first.get_input_at(0) is given


def test_a_task_takes_a_graph_by_the_names_of_inputs_and_outputs() -> None:
    from dtrain.task import own_model

    a, b = Input((2, 3), name="a"), Input((2,), name="b")
    h = Concatenate()([Flatten()(a), BatchNormalization()(b)])
    model = Model([a, b], [Dense(2, name="u")(h), Dense(1, name="v")(h)], comm=None)
    with dt.Graph().as_default():
        training = dt.placeholder("float32", [])
        x = {"a": dt.placeholder("float32", [None, 6]), "b": dt.placeholder("int32", [None, 2])}
        y = own_model.output(model, x, training)
        for given in (y.trained, y.tested):
            assert [(name, t.shape.as_list()) for name, t in given.items()] == [
                ("u", [None, 2]),
                ("v", [None, 1]),
            ]
        assert len(dt.get_collection(dt.GraphKeys.UPDATE_OPS)) == 2 and len(dt.global_variables()) == 8
        with pytest.raises(UsageError, match="takes a, b, and the data has one array"):
            own_model.output(model, x["a"], training)


# -- losses, metrics and layers of one's own ---------------------------------------------------------------
def test_a_loss_may_be_of_inner_tensors_and_of_layers() -> None:
    class Penal(Layer):
        def call(self, x: Any) -> Any:
            self.add_loss(K.sum(K.square(x)) * 0.5)
            return x

    x = Input((3,))
    h = Dense(2, use_bias=False)(x)
    model = Model(x, Penal()(h), comm=None)
    model.add_loss(K.mean(K.abs(h)))
    model.add_metric(K.sum(h, axis=1), name="sums")
    model.compile("sgd", None)
    rows = draw(5, 3)
    y = rows @ model.get_weights()[0]
    loss, sums = model.evaluate(rows, None, verbose=0)
    assert loss == pytest.approx(0.5 * (y**2).sum() + np.abs(y).mean(), rel=1e-5)
    assert sums == pytest.approx(y.sum(1).mean(), abs=1e-6)
    assert model.train_on_batch(rows, None)[0] == pytest.approx(loss, rel=1e-5)
    closed = Model(x, h, comm=None)
    closed.compile("sgd", lambda a, b: K.mean(K.square(a - b), -1) + K.mean(h, -1) + K.mean(x))
    out = rows @ closed.get_weights()[0]
    right = ((out - y) ** 2).mean() + out.mean() + rows.mean()
    assert closed.evaluate(rows, y, verbose=0) == pytest.approx(right, rel=1e-4)


def test_a_layer_may_close_over_what_others_made() -> None:
    """As the layer of a variational autoencoder that adds a loss of tensors which it is not called on."""
    x = Input((3,))
    h = Dense(2, use_bias=False)(x)

    class Closing(Layer):
        def call(self, inputs: Any) -> Any:
            self.add_loss(K.sum(K.square(inputs - h)) + K.mean(h), inputs=inputs)
            return inputs

    model = Model(x, Closing()(Dense(2, use_bias=False)(h)), comm=None)
    model.compile("sgd", loss=None)
    rows = draw(5, 3)
    w, v = model.get_weights()
    right = ((rows @ w @ v - rows @ w) ** 2).sum() + (rows @ w).mean()
    assert model.evaluate(rows, verbose=0) == pytest.approx(right, rel=1e-5)
    both = Model(x, Lambda(lambda t: t + 2 * h)(Dense(2, use_bias=False)(x)), comm=None)
    (v,) = both.get_weights()  # as in Keras, what a function closes over is not among its inputs
    np.testing.assert_allclose(both.predict(rows), rows @ v + 2 * rows @ w, rtol=1e-4, atol=1e-6)
    w, v = model.get_weights()
    model.fit(rows, batch_size=5, verbose=0)
    assert not np.array_equal(model.get_weights()[0], w)


def test_old_names_of_arguments_and_layers() -> None:
    from dtrain.keras.engine.topology import Layer as Same

    from dtrain.keras.layers.convolutional import Convolution2D
    from dtrain.keras.layers.convolutional import MaxPooling2D as Pooling

    assert Same is Layer and Pooling is MaxPooling2D
    with pytest.warns(UserWarning, match=r"write Conv2D\(4, \(3, 3\)\)"):
        layer = Convolution2D(
            4, 3, 3, border_mode="same", subsample=(2, 2), init="he_normal", W_regularizer="l2"
        )
    assert (layer.kernel_size, layer.strides, layer.padding) == ((3, 3), (2, 2), "same")
    assert Conv2D(4, (3, 3)).strides == (1, 1) and Conv2D(4, 3, 2).strides == (2, 2)
    dense = Dense(output_dim=3, input_dim=2, activation="relu", bias=False)
    assert dense.units == 3 and not dense.use_bias
    with pytest.raises(UsageError, match=r"output_dim and units are one argument"):
        Dense(units=3, output_dim=3)
    model = Sequential([dense], comm=None)
    model.compile("sgd", "mse")
    rows = draw(6, 2)
    assert len(model.fit(rows, draw(6, 3), nb_epoch=2, verbose=0).history["loss"]) == 2
    batches = ((rows, draw(6, 3)) for _ in range(9))
    with pytest.raises(UsageError, match=r"samples_per_epoch=6 counts examples.*steps_per_epoch"):
        model.fit_generator(batches, samples_per_epoch=6, nb_epoch=1)


def test_images_with_their_channels_first() -> None:
    rows = draw(3, 2, 6, 5)
    first = Sequential(
        [
            Conv2D(4, 3, data_format="channels_first", input_shape=(2, 6, 5)),
            MaxPooling2D(2, data_format="channels_first"),
        ],
        comm=None,
    )
    last = Sequential([Conv2D(4, 3, input_shape=(6, 5, 2)), MaxPooling2D(2)], comm=None)
    last.set_weights(first.get_weights())
    np.testing.assert_allclose(
        first.predict(rows),
        last.predict(rows.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        rtol=1e-5,
        atol=1e-6,
    )
    K.set_image_dim_ordering("th")
    try:
        assert K.image_data_format() == "channels_first" and Conv2D(1, 1).data_format == "channels_first"
    finally:
        K.set_image_dim_ordering("tf")


# -- sequences -------------------------------------------------------------------------------------------
def test_sequences_have_the_length_of_their_batch() -> None:
    x = Input((None, 3))
    model = Model(x, Dense(1)(LSTM(4)(x)), comm=None)
    assert model.input_shape == (None, None, 3)
    fixed = Sequential([LSTM(4, input_shape=(5, 3)), Dense(1)], comm=None)
    fixed.set_weights(model.get_weights())
    rows = draw(2, 5, 3)
    np.testing.assert_allclose(model.predict(rows), fixed.predict(rows), rtol=1e-5)
    assert model.predict(draw(2, 7, 3)).shape == (2, 1)
    model.compile("sgd", "mse")
    model.train_on_batch(rows, draw(2, 1))


def test_recurrent_dropout_is_one_mask_for_all_steps() -> None:
    """With the identity for all products, what a state loses it loses in each step."""
    layer = Sequential(
        [
            dt.keras.layers.SimpleRNN(
                40,
                "linear",
                use_bias=False,
                recurrent_dropout=0.5,
                return_sequences=True,
                input_shape=(3, 40),
            )
        ],
        comm=None,
    )
    layer.set_weights([np.eye(40), np.eye(40)])
    of = K.function([layer.input, K.learning_phase()], [layer.output])
    (y,) = of([np.ones((2, 3, 40), np.float32), 1])
    assert set(np.unique(y[:, 0])) == {1.0} and set(np.unique(y[:, 1])) == {1.0, 3.0}
    np.testing.assert_array_equal(y[:, 2], np.where(y[:, 1] == 1, 1, 7))


def test_a_batch_goes_on_where_the_last_one_ended(on_threads: Callable[..., list[Any]]) -> None:
    """Halves of sequences in turn are the whole sequences, on any number of ranks."""
    rows = draw(4, 6, 3)

    def body(comm: Communicator) -> Any:
        options = {"stateful": True, "batch_input_shape": (4, 3, 3)}
        model = Sequential([GRU(5, return_sequences=True, **options), Dense(1)], comm=comm)
        weights = [draw(*w.shape) for w in model.get_weights()]
        model.set_weights(weights)
        parts = [model.predict(half) for half in (rows[:, :3], rows[:, 3:])]
        model.reset_states()
        again = model.predict(rows[:, :3])
        whole = Sequential([GRU(5, return_sequences=True, input_shape=(6, 3)), Dense(1)], comm=comm)
        whole.set_weights(weights)
        model.compile("sgd", "mse")
        model.reset_states()
        losses = [model.train_on_batch(rows[:, :3], draw(4, 3, 1)) for _ in range(2)]
        twice = np.concatenate([rows[:, :3]] * 2), np.concatenate([draw(4, 3, 1)] * 2)
        model.fit(*twice, batch_size=4, shuffle=False, verbose=0, validation_data=twice)
        return whole.predict(rows), np.concatenate(parts, 1), again, losses

    for whole, parts, again, losses in (*on_threads(1, body), *on_threads(2, body), *on_threads(3, body)):
        np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(again, parts[:, :3], rtol=1e-6)
        assert losses[0] != losses[1]


# -- files -----------------------------------------------------------------------------------------------
def test_a_graph_comes_back_from_a_file(tmp_path: Path) -> None:
    x = Input((6,))
    inner = Sequential([Dense(4, "relu", input_shape=(3,)), Dropout(0.0)], name="inner")
    y = TimeDistributed(inner)(Reshape((2, 3))(x))
    y = Add()([LSTM(4, name="rnn")(y), Dense(4)(x)])
    model = Model(x, [Activation("tanh")(y), Dense(1)(y)])
    model.compile("adam", ["mse", "mae"], loss_weights=[1, 0.5])
    rows = draw(5, 6)
    model.fit(rows, [draw(5, 4), draw(5, 1)], verbose=0)
    model.save(tmp_path / "m")
    dt.reset_default_graph()
    again = load_model(tmp_path / "m")
    for a, b in zip(again.predict(rows), model.predict(rows), strict=True):
        np.testing.assert_array_equal(a, b)
    labels = [draw(5, 4), draw(5, 1)]
    assert again.train_on_batch(rows, labels) == pytest.approx(model.train_on_batch(rows, labels), rel=1e-6)
    for a, b in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    same = model_from_json(model.to_json())
    assert [layer.name for layer in same.layers] == [layer.name for layer in model.layers]
    with pytest.raises(UsageError, match="the text is JSON"):
        model.to_yaml(default_flow_style=False)
    model.save_weights(tmp_path / "w")
    other = Sequential([LSTM(4, name="rnn", input_shape=(2, 4)), Dense(9, name="more")])
    with pytest.raises(CheckpointError):
        other.load_weights(tmp_path / "w")
    other.load_weights(tmp_path / "w", by_name=True)
    np.testing.assert_array_equal(other.get_weights()[0], model.get_layer("rnn").get_weights()[0])


def test_a_function_is_saved_by_its_name(tmp_path: Path) -> None:
    def double(t: Any) -> Any:
        return 2 * t

    x = Input((3,))
    model = Model(x, Lambda(double)(x), comm=None)
    model.save(tmp_path / "m")
    with pytest.raises(UsageError, match="'double' is no function"):
        load_model(tmp_path / "m")
    again = load_model(tmp_path / "m", {"double": double})
    np.testing.assert_array_equal(again.predict(draw(2, 3)), 2 * draw(2, 3))


def test_the_table_of_a_graph(capsys: pytest.CaptureFixture[str]) -> None:
    a, b = Input((3,), name="a"), Input((3,), name="b")
    Model([a, b], Dense(2)(add([a, b])), comm=None).summary()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["Layer", "(type)", "Output", "Shape", "Param", "#", "Connected", "to"]
    assert [line.split()[-1] for line in lines if line.startswith(("add", "dense"))] == ["a", "add"]
    assert any(line.split() == ["b"] for line in lines)


# -- the backend -----------------------------------------------------------------------------------------
def test_variables_values_and_functions() -> None:
    v = K.variable(np.arange(6).reshape(2, 3))
    assert K.int_shape(v) == (2, 3) and K.ndim(v) == 2 and K.dtype(v) == "float32"
    np.testing.assert_array_equal(K.eval(K.dot(v, K.transpose(v))), [[5, 14], [14, 50]])
    K.set_value(v, np.ones((2, 3)))
    assert K.get_value(v).sum() == 6
    x = K.placeholder((None, 3))
    f = K.function([x], [K.sum(x * v, axis=1), K.gradients(K.sum(K.square(x)), x)[0]], updates=[(v, v + 1.0)])
    y, slope = f([np.ones((2, 3))])
    np.testing.assert_array_equal(y, [3, 3])
    np.testing.assert_array_equal(slope, 2 * np.ones((2, 3)))
    np.testing.assert_array_equal(K.get_value(v), 2 * np.ones((2, 3)))
    np.testing.assert_array_equal(K.eval(K.switch(K.greater(v, 1.0), v, -v)), K.get_value(v))
    a, b = draw(2, 3, 4), draw(2, 4, 5)
    np.testing.assert_allclose(K.eval(K.batch_dot(K.constant(a), K.constant(b))), a @ b, rtol=1e-5)
    np.testing.assert_array_equal(K.eval(K.repeat_elements(K.constant(a), 2, 1)), np.repeat(a, 2, 1))
    np.testing.assert_array_equal(K.eval(K.clip(K.constant(a), -0.5, 0.5)), np.clip(a, -0.5, 0.5))


def test_layers_in_a_program_of_tensorflow() -> None:
    """A placeholder of the program's own, its session, and the learning phase that it feeds."""
    with dt.Session(comm=None) as session:
        K.set_session(session)
        x = dt.placeholder("float32", [None, 30])
        y = Dense(20, use_bias=False)(Dropout(0.5)(x))
        session.run(dt.global_variables_initializer())
        rows = np.ones((4, 30), np.float32)
        tested = session.run(y, {x: rows})
        np.testing.assert_array_equal(tested, session.run(y, {x: rows, K.learning_phase(): 0}))
        assert not np.allclose(tested, session.run(y, {x: rows, K.learning_phase(): 1}))
        assert K.get_session() is session


# -- what programs prepare -------------------------------------------------------------------------------
def test_sequences_and_texts() -> None:
    np.testing.assert_array_equal(pad_sequences([[1, 2, 3], [4]], 2), [[2, 3], [0, 4]])
    np.testing.assert_array_equal(
        pad_sequences([[1, 2, 3], [4]], 2, padding="post", truncating="post", value=9), [[1, 2], [4, 9]]
    )
    words = Tokenizer(num_words=4)
    words.fit_on_texts(["The cat, the dog.", "A dog!"])
    assert words.word_index == {"the": 1, "dog": 2, "cat": 3, "a": 4}
    assert words.texts_to_sequences(["a dog the cat"]) == [[2, 1, 3]]
    np.testing.assert_array_equal(words.texts_to_matrix(["dog dog"], "count"), [[0, 0, 2, 0]])


def test_images_are_drawn_alike_and_moved() -> None:
    x = np.arange(2 * 6 * 6, dtype=np.float32).reshape(2, 6, 6, 1)
    plain = ImageDataGenerator(rescale=0.5).flow(x, [0, 1], batch_size=2, shuffle=False)
    np.testing.assert_array_equal(next(plain)[0], x / 2)
    moved = ImageDataGenerator(width_shift_range=1.0, fill_mode="constant", cval=-1.0)
    matrix = np.eye(2)
    np.testing.assert_array_equal(moved._resampled(x[0], matrix, np.array([0.0, 1.0]))[:, :5], x[0][:, 1:])
    assert (moved._resampled(x[0], matrix, np.array([0.0, 1.0]))[:, 5] == -1).all()
    options = {"rotation_range": 30, "zoom_range": 0.2, "shear_range": 5, "horizontal_flip": True}
    a, b = (ImageDataGenerator(**options).flow(x, [0, 1], 1, seed=3) for _ in range(2))
    for _ in range(5):
        for one, other in zip(next(a), next(b), strict=True):
            np.testing.assert_array_equal(one, other)
    norm = ImageDataGenerator(featurewise_center=True, featurewise_std_normalization=True)
    with pytest.raises(UsageError, match=r"call its fit\(x\) first"):
        next(norm.flow(x))
    norm.fit(x)
    found = next(norm.flow(x, shuffle=False))
    assert abs(found.mean()) < 1e-5 and abs(found.std() - 1) < 1e-4


# -- mistakes --------------------------------------------------------------------------------------------
def two() -> Model:
    a, b = Input((2,), name="a"), Input((2,), name="b")
    model = Model([a, b], [Dense(1, name="u")(a), Dense(1, name="v")(b)], comm=None)
    model.compile("sgd", "mse")
    return model


X, Y = [draw(4, 2)] * 2, [draw(4, 1)] * 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Model(Input((2,)), Dense(1)(Input((3,)))), ["Graph disconnected", "input_2"]),
        (lambda: Model(Input((2,)), None), ["give inputs and outputs"]),
        (lambda: two().fit(X[0], Y), ["x is a ndarray", "a, b"]),
        (lambda: two().fit({"a": X[0], "c": X[0]}, Y), ["x has a, c", "a, b"]),
        (lambda: two().fit(X, Y[:1]), ["y is a list of 1", "u, v"]),
        (lambda: two().fit([X[0], X[0][:3]], Y), ["x_0 has 4 examples and x_1 has 3"]),
        (lambda: two().fit(X, Y, class_weight={0: 2.0}), ["class_weight", "a list of dicts", "u, v"]),
        (lambda: two().compile("sgd", {"w": "mse"}), ["compile: loss names 'w'", "u, v"]),
        (lambda: LSTM(3, stateful=True)(Input((2, 3))), ["stateful=True", "batch_input_shape=(batch, "]),
        (lambda: Input((2,), sparse=True), ["sparse=True is not supported"]),
        (lambda: Model(Input((2,)), Input((2,)) * 2.0), ["Graph disconnected"]),
    ],
)
def test_mistakes(call: Callable[[], Any], words: list[str]) -> None:
    with pytest.raises((UsageError, GraphError)) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_a_model_of_several_gpus_is_the_model() -> None:
    model = Sequential([Dense(2, input_shape=(3,))], comm=None)
    with pytest.warns(UserWarning, match="1 rank has each batch: start the program by `mpirun -n 4`"):
        assert dt.keras.utils.multi_gpu_model(model, gpus=4) is model
