"""Imports by TensorFlow's and Keras's paths, and `dtrain run`."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtrain.cli import run as cli_run
from dtrain.data import addresses

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

assert tf is v1 and tf is tf.compat.v1 and tf.Session is dtrain.Session, (tf, v1)
assert tf.__version__ == "1.12.0" == tf.VERSION == tf.version.VERSION and dtrain.__version__ != tf.__version__
assert tf.contrib.rnn is dtrain.contrib.rnn and "Session" in dir(tf) and not hasattr(tf, "nonsense")
assert tf.contrib.layers is layers and layers.l2_regularizer is l2_regularizer
assert layers.__spec__.name == "dtrain.tf1.contrib.layers"
assert np.zeros(2, np.int).dtype == int and np.float is float and np.bool(1)
assert np.infty == np.Inf and np.float_ is np.float64 and np.product([2, 3]) == 6
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

assert math_ops is ops and ops.Session is tf.Session and nn_ops is tf.nn and core.Dense is tf.layers.Dense
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


OLD = """\
import os, sys
from urllib.request import urlopen, urlretrieve
from six.moves import urllib
import numpy as np
import tensorflow as tf
assert tf.__version__ == "1.12.0"
if not os.path.exists("data/here"):
    os.makedirs("data/here")
source = "http://yann.lecun.com/exdb/mnist/"
for name in ("train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
    path, _ = urllib.request.urlretrieve(source + name, "data/here/" + name)
    assert os.path.getsize(path) > 20, path
with urlopen(source + name) as answer:
    assert answer.status == 200 and answer.read(2) == bytes([31, 139])
print("".join(set("abcdefgh")), sorted(os.listdir("data/here")))
"""


def mnist(folder: Path) -> Path:
    """A small set in MNIST's files."""
    folder.mkdir()
    for part, count in (("train", 20), ("t10k", 10)):
        images, labels = np.zeros((count, 28, 28), np.uint8), (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            head = struct.pack(">i" + "i" * array.ndim, 0x800 + array.ndim, *array.shape)
            (folder / name).write_bytes(head + array.tobytes())
    return folder


def test_mnists_old_addresses_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTRAIN_DATA", str(mnist(tmp_path / "mnist")))
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OLD)
    found = [run("mine.py") for _ in range(2)]
    assert [(done.returncode, done.stderr) for done in found] == [(0, "")] * 2
    assert found[0].stdout == found[1].stdout  # letters are in the same order in every job
    assert sorted(found[0].stdout[:8]) == list("abcdefgh") and "t10k-labels-idx1-ubyte.gz" in found[0].stdout


def test_a_file_that_is_fetched_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(url: str, filename: str, *_: object) -> None:
        Path(filename).write_bytes(b"half")
        raise OSError("the line is cut")

    monkeypatch.setattr(addresses, "_urlretrieve", broken)
    with pytest.raises(OSError, match="cut"):
        addresses._retrieve("http://example.org/x", str(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_rank_has_just_made_is_there(tmp_path: Path) -> None:
    since = cli_run._job_began()
    assert time.time() - 3600 * 24 * 365 < since < time.time()
    make, other = (cli_run._make_folder(os.mkdir, since) for _ in range(2))
    make(tmp_path / "a")
    other(tmp_path / "a")
    for rank in (make, other):  # that it is there each has been told
        with pytest.raises(FileExistsError):
            rank(tmp_path / "a")
    (tmp_path / "a").rmdir()
    time.sleep(0.05)  # longer than a file system's clock stands still
    other(tmp_path / "a")
    make(tmp_path / "a")
    with pytest.raises(FileExistsError):
        cli_run._make_folder(os.mkdir, time.time() + 3600)(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make(tmp_path / "file")


def test_ranks_print_once_and_number_words_alike(tmp_path: Path, mpirun: Callable[..., Any]) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, sys, tensorflow as tf\nos.path.exists('out') or os.makedirs('out')\n"
        "print(''.join(set('abcdefgh')))\nprint(tf.Session().run(tf.constant([1, 2]) * 2))\n"
    )
    for more, times in ((), 1), (("--print-all",), 2):
        done = mpirun(2, ["run", *more, "mine.py"], cwd=tmp_path, env={"PYTHONHASHSEED": None})
        lines = done.stdout.splitlines()
        assert done.rc == 0 and len(lines) == 2 * times and lines.count("[2 4]") == times, done
        assert len({line for line in lines if line.isalpha()}) == 1
        shutil.rmtree(tmp_path / "out")
