"""Imports by TensorFlow's and Keras's paths, and `dtrain run`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """\
import sys
import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as v1
from tensorflow.examples.tutorials.mnist import input_data
from tensorflow.contrib.layers import l2_regularizer
from keras.layers import Dense

import dtrain
import dtrain.tf1.contrib.layers as layers

assert tf is dtrain and v1 is dtrain, (tf, v1)
assert tf.contrib.layers is layers and layers.l2_regularizer is l2_regularizer
assert layers.__spec__.name == "dtrain.tf1.contrib.layers"
assert np.zeros(2, np.int).dtype == int and np.float is float and np.bool(1)
assert Dense is dtrain.keras.layers.Dense and __name__ == "__main__"
try:
    import tensorflow.contrib.eager
except ImportError as error:
    assert "dtrain has no tf.contrib.eager" in str(error), error
try:
    import tensorflow.nonsense
except ImportError as error:
    assert "No module named 'tensorflow.nonsense'" in str(error), error
print(sys.argv[1:], tf.Session().run(tf.constant(3) + 4), "is", 7)
sys.exit(5)
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dtrain", "run", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_program_runs_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PROGRAM)
    done = run(str(tmp_path / "mine.py"), "--epochs", "3")
    assert (done.returncode, done.stderr) == (5, "") and done.stdout == "['--epochs', '3'] 7 is 7\n"


def test_a_program_writes_summaries(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    text = "import tensorflow as tf\ntf.summary.scalar('loss', tf.constant(1.0))\nwith tf.Session() as s:\n"
    text += "    w = tf.summary.FileWriter('logs', s.graph)\n"
    text += "    w.add_summary(s.run(tf.summary.merge_all()), 1)\n    w.close()\n"
    (tmp_path / "mine.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "dtrain", "run", "mine.py"],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    (file,) = (tmp_path / "logs").iterdir()
    assert b"loss" in file.read_bytes()


PATHS = """\
import tensorflow as tf
import tensorflow.contrib.slim as slim
import tensorflow.python.training.moving_averages as averages
from six.moves import urllib, xrange
from tensorflow.contrib.layers.python.layers import batch_norm
from tensorflow.contrib.tensorboard.plugins import projector
from tensorflow.examples.tutorials.mnist import mnist
from tensorflow.python.framework import dtypes, ops
from tensorflow.python.framework.ops import reset_default_graph
from tensorflow.python.layers import core
from tensorflow.python.ops import math_ops, nn_ops
from tensorflow.python.platform import gfile, tf_logging

assert math_ops is ops is tf and nn_ops is tf.nn and core.Dense is tf.layers.Dense
assert batch_norm is slim.batch_norm is tf.contrib.layers.batch_norm
assert gfile is tf.gfile and tf_logging is tf.logging and list(xrange(2)) == [0, 1]
assert averages.assign_moving_average and mnist.IMAGE_PIXELS == 784 and urllib.request
for name in ("tf.contrib.tensor_forest", "tf.contrib.nccl"):
    try:
        __import__(name.replace("tf.", "tensorflow."))
    except ImportError as error:
        assert f"dtrain has no {name}: " in str(error), error
"""


def test_tensorflows_own_folders_are_found(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the projector's messages are TensorBoard's")
    (tmp_path / "mine.py").write_text(PATHS)
    done = run(str(tmp_path / "mine.py"))
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_of_the_program_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import other\n")
    (tmp_path / "other.py").write_text("1 / 0\n")
    done = run(str(tmp_path / "mine.py"))
    assert done.returncode == 1 and done.stderr.endswith("ZeroDivisionError: division by zero\n")
    done = run(str(tmp_path / "none.py"))
    assert done.returncode == 2 and "none.py: there is no such file" in done.stderr


def test_import_loads_nothing_of_the_room() -> None:
    code = "import sys, dtrain; late = ('dtrain.tf1', 'dtrain.names.table', 'dtrain.names.late'); "
    code += "assert not [m for m in sys.modules if m.startswith(late)]"
    subprocess.run([sys.executable, "-c", code], timeout=30, check=True)


@pytest.mark.parametrize("line", ["import dtrain.layers_", "from dtrain.contrib import nothing"])
def test_what_nobody_has_is_an_import_error(line: str) -> None:
    with pytest.raises(ImportError):
        exec(line)
