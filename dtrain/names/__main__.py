"""python -m dtrain.names [FILE]: TensorFlow 1's names and which of them dtrain has, by the code."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from dtrain.names import late_names
from dtrain.names.finder import ROOM, exists
from dtrain.names.table import NAMES, OWN, PARTIAL, REASONS

INTRODUCTION = """\
# TensorFlow 1's names in dtrain

Made by `python -m dtrain.names docs/tensorflow1.md`; a test compares it with the code. A program of
TensorFlow 1 or Keras is started as it is by `dtrain run program.py`, or by `mpirun -n N dtrain run
program.py`: then every rank runs the whole program and works on its share of each batch. Or its imports are
changed to dtrain's, by the same paths: `import dtrain as tf`, `from dtrain.contrib import layers`,
`from dtrain.examples.tutorials.mnist import input_data`, `from dtrain.keras.layers import Dense`.

Of 449 public programs for MNIST 352 run unchanged, and 78 need a file, another package or a mended line;
tests/campaign/PUBLIC.md has the list, how it was counted, and the reasons of the others.

**On several ranks** a program gets the same numbers as on one, if all ranks do the same:

- `next_batch` gives every rank the same whole batch, marked so that `Session.run` takes this rank's rows of
  it. What is computed from it with NumPy keeps the mark; without it every rank works on all rows, which is
  slower and equally correct.
- Any other array is fed whole, the same on all ranks. It is compared between the ranks at the first run with
  feeds of these shapes, the second, the fourth, the eighth and so on, and a difference is an error. What is
  not noticed: a difference in the runs between, and rows of a `dt.Shard` that other ranks have too.
- Initial values of variables are rank 0's, also those that NumPy drew. NumPy's and Python's global random
  numbers begin the same on all ranks of a job, and otherwise in each job, unless the program seeds NumPy's
  before it imports dtrain. `np.random.default_rng()` has to be given a seed: constants and feeds that differ
  are an error. `tf.random_normal` and its like need no seed for this.
- `dtrain run` lets rank 0 print, and with `--print-all` every rank, as `import dtrain` does: there
  `if tf.comm.world().rank == 0:` prints once. Reading variables and `Saver.save` may stand there, too; any
  other call that one rank makes alone ends the job in a sentence that names it.
- `dtrain run` numbers words the same on all ranks and in every job (PYTHONHASHSEED is 0 unless it is set), so
  that `list(set(text))` has one order; a folder that two ranks make at once is made; a file that all fetch by
  urlretrieve has its name when it is whole. MNIST is answered from where dtrain has it, also at addresses
  that serve it no more.

**tf.keras** computes what Keras 3 does (the tests compare it with what Keras 3.15 on TensorFlow 2.21 gave),
also where the Keras of TensorFlow 1 differs: the default learning rate of Adagrad, Adadelta, Adamax and Nadam
is 0.001, Nadam's `schedule_decay` is 1 (it was 0.004), `hard_sigmoid` is x / 6 + 0.5 (it was 0.2 x + 0.5),
`l1_l2()` is 0 unless its factors are given, and 'accuracy' goes by the shapes of labels and outputs. What
differs on purpose:

- A model whose last layer plainly makes no probabilities is refused by a cross entropy without
  `from_logits=True`, and a label that is no class by a sparse one.
- A callback that monitors a number that there will not be is refused before the first step.
- `sample_weight` and `class_weight` may be given together, and are multiplied; where an example has several
  losses, its weight is that of their mean.
- An optimizer's `decay` still works. The logs of a batch also have its number and size.
- Metrics after a softmax rank classes by what went into it: probabilities that round to the same number are
  no ties.
- A generator without more batches ends the training; Keras 3 continues with epochs of no step. A test of a
  generator's batches continues where the one before ended; Keras 3 loses what it drew ahead there. `fit` may
  weigh the classes of a generator's batches, and its batches may be lists.
- `CSVLogger` writes no empty columns for a validation that there is not.
- `layer.trainable` counts as it was when the model was compiled, as in Keras 2: a discriminator that is
  compiled, and then frozen in another model, still learns by itself. Keras 3 looks when it first trains.
- The loss of one of several outputs is reported as a mean over the examples, as in Keras 2; Keras 3 counts
  each batch equally. Sequences whose mask reaches the loss have no other metrics.
- Keras 1's names of arguments are taken (`nb_epoch`, `border_mode`, `W_regularizer`, ...), and
  `Conv2D(32, 3, 3)` is a kernel of (3, 3), as in Keras 2, with a warning; in Keras 3 the last 3 are strides.
- `K.batch_dot` of more than three axes multiplies matrices, as in Keras up to 2.2.
- LSTM and GRU have Keras 3's defaults, where Keras 2 had `recurrent_activation='hard_sigmoid'` and
  `reset_after=False`. Their steps are unrolled. `implementation` and `unroll` change nothing.
- A model with a `Lambda` is saved with the name of its function, and `load_model` is given the function in
  `custom_objects`: nothing of a file is executed.
- `add_metric`'s metrics are means. A `Model` lives in the graph of its inputs, so that layers may be shared,
  and a `Sequential` in one of its own until it is called on a tensor of another: then its weights move there.
- `activations.softmax` of a row with a NaN is NaN, `utils.normalize` has an axis 0, and `kl_divergence` takes
  labels of [n] for outputs of [n, 1] as the other losses do.

A name that is not supported raises `AttributeError` with a sentence. "Supported" means that TensorFlow 1's
arguments do what they do there, or are refused in a sentence.
"""


def has(name: str) -> bool:
    """Whether dtrain has what TensorFlow calls name, such as 'tf.nn.relu'."""
    found: object = importlib.import_module("dtrain")
    module = "tf"
    for word in name.split(".")[1:]:
        # a folder of dtrain's own, such as passes, is none of its public names
        public = [*getattr(found, "__all__", [word]), *late_names(module)]
        if not hasattr(found, word) or (word not in public and not exists(f"{ROOM}{module[2:]}.{word}")):
            return False
        found = getattr(found, word)
        module += f".{word}"
    return True


def status(name: str) -> str:
    """The table's entry for a name."""
    if not has(name):
        return f"no: {REASONS[name]}" if name in REASONS else "no"
    return f"in part: {PARTIAL[name]}" if name in PARTIAL else "yes"


def table() -> str:
    """docs/tensorflow1.md."""
    counts = {"yes": 0, "in part": 0, "no": 0}
    parts = []
    for module, text in NAMES.items():
        if module != "tf" and not has(module):
            parts.append(f"## {module}\n\nNone of it: {REASONS.get(module, 'it is not supported')}.\n")
            counts["no"] += len(text.split())
            continue
        lines = [f"## {module}\n", "| name | supported |", "|---|---|"]
        for name in sorted(text.split(), key=str.lower):
            entry = status(f"{module}.{name}")
            counts[entry.partition(":")[0]] += 1
            lines.append(f"| `{module}.{name}` | {entry} |")
        parts.append("\n".join(lines) + "\n")
    summary = f"Of {sum(counts.values())} names {counts['yes']} are supported, {counts['in part']} in part.\n"
    own = "".join(f"| `dt.{name}` | {what} |\n" for name, what in OWN.items())
    parts.append(f"## Names of its own\n\n| name | what it is |\n|---|---|\n{own}")
    return "\n".join((INTRODUCTION, summary, *parts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m dtrain.names", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="what to write; by default it is printed")
    if (to := parser.parse_args().file) is not None:
        to.write_text(table())
    else:
        print(table(), end="")
