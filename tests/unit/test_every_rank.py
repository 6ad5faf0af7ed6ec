"""Programs in which rank 0 alone makes a call, Horovod's habit: it works, or every rank is named."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain.comm import monitor

BEGIN = """
import sys
import numpy as np, dtrain as tf
rank, folder = tf.comm.world().rank, sys.argv[1]
X = np.ones((6, 4), np.float32)
"""
GRAPH = """
x = tf.placeholder(tf.float32, [None, 4]); w = tf.Variable(tf.ones([4, 1]))
y = tf.reduce_sum(tf.matmul(x, w))
train = tf.train.GradientDescentOptimizer(0.1).minimize(y)
s = tf.Session(); s.run(tf.global_variables_initializer()); saver = tf.train.Saver()
def steps(n):
    for _ in range(n): s.run(train, {x: X})
"""
KERAS = """
m = tf.keras.Sequential([tf.keras.layers.Dense(2, input_shape=(4,))]); m.compile("sgd", "mse")
callbacks = tf.keras.callbacks
def fit(**options): m.fit(X, X[:, :2], verbose=0, **options)
fit()
"""

WORKS = {
    "a Saver": GRAPH + "steps(2)\nif rank == 0: saver.save(s, folder + '/m', 2)\nsteps(2)",
    "reading": GRAPH + "steps(2)\nif rank == 0: assert (s.run(w) == w.eval(s)).all()\nsteps(2)",
    "the model": KERAS + "if rank == 0: m.save(folder + '/m'); m.summary(); m.get_weights()\nfit()",
    "callbacks": KERAS
    + """
mine = [callbacks.ModelCheckpoint(folder + "/{epoch}"), callbacks.CSVLogger(folder + "/log.csv"),
    callbacks.EarlyStopping("loss", patience=5), callbacks.ReduceLROnPlateau("loss", patience=1),
    callbacks.LearningRateScheduler(lambda epoch: 0.1),
    callbacks.LambdaCallback(on_epoch_end=lambda e, logs: m.save_weights(folder + "/weights"),
        on_batch_end=lambda b, logs: None)]
fit(epochs=3, callbacks=mine if rank == 0 else [])
assert m.optimizer.learning_rate == np.float32(0.1) or abs(m.optimizer.learning_rate - 0.1) < 1e-9
""",
}


@pytest.fixture
def program(mpirun: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """program(ranks, TEXT): runs it; first: what it does before it imports dtrain."""

    def run(ranks: int, text: str, first: str = "") -> Any:
        (tmp_path / "program.py").write_text(first + BEGIN + text)
        path = os.pathsep.join([str(tmp_path), str(Path(dtrain.__file__).parents[1])])
        return mpirun(ranks, [tmp_path], module="program", env={"PYTHONPATH": path})

    return run


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("what", WORKS)
def test_what_needs_no_other_rank_works_on_rank_0_alone(
    program: Callable[..., Any], what: str, ranks: int
) -> None:
    run = program(ranks, WORKS[what] + "\nprint('end')\n")
    assert run.rc == 0 and run.stdout.count("end") == ranks, run


#: What people bring: noise and orders by np.random without a seed, and rank 0 that does what is done once.
HABITS = """
import os
layers, keras = tf.keras.layers, tf.keras
real = np.random.normal(2, 0.5, (12, 3))

# a GAN of TensorFlow 1: two optimizers in turns, a batch and noise of np.random's
def net(x, sizes, scope):
    with tf.variable_scope(scope, reuse=tf.AUTO_REUSE):
        for i, n in enumerate(sizes):
            w = tf.get_variable(f"w{i}", [x.shape[1], n])
            x = tf.matmul(x if i == 0 else tf.nn.relu(x), w) + tf.get_variable(f"b{i}", [n])
        return x
z, images = tf.placeholder(tf.float32, [None, 2]), tf.placeholder(tf.float32, [None, 3])
fake = net(z, [4, 3], "g")
right, wrong = net(images, [4, 1], "d"), net(fake, [4, 1], "d")
entropy = lambda logits, label: tf.reduce_mean(
    tf.nn.sigmoid_cross_entropy_with_logits(logits=logits, labels=label(logits)))
d_loss = entropy(right, tf.ones_like) + entropy(wrong, tf.zeros_like)
g_loss = entropy(wrong, tf.ones_like)
mine = lambda scope: [v for v in tf.trainable_variables() if v.name.startswith(scope)]
d_step = tf.train.AdamOptimizer(0.01).minimize(d_loss, var_list=mine("d"))
g_step = tf.train.AdamOptimizer(0.01).minimize(g_loss, var_list=mine("g"))
sess = tf.Session(); sess.run(tf.global_variables_initializer())
for _ in range(5):
    rows = real[np.random.randint(0, len(real), 6)]
    _, d = sess.run([d_step, d_loss], {images: rows, z: np.random.uniform(-1, 1, (6, 2))})
    _, g = sess.run([g_step, g_loss], {z: np.random.uniform(-1, 1, (6, 2))})
