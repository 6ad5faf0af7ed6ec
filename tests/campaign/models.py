"""Cases in Keras's words, and as models of `dtrain train --model FILE.py:function`."""

from __future__ import annotations

from typing import NamedTuple

from draw import Draw, Random, Shape, input_shape, inputs, labels, stack

OPTIMIZERS = (
    "optimizers.SGD(0.05{})",
    "optimizers.SGD(0.02, momentum=0.9{})",
    "optimizers.SGD(0.02, momentum=0.8, nesterov=True{})",
    "optimizers.RMSprop(0.002{})",
    "optimizers.RMSprop(0.002, momentum=0.5{})",
    "optimizers.RMSprop(0.002, centered=True{})",
    "optimizers.Adagrad(0.02{})",
    "optimizers.Adadelta(0.5{})",
    "optimizers.Adam(0.002{})",
    "optimizers.Adam(0.002, beta_1=0.8, beta_2=0.99, epsilon=1e-4{})",
    "optimizers.Adamax(0.002{})",
    "optimizers.Nadam(0.002{})",
)
CLIPS = ("clipnorm=0.1", "clipvalue=0.02", "global_clipnorm=0.2", "decay=0.1")
GRAPH_OPTIMIZERS = ("dt.train.AdamOptimizer(0.002)", "dt.train.MomentumOptimizer(0.02, 0.9)")


def optimizer(s: Random) -> str:
    if s.chance(0.1):
        return s.one(GRAPH_OPTIMIZERS)
    options = s.some(CLIPS, 2) if s.chance(0.4) else []
    return s.one(OPTIMIZERS).format("".join(f", {o}" for o in options))


class Head(NamedTuple):
    """The end of a model: its last layer, the loss, what labels it takes (draw.labels) and how many numbers
    each has, metrics that fit, and whether class_weight does."""

    last: str
    loss: str
    labels: str
    width: int
    metrics: list[str]
    classes: bool


def head(draw: Draw, s: Random, lead: Shape) -> Head:
    """lead: axes of the output between the batch and the last."""
    kind, k = s.one(("sparse", "categorical", "binary", "regression")), draw.own.one((2, 3, 5, 10))
    logits = s.chance(0.5)
    if kind == "sparse":
        metrics = ["'accuracy'", "metrics.SparseTopKCategoricalAccuracy(2)", "'sparse_categorical_accuracy'"]
        if logits:
            loss = "losses.SparseCategoricalCrossentropy(from_logits=True)"
            return Head(f"layers.Dense({k})", loss, "classes", k, metrics, not lead)
        loss = "'sparse_categorical_crossentropy'"
        return Head(f"layers.Dense({k}, 'softmax')", loss, "classes", k, metrics, not lead)
    if kind == "categorical":
        metrics = ["'accuracy'", "metrics.TopKCategoricalAccuracy(2)", "'mse'", "metrics.AUC(20)"]
        loss = f"losses.CategoricalCrossentropy(from_logits={logits}, label_smoothing={s.one((0, 0.1))})"
        if logits:
            return Head(f"layers.Dense({k})", loss, "rows", k, metrics[:3], not lead)
        return Head(
            f"layers.Dense({k}, 'softmax')", loss, "rows", k, [*metrics, "metrics.Recall()"], not lead
        )
    if kind == "binary":
        k = s.one((1, 1, 3))
        classes = not lead and k == 1
        if logits:
            loss = "losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2)"
            metrics = ["metrics.BinaryAccuracy(threshold=0.1)", "'mse'"]
            return Head(f"layers.Dense({k})", loss, "bits", k, metrics, classes)
        metrics = ["'accuracy'", "metrics.AUC(30)", "metrics.Precision()", "metrics.Recall(0.4)", "'mae'"]
        return Head(f"layers.Dense({k}, 'sigmoid')", "'binary_crossentropy'", "bits", k, metrics, classes)
    if s.chance(0.2):
        return Head(f"layers.Dense({k}, 'softmax')", "'kld'", "shares", k, ["'mse'"], False)
    k = s.one((1, draw.own.one((2, 3, 8))))
    loss = s.one(
        ("'mse'", "'mae'", "losses.Huber(0.5)", "lambda y, p: dt.reduce_mean(dt.sqrt(1 + (y - p) ** 2), -1)")
    )
    own = "lambda y, p: dt.reduce_mean(dt.abs(y - p))"  # one number for a batch
    return Head(f"layers.Dense({k})", loss, "numbers", k, ["'mse'", "'mae'", own], False)


