"""A Session loop with feed_dict, the same program on dtrain and on TensorFlow, one thread each, in turn.

    python benchmarks/session_loop.py --tensorflow PYTHON [--data FOLDER] [--rounds 7] [--models ...]

PYTHON is the interpreter of an environment with TensorFlow (1.x, or 2.x by its compat.v1). Each round starts
both once per model, in turns that change: a program builds the model, runs a few steps, and prints the
seconds of each step of a few hundred. Prints, by model, medians of the medians and the median of the rounds'
ratios; a ratio above 1 says how many times faster dtrain is. Examples are the first 1,000 of FOLDER; without
it they are random, none of them zero, which is dtrain's worst case: what is black in an image costs nothing.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

STEPS = {"softmax": 600, "mlp": 400, "cnn": 60}
BATCH = 100


def network(tf: Any, model: str, x: Any) -> Any:
    """The logits, in the words of TensorFlow 1."""

    def dense(x: Any, inputs: int, units: int) -> Any:
        w = tf.Variable(tf.truncated_normal([inputs, units], stddev=0.05))
        return tf.matmul(x, w) + tf.Variable(tf.zeros([units]))

    if model == "softmax":
        return dense(x, 784, 10)
    if model == "mlp":
        hidden = tf.nn.relu(dense(x, 784, 256))
        return dense(tf.nn.relu(dense(hidden, 256, 256)), 256, 10)
    x, channels = tf.reshape(x, [-1, 28, 28, 1]), 1
    for filters in (32, 64):
        kernel = tf.Variable(tf.truncated_normal([5, 5, channels, filters], stddev=0.1))
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, [1, 1, 1, 1], "SAME") + tf.Variable(tf.zeros([filters])))
        x, channels = tf.nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], "SAME"), filters
    return dense(tf.nn.relu(dense(tf.reshape(x, [-1, 7 * 7 * 64]), 7 * 7 * 64, 1024)), 1024, 10)


def examples(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """1,000 images in [0, 1] and their classes one-hot: MNIST's, or random ones where there is no folder."""
    random = np.random.RandomState(0)
    images, labels = random.rand(10 * BATCH, 784), random.randint(0, 10, 10 * BATCH)
    if folder:

        def read(name: str, start: int, nbytes: int) -> np.ndarray:
            with gzip.open(os.path.join(folder, name)) as file:
                return np.frombuffer(file.read(start + nbytes)[start:], np.uint8)

        images = read("train-images-idx3-ubyte.gz", 16, 10 * BATCH * 784).reshape(-1, 784) / 255
        labels = read("train-labels-idx1-ubyte.gz", 8, 10 * BATCH)
    return images.astype(np.float32), np.eye(10, dtype=np.float32)[labels]


def contender(model: str, framework: str, folder: str) -> None:
    """Print the median of the seconds of a step."""
    if framework == "dtrain":
        import dtrain as tf

        config = None
    else:
        import tensorflow

        tf = tensorflow.compat.v1 if tensorflow.__version__[0] == "2" else tensorflow
        tf.disable_v2_behavior()
        config = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    x, y = tf.placeholder(tf.float32, [None, 784]), tf.placeholder(tf.float32, [None, 10])
    logits = network(tf, model, x)
    loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=y, logits=logits))
    if model == "softmax":
        train = tf.train.GradientDescentOptimizer(0.5).minimize(loss)
    else:
        train = tf.train.AdamOptimizer(1e-3).minimize(loss)
    images, labels = examples(folder)
    seconds = []
    with tf.Session(config=config) as session:
        session.run(tf.global_variables_initializer())
        for step in range(20 + STEPS[model]):
            at = step % 10 * BATCH
            begun = time.perf_counter()
            session.run([train, loss], feed_dict={x: images[at : at + BATCH], y: labels[at : at + BATCH]})
            seconds.append(time.perf_counter() - begun)
    print(statistics.median(seconds[20:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tensorflow", metavar="PYTHON", help="an interpreter that has TensorFlow")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--data", metavar="FOLDER", default="", help="MNIST's four files, with .gz behind")
    parser.add_argument("--contender", nargs=2, metavar=("MODEL", "FRAMEWORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        contender(*options.contender, options.data)
        return
    if not options.tensorflow:
        parser.error("--tensorflow: give the interpreter of an environment with TensorFlow.")
    one = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}
    environment = {**os.environ, **one, "TF_CPP_MIN_LOG_LEVEL": "3"}
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        environment.pop(name, None)
    pythons = {"dtrain": sys.executable, "tensorflow": options.tensorflow}
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(options.rounds):
        for model in options.models:
            for framework in sorted(pythons, reverse=bool(turn % 2)):
                command = [
                    pythons[framework],
                    __file__,
                    "--contender",
                    model,
                    framework,
                    "--data",
                    options.data,
                ]
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stderr)
                times.setdefault((model, framework), []).append(float(done.stdout.split()[-1]))
    print("| model | TensorFlow, ms a step | dtrain | times faster, median of rounds | least, most |")
    print("|---|---|---|---|---|")
    for model in options.models:
        ours, theirs = times[model, "dtrain"], times[model, "tensorflow"]
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        cells = f"{1e3 * statistics.median(theirs):.3f} | {1e3 * statistics.median(ours):.3f}"
        middle = f"{statistics.median(ratios):.2f} | {min(ratios):.2f}, {max(ratios):.2f}"
        print(f"| {model} | {cells} | {middle} |")


if __name__ == "__main__":
    main()