assert np.isfinite([d, g]).all()

# the same by train_on_batch: the generator's gradient comes from a network of both
generator = keras.Sequential([layers.Dense(4, "relu", input_shape=(2,)), layers.Dense(3)])
judge = keras.Sequential([layers.Dense(4, "relu", input_shape=(3,)), layers.Dense(1, "sigmoid")])
judge.compile("adam", "binary_crossentropy")
both = keras.Sequential([layers.Dense(4, "relu", input_shape=(2,)), layers.Dense(3),
    layers.Dense(4, "relu", trainable=False), layers.Dense(1, "sigmoid", trainable=False)])
both.compile("adam", "binary_crossentropy")
for _ in range(3):
    made = generator.predict(np.random.normal(0, 1, (6, 2)))
    rows = real[np.random.permutation(len(real))[:6]]
    judge.train_on_batch(np.concatenate([rows, made]), np.r_[np.ones(6), np.zeros(6)])
    both.set_weights(both.get_weights()[:4] + judge.get_weights())
    both.train_on_batch(np.random.normal(0, 1, (6, 2)), np.ones(6))
    generator.set_weights(both.get_weights()[:4])

# a loop that shuffles, and one whose rows are each rank's own, with what rank 0 alone does
x, y = tf.placeholder(tf.float32, [None, 3]), tf.placeholder(tf.float32, [None])
w = tf.Variable(np.random.normal(size=(3, 1)), dtype=tf.float32)
loss = tf.reduce_mean(tf.square(tf.reduce_sum(tf.matmul(x, w), 1) - y))
step, summary = tf.train.MomentumOptimizer(0.01, 0.9).minimize(loss), tf.summary.scalar("loss", loss)
sess.run(tf.global_variables_initializer())
saver, writer = tf.train.Saver(), tf.summary.FileWriter(folder + "/logs") if rank == 0 else None
for epoch in range(3):
    order = np.random.permutation(12)
    for at in range(0, 12, 5):
        batch = order[at:at + 5]
        sess.run(step, {x: real[batch], y: real[batch].sum(1)})
size = tf.comm.world().size
own = real[rank::size]
for i in range(4):
    text, _ = sess.run([summary, step], {x: tf.Shard(own, 12), y: tf.Shard(own.sum(1), 12)})
    if rank == 0:
        writer.add_summary(text, i)
        saver.save(sess, folder + "/model", i)
        print("weights", sess.run(w).shape, w.eval(sess).shape)
model = keras.Sequential([layers.Dense(1, input_shape=(3,))])
model.compile("sgd", "mse")
model.fit(real, real.sum(1), 4, epochs=2, verbose=2 if rank == 0 else 0)
if rank == 0:
    model.summary(), model.save(folder + "/m"), print(model.get_weights()[0].shape, model.weights[0].numpy())
model.evaluate(real, real.sum(1), verbose=0)
everywhere = tf.comm.world().allgather(np.stack([sess.run(w).ravel(), model.get_weights()[0].ravel()])[None])
assert (everywhere == everywhere[0]).all()
"""


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_programs_of_habit_run(program: Callable[..., Any], ranks: int) -> None:
    run = program(ranks, HABITS + "print('end')\n")
    assert run.rc == 0 and run.stdout.count("end") >= ranks and not run.stderr, run


def test_a_callback_of_rank_0_alone_decides_for_all(program: Callable[..., Any]) -> None:
    run = program(
        2,
        KERAS
        + """
mine = [callbacks.EarlyStopping("loss", min_delta=1e9)]
h = m.fit(X, X[:, :2], verbose=0, epochs=9, callbacks=mine if rank == 0 else None)
assert len(h.epoch) == 2
""",
    )
    assert run.rc == 0, run


#: A program, and where the two ranks are said to be; None: rank 1 has ended.
TOLD = {
    "evaluate": (
        KERAS + "if rank == 0: m.evaluate(X, X[:, :2], verbose=0)\nfit()",
        ("Sequential.evaluate (program.py:", "Sequential.fit (program.py:"),
    ),
    "predict at the end": (KERAS + "if rank == 0: m.predict(X)", ("Sequential.predict (program.py:", None)),
    "in a callback": (
        KERAS
        + "mine = callbacks.LambdaCallback(on_epoch_end=lambda e, l: m.predict(X) if rank == 0 else 0)\n"
        + "fit(callbacks=[mine])",
        (
            "Sequential.fit (program.py:10), in it LambdaCallback.on_epoch_end, in it Sequential.predict",
            "Sequential.fit",
        ),
    ),
    "accuracy": (
        GRAPH + "steps(2)\nif rank == 0: s.run(y, {x: X})\nsteps(2)",
        ("Session.run(Sum:0) (program.py:", "Session.run(GradientDescent) (program.py:"),
    ),
    # both have run before, so each rank comes straight to a sum, of numbers that have nothing in common
    "another plan": (
        GRAPH
        + """