CALLBACKS = (
    "callbacks.LearningRateScheduler(lambda epoch: 0.01 / (1 + epoch))",
    "callbacks.ReduceLROnPlateau(monitor='loss', factor=0.5, patience=0, min_delta=10.0)",
    "callbacks.EarlyStopping(monitor='loss', patience=1, min_delta=-0.5, restore_best_weights=True)",
    "callbacks.LambdaCallback(on_batch_end=lambda batch, logs: None)",
)


def keras(draw: Draw) -> tuple[list[str], list[str]]:
    """A case with compile, fit, evaluate and predict: what stands before it, and its lines."""
    s, own, n = draw.structure, draw.own, draw.examples
    shape = input_shape(draw)
    body, out = stack(draw, shape)
    if len(out) > 1 and not (len(out) == 2 and s.chance(0.3)):
        body, out = [*body, "layers.Flatten()"], (1,)
    end = head(draw, s, out[:-1])
    fitting = [m for m in end.metrics if len(out) == 1 or "TopK" not in m]  # of rows of classes
    texts = [*body, end.last]
    texts[0] = f"{texts[0][:-1]}{'' if texts[0].endswith('()') else ', '}input_shape={shape})"
    measures = f"[{', '.join(s.some(fitting, 3))}], weighted_metrics=[{', '.join(s.some(fitting[:2], 1))}]"

    def data(count: int) -> tuple[str, str]:
        return inputs(draw, count, shape), labels(end.labels, count, end.width, out[:-1])

    x, y = data(n)
    lines = [
        f"r = np.random.default_rng({draw.number})",
        "dt.reset_default_graph()",
        f"dt.set_random_seed({draw.number})",
        f"x = {x}",
        f"y = {y}",
        "model = Sequential([",
        *(f"    {text}," for text in texts),
        "], comm=comm)",
        *["model.layers[0].trainable = False"] * (s.chance(0.1) and bool(body)),
        f"model.compile({optimizer(s)}, {end.loss}, {measures})",
        "model.set_weights([drawn(r, w.shape) for w in model.get_weights()])",
    ]
    plain = not any("lambda" in line or "dt.train" in line for line in lines)
    weights = []
    if s.chance(0.35):
        lines.append(f"weights = r.choice([0, 0.5, 1, 2.5], {n})")
        weights.append("sample_weight=weights")
    options = ["verbose=0", *weights]
    if end.classes and s.chance(0.3):
        table = ", ".join(f"{c}: {0.5 + c}" for c in range(max(end.width, 2)))
        options.append(f"class_weight={{{table}}}")
    options += [f"batch_size={draw.batch}", f"epochs={1 if n // draw.batch > 6 else own.upto(1, 3)}"]
    options += ["shuffle=False"] * own.chance(0.4)
    if s.chance(0.25):
        lines.append(f"held = {', '.join(data(own.upto(1, 7)))}")
        options.append("validation_data=held")
    elif n > 4 and own.chance(0.2):
        options.append(f"validation_split={own.one((0.2, 0.4))}")
    if s.chance(0.2):
        options.append(f"callbacks=[{', '.join(s.some(CALLBACKS, 2))}]")
    fit = f"dict(model.fit(x, y, {', '.join(options)}).history)"
    lines += ["found = {}", f"found['fit'] = {fit}"]
    if plain and s.chance(0.15):
        lines += [
            "folder = comm.broadcast_text(tempfile.mkdtemp()) if comm else tempfile.mkdtemp()",
            "model.save(f'{folder}/model.safetensors')",
            "model = load_model(f'{folder}/model.safetensors', comm=comm)",
        ]
        lines.append(f"found['fit again'] = {fit}")
    elif own.chance(0.15):
        lines.append(f"found['fit again'] = {fit}")
    if own.chance(0.15):
        rows = own.upto(1, n)
        lines.append(f"found['batch'] = model.train_on_batch(x[:{rows}], y[:{rows}])")
    several = [f"batch_size={own.one((1, 2, 3, 7))}"] * own.chance(0.4)
    lines += [
        f"found['evaluate'] = model.evaluate(x, y, {', '.join(['verbose=0', *several, *weights])})",
        f"found['predict'] = model.predict({', '.join(['x', *several])})",
        "found['weights'] = model.get_weights()",
        "if model.compiled.variables:",
        "    found['slots'] = model.session.run(model.compiled.variables)",
        "return found",
    ]
    return [], lines


