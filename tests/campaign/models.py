"""Cases in Keras's words, and as models of `dtrain train --model FILE.py:function`."""

from __future__ import annotations

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


def head(draw: Draw, s: Random, lead: Shape) -> tuple[str, str, str, int, list[str], bool]:
    """The last layer, the loss, the kind of labels, their width, metrics that fit, and whether classes have weights.

    lead: axes of the output between the batch and the last.
    """
    k = draw.own.one((2, 3, 5, 10))
    kind = s.one(("sparse", "categorical", "binary", "regression"))
    if kind == "sparse":
        metrics = ["'accuracy'", "metrics.SparseTopKCategoricalAccuracy(2)", "'sparse_categorical_accuracy'"]
        if s.chance(0.5):
            loss, last = "'sparse_categorical_crossentropy'", f"layers.Dense({k}, 'softmax')"
        else:
            loss, last = "losses.SparseCategoricalCrossentropy(from_logits=True)", f"layers.Dense({k})"
        return last, loss, "classes", k, metrics, not lead
    if kind == "categorical":
        metrics = [
            "'accuracy'",
            "metrics.TopKCategoricalAccuracy(2)",
            "'mse'",
            "metrics.AUC(20)",
            "metrics.Recall()",
        ]
        smooth = s.one(("", "label_smoothing=0.1"))
        if s.chance(0.5):
            last = f"layers.Dense({k}, 'softmax')"
            return last, f"losses.CategoricalCrossentropy({smooth})", "rows", k, metrics, not lead
        loss = f"losses.CategoricalCrossentropy(from_logits=True{', ' * bool(smooth)}{smooth})"
        return f"layers.Dense({k})", loss, "rows", k, metrics[:2], not lead
    if kind == "binary":
        k = s.one((1, 1, 3))
        metrics = ["'accuracy'", "metrics.AUC(30)", "metrics.Precision()", "metrics.Recall(0.4)", "'mae'"]
        if s.chance(0.6):
            return (
                f"layers.Dense({k}, 'sigmoid')",
                "'binary_crossentropy'",
                "bits",
                k,
                metrics,
                not lead and k == 1,
            )
        loss = "losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2)"
        return (
            f"layers.Dense({k})",
            loss,
            "bits",
            k,
            ["metrics.BinaryAccuracy(threshold=0.1)"],
            not lead and k == 1,
        )
    k = s.one((1, draw.own.one((2, 3, 8))))
    if s.chance(0.2):
        k = max(k, 2)
        last = f"layers.Dense({k}, 'softmax')"
        return last, "'kld'", "shares", k, ["'mse'"], False
    loss = s.one(("'mse'", "'mae'", "losses.Huber(0.5)", "lambda y, p: dt.reduce_mean((y - p) ** 4, -1)"))
    own = "lambda y, p: dt.reduce_mean(dt.abs(y - p))"  # one number for a batch
    return f"layers.Dense({k})", loss, "numbers", k, ["'mse'", "'mae'", own], False


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
        body.append("layers.Flatten()")
        out = (1,)
    last, loss, kind, k, fitting, classes = head(draw, s, out[:-1])
    texts = [*body, last]
    texts[0] = f"{texts[0][:-1]}{', ' * (texts[0][-2:-1] != '(')}input_shape={shape})"
    lines = [
        f"r = np.random.default_rng({draw.number})",
        "dt.reset_default_graph()",
        f"dt.set_random_seed({draw.number})",
        f"x = {inputs(draw, n, shape)}",
        f"y = {labels(kind, n, k, out[:-1])}",
        "model = Sequential([",
        *(f"    {text}," for text in texts),
        "], comm=comm)",
    ]
    if s.chance(0.1) and body:
        lines.append("model.layers[0].trainable = False")
    metrics, weighted = s.some(fitting, 3), s.some(fitting[:3], 1)
    lines += [
        f"model.compile({optimizer(s)}, {loss}, [{', '.join(metrics)}], weighted_metrics=[{', '.join(weighted)}])",
        "model.set_weights([drawn(r, w.shape) for w in model.get_weights()])",
    ]
    options = ["verbose=0"]
    if s.chance(0.35):
        lines.append(f"weights = r.choice([0, 0.5, 1, 2.5], {n}) + 0.1")
        options.append("sample_weight=weights")
    if classes and s.chance(0.3):
        options.append(f"class_weight={{{', '.join(f'{c}: {0.5 + c}' for c in range(max(k, 2)))}}}")
    fit = [*options, f"batch_size={draw.batch}", f"epochs={1 if n // draw.batch > 6 else own.upto(1, 3)}"]
    if own.chance(0.4):
        fit.append("shuffle=False")
    if s.chance(0.25):
        m = own.upto(1, 7)
        lines.append(f"held = {inputs(draw, m, shape)}, {labels(kind, m, k, out[:-1])}")
        fit.append("validation_data=held")
    elif n > 4 and own.chance(0.2):
        fit.append(f"validation_split={own.one((0.2, 0.4))}")
    chosen = s.some(CALLBACKS, 2) if s.chance(0.2) else []
    if chosen:
        fit.append(f"callbacks=[{', '.join(chosen)}]")
    lines += ["found = {}", f"found['fit'] = dict(model.fit(x, y, {', '.join(fit)}).history)"]
    if own.chance(0.15):
        lines.append(f"found['fit again'] = dict(model.fit(x, y, {', '.join(fit)}).history)")
    if own.chance(0.15):
        rows = own.upto(1, n)
        lines.append(f"found['batch'] = model.train_on_batch(x[:{rows}], y[:{rows}])")
    several = f", batch_size={own.one((1, 2, 3, 7))}" if own.chance(0.4) else ""
    weigh = ", sample_weight=weights" if "sample_weight=weights" in options else ""
    lines += [
        f"found['evaluate'] = model.evaluate(x, y, verbose=0{several}{weigh})",
        f"found['predict'] = model.predict(x{several})",
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
        source = ["def model():", f"    return Sequential([{', '.join(texts)}])"]
    else:
        source = ["def model(x, training):", f"    x = dt.reshape(x, (-1, *{shape}))"]
        source += [f"    x = {text}(x, training)" for text in texts] + ["    return x"]
    options = {
        "epochs": 1 if n // draw.batch > 6 else own.upto(1, 2),
        "batch_size": draw.batch,
        "optimizer": s.one(("adam", "sgd", "momentum")),
        "lr": s.one((0.001, 0.003)),
        "seed": own.upto(0, 99),
        "checkpoint_every": own.one((0, 0, 2)),
    }
    if shape == (28, 28, 1) and "(x" not in source[0]:  # it has to say what it takes
        source[1] = source[1].replace("Sequential([", f"Sequential([layers.InputLayer({shape}), ")
    lines = [
        f"r = np.random.default_rng({draw.number})",
        "comm = comm or dt.comm.SingleCommunicator()",
        "folder = comm.broadcast_text(tempfile.mkdtemp() if comm.rank == 0 else '')",
        "if comm.rank == 0:",
        f"    write_set(folder, r, {n}, {own.upto(1, 12)})",
        "comm.barrier()",
        "config = TrainConfig(",
        "    f'{folder}/model.py:model', folder, run_dir=f'{folder}/run', device='cpu', tensorboard='off',",
        "    kernels=os.environ['DTRAIN_KERNELS'], check_numerics='on' if CHECK else 'off',",
        f"    {', '.join(f'{k}={v!r}' for k, v in options.items())},",
        ")",
        "seen = Seen()",
        "with redirect_stdout(io.StringIO()):",
        "    trainer.train(config, comm, seen)",
        "comm.barrier()",
        "values = load_file(max(glob.glob(f'{folder}/run/checkpoints/*.safetensors')))",
        "comm.barrier()",
        "if comm.rank == 0:",
        "    shutil.rmtree(folder)",
        "return {'steps': seen.steps, 'epochs': seen.epochs, 'state': values}",
    ]
    model = [
        "MODEL = '''\\",
        "import dtrain as dt",
        "from dtrain.keras import activations, layers, regularizers",
        "from dtrain.keras.models import Sequential",
        "",
        *source,
        "'''",
    ]
    return [*TRAIN.splitlines(), *model], lines


#: What a program that trains as `dtrain train` does has besides.
TRAIN = '''
import glob
import gzip
import hashlib
import io
import shutil
from contextlib import redirect_stdout
from safetensors.numpy import load_file
from dtrain.config import TrainConfig
from dtrain.train import trainer
from dtrain.train.observer import Observer


class Seen(Observer):
    """Keeps what a run says of its steps and epochs."""

    def __init__(self):
        self.steps, self.epochs = [], []

    def iteration(self, epoch, iteration, loss, accuracy):
        self.steps.append([loss, accuracy])

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
            data, name = gzip.compress(header + array.astype(np.uint8).tobytes(), 1), f"{stem}-{kind}-ubyte.gz"
            with open(f"{folder}/{name}", "wb") as file:
                file.write(data)
            sums += f"{hashlib.sha256(data).hexdigest()}  {name}\\n"
    for name, text in (("SHA256SUMS", sums), ("model.py", MODEL)):
        with open(f"{folder}/{name}", "w") as file:
            file.write(text)


'''