for i in range(40):
    steps(1)
    for _ in range(2 if rank == 0 and i == 20 else 1): s.run(y, {x: X})
""",
        ("Session.run(Sum:0) (program.py:", "Session.run(GradientDescent) (program.py:"),
    ),
    "a shorter loop": (
        GRAPH + "steps(9 - rank)\ns.run(y, {x: X})",
        ("Session.run(GradientDescent) (program.py:", "Session.run(Sum:0) (program.py:"),
    ),
    "restore": (
        GRAPH + "path = saver.save(s, folder + '/m')\nif rank == 0: saver.restore(s, path)\nsteps(9)",
        ("Saver.restore (program.py:", "Session.run(GradientDescent) (program.py:"),
    ),
    "a value": (
        GRAPH + "steps(1)\nif rank == 0: w.load(np.ones((4, 1)), s)\nsteps(3)",
        ("Session.set_value (program.py:", "Session.run(GradientDescent) (program.py:"),
    ),
    "a sum of one's own": (
        GRAPH + "steps(1)\nif rank == 0: tf.comm.world().allreduce(np.ones(3))\nsteps(3)",
        ("allreduce between ranks", "Session.run(GradientDescent) (program.py:"),
    ),
}


@pytest.mark.alone
@pytest.mark.parametrize("kernels", ["c", "numpy"])
@pytest.mark.parametrize("what", TOLD)
def test_a_call_of_rank_0_alone_is_named_at_once(
    program: Callable[..., Any], what: str, kernels: str
) -> None:
    text, (here, there) = TOLD[what]
    if kernels == "numpy" and what not in ("another plan", "a shorter loop"):
        pytest.skip("the same in C and NumPy")
    run = program(2, f"import os; os.environ['DTRAIN_KERNELS'] = {kernels!r}\n" + text)
    said = [line for line in run.stderr.splitlines() if line.startswith("dtrain: ")]
    assert said and run.seconds < 15, run
    if there is None:
        assert run.rc == 7 and "rank 1 of 2 on" in said[0] and f"waits for it in {here}" in said[0], run
        return
    found = re.search(r"rank 0 is in (.*); rank 1 is in (.*)\. Every rank has to make these calls", said[0])
    assert run.rc == 2 and found, run
    assert found[1].startswith(here) and found[2].startswith(there), said


def test_the_sentence_names_all_ranks() -> None:
    said = monitor.different_calls([(0, "Saver.restore (a.py:3)"), (1, "fit"), (2, "fit")])
    assert "rank 0 is in Saver.restore (a.py:3); ranks 1, 2 are in fit." in said


# -- random numbers that nobody seeded -----------------------------------------------------------------------
def test_global_random_numbers_are_alike_on_all_ranks_and_not_from_job_to_job(
    program: Callable[..., Any],
) -> None:
    """A loop that shuffles and draws noise, as a GAN does, and draws before the ranks meet."""
    text = (
        "import random\nrank_0_draws = np.random.rand()\n"
        + GRAPH
        + """
for _ in range(3):
    s.run(train, {x: X[np.random.permutation(6)] * np.random.normal(size=(6, 4)) + random.random()})
if rank == 0: print(rank_0_draws, random.random())
"""
    )
    first, second = (program(ranks, text) for ranks in (3, 2))
    assert first.rc == second.rc == 0, (first, second)
    assert not set(first.stdout.split()) & set(second.stdout.split())


def test_the_seed_of_a_program_counts(program: Callable[..., Any]) -> None:
    seeds = "import random, numpy as np\nnp.random.seed(5); random.seed(6)\n"
    run = program(2, "if rank == 1: print(np.random.rand(), random.random())", seeds)
    wanted = np.random.RandomState(5).rand(), random.Random(6).random()
    assert run.rc == 0 and tuple(map(float, run.stdout.split())) == wanted, run


def test_what_still_differs_is_named(program: Callable[..., Any]) -> None:
    run = program(2, GRAPH + "s.run(train, {x: np.random.default_rng().random((6, 4))})")
    assert run.rc == 2 and "np.random.default_rng() needs a seed" in run.stderr, run