def train(draw: Draw) -> tuple[list[str], list[str]]:
    """A case that trains a file's model as `dtrain train` does: what stands before it, and its lines."""
    s, own = draw.structure, draw.own
    n, shape = max(draw.examples, 5), (28, 28, 1) if s.chance(0.3) else (784,)
    body, out = stack(draw, shape, least=1)
    texts = [*body, *["layers.Flatten()"] * (len(out) > 1), "layers.Dense(10)"]
    if s.chance(0.5):
        first = f"layers.Activation(moved{f', input_shape={shape}' if len(shape) > 1 else ''})"
        source = ["def model():", f"    return Sequential([{', '.join([first, *texts])}])"]
    else:
        source = ["def model(x, training):", f"    x = dt.reshape(moved(x), (-1, *{shape}))"]
        source += [f"    x = {text}(x, training)" for text in texts] + ["    return x"]
    options = {
        "epochs": 1 if n // draw.batch > 6 else own.upto(1, 2),
        "batch_size": draw.batch,
        "optimizer": s.one(("adam", "sgd", "momentum")),
        "lr": s.one((0.001, 0.003)),
        "seed": own.upto(0, 99),
        "checkpoint_every": own.one((0, 0, 2)),
    }
    again = []
    if own.chance(0.25):  # gone on with
        again = [
            "    config = replace(config, epochs=config.epochs + 1, resume=config.run_dir)",
            "    trainer.train(config, comm, seen)",
        ]
    lines = [
        f"r = np.random.default_rng({draw.number})",
        "comm = comm or dt.comm.SingleCommunicator()",
        "folder = comm.broadcast_text(tempfile.mkdtemp() if comm.rank == 0 else '')",
        "if comm.rank == 0:",
        f"    write_set(folder, r, {n}, {own.upto(1, 12)})",
        "comm.barrier()",
        "config = TrainConfig(",
        "    model=f'{folder}/model.py:model', dataset=folder, run_dir=f'{folder}/run', device='cpu',",
        "    tensorboard='off',",
        "    kernels=os.environ['DTRAIN_KERNELS'], check_numerics=CHECK,",
        f"    {', '.join(f'{k}={v!r}' for k, v in options.items())},",
        ")",
        "seen = Seen()",
        "with redirect_stdout(io.StringIO()):",
        "    trainer.train(config, comm, seen)",
        *again,
        "comm.barrier()",
        "values = load_file(max(glob.glob(f'{folder}/run/checkpoints/*.safetensors')))",
        "comm.barrier()",
        "if comm.rank == 0:",
        "    shutil.rmtree(folder)",
        "return {'steps': seen.steps, 'epochs': seen.epochs, 'state': values}",
    ]
    model = [*MODEL.splitlines(), *source, "'''"]
    return [*TRAIN.splitlines(), *model], lines


#: What a program that trains as `dtrain train` does has besides.
TRAIN = '''
import glob
import gzip
import hashlib
import io
import shutil
from contextlib import redirect_stdout
from dataclasses import replace

from safetensors.numpy import load_file

from dtrain.config import TrainConfig
from dtrain.task import trainer
from dtrain.train.observer import Observer


class Seen(Observer):
    """Keeps what a run says of its steps and epochs."""

    def __init__(self):
        self.steps, self.epochs = [], []

    def iteration(self, epoch, iteration, loss, sums, examples):
        self.steps.append([loss, sums[0] / examples])

    def epoch(self, **facts):
        self.epochs.append([facts[k] for k in ("loss", "accuracy", "test_loss", "test_accuracy")])


def write_set(folder, r, train, test):
    """A set of noise in MNIST's format, and the file with the model."""
    sums = ""
    for stem, count in (("train", train), ("t10k", test)):
        for kind, array in (
            ("images-idx3", r.integers(0, 256, (count, 28, 28))),
            ("labels-idx1", r.integers(0, 10, count)),
        ):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            data = gzip.compress(header + array.astype(np.uint8).tobytes(), 1)
            name = f"{stem}-{kind}-ubyte.gz"
            with open(f"{folder}/{name}", "wb") as file:
                file.write(data)
            sums += f"{hashlib.sha256(data).hexdigest()}  {name}\\n"
    model = MODEL.replace("NUDGE = 0", f"NUDGE = {NUDGE}")
    for name, text in (("SHA256SUMS", sums), ("model.py", model)):
        with open(f"{folder}/{name}", "w") as file:
            file.write(text)


'''

#: How its model's file begins.
MODEL = """\
MODEL = '''
import numpy as np

import dtrain as dt
from dtrain.keras import activations, layers, regularizers
from dtrain.keras.models import Sequential

NUDGE = 0


def moved(x):
    towards = np.random.default_rng(NUDGE).choice([-1, 0, 1], x.shape.as_list()[1:]) if NUDGE else 0
    return x * np.asarray(1 + towards * 2.0**-23, np.float32)


"""
