"""W in TensorFlow: version 1's Session loop, and Keras's fit."""

from __future__ import annotations

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from contest import LEARNING_RATE, Contest


def session(contest: Contest) -> None:
    """Example numbers are fed; the images are a variable of the graph."""
    v1 = tf.compat.v1
    v1.disable_eager_execution()
    place = v1.placeholder(tf.float32, contest.images.shape)
    images = v1.Variable(place, trainable=False, collections=[])
    chosen = v1.placeholder(tf.int32, [None])
    weights = [(v1.Variable(w), v1.Variable(b)) for w, b in contest.weights()]

    def logits(x: tf.Tensor) -> tf.Tensor:
        for w, b in weights[:-1]:
            x = tf.nn.relu(tf.matmul(x, w) + b)
        return tf.matmul(x, weights[-1][0]) + weights[-1][1]

    scores = logits(tf.gather(images, chosen))
    labels = tf.gather(tf.constant(contest.labels), chosen)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=scores)
    loss = tf.reduce_mean(losses)
    minimize = v1.train.AdamOptimizer(LEARNING_RATE).minimize(loss)
    x = v1.placeholder(tf.float32, [None, contest.images.shape[1]])
    test = logits(x)
    config = v1.ConfigProto(
        intra_op_parallelism_threads=contest.threads, inter_op_parallelism_threads=contest.threads
    )
    with v1.Session(config=config) as sess:
        sess.run(images.initializer, {place: contest.images})
        sess.run(v1.global_variables_initializer())
        last = 0.0

        def step(indices: np.ndarray) -> None:
            nonlocal last
            last, _ = sess.run([loss, minimize], {chosen: indices})

        contest.train(step, lambda: float(last))
        contest.test(lambda images: sess.run(test, {x: images}))


def keras(contest: Contest) -> None:
    """A Sequential model and one call of fit; it shuffles by itself."""
    tf.config.threading.set_intra_op_parallelism_threads(contest.threads)
    tf.config.threading.set_inter_op_parallelism_threads(contest.threads)
    kinds = tf.keras.layers
    model = tf.keras.Sequential([tf.keras.Input(contest.images.shape[1:])])
    for kind, *how in contest.layers[:-1]:
        if kind == "dense":
            model.add(kinds.Flatten())
        layers = {
            "dense": lambda units: kinds.Dense(units, activation="relu"),
            "conv": lambda size, channels, padding: kinds.Conv2D(
                channels, size, padding=padding, activation="relu"
            ),
            "pool": kinds.MaxPooling2D,
            "dropout": kinds.Dropout,
        }
        model.add(layers[kind](*how))
    model.add(kinds.Flatten())
    model.add(kinds.Dense(contest.layers[-1][1]))
    model.set_weights([array for layer in contest.weights() for array in layer])
    model.compile(
        optimizer=tf.keras.optimizers.Adam(LEARNING_RATE),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    class Clock(tf.keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
            self.begun = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            contest.epoch(logs["loss"], time.perf_counter() - self.begun)

    images, labels, batch = contest.images, contest.labels, contest.batch
    model.fit(images[:batch], labels[:batch], batch_size=batch, verbose=0)
    contest.first_step()
    model.fit(images, labels, batch_size=batch, epochs=contest.epochs, verbose=0, callbacks=[Clock()])
    contest.test(lambda images: model.predict(images, batch_size=1000, verbose=0))


contest = Contest("session", "keras")
session(contest) if contest.variant == "session" else keras(contest)
