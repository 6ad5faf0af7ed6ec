"""An estimator with a model function of its own: a small convolutional network for MNIST."""

import os

import numpy as np
from dtrain.examples.tutorials.mnist import input_data

import dtrain as tf

mnist = input_data.read_data_sets("MNIST_data", validation_size=0, seed=0)


def network(images):
    x = tf.reshape(images, [-1, 28, 28, 1])
    for i, (before, maps) in enumerate([(1, 8), (8, 16)]):
        with tf.variable_scope(f"conv{i}"):
            kernel = tf.get_variable("kernel", [5, 5, before, maps])
            bias = tf.get_variable("bias", [maps], initializer=tf.zeros_initializer())
            x = tf.nn.conv2d(x, kernel, [1, 2, 2, 1], "SAME")
            x = tf.nn.relu(tf.nn.bias_add(x, bias))
    x = tf.reshape(x, [-1, 7 * 7 * 16])
    with tf.variable_scope("logits"):
        return tf.matmul(x, tf.get_variable("kernel", [7 * 7 * 16, 10]))


def model_fn(features, labels, mode, params):
    logits = network(features["x"])
    predictions = {"classes": tf.argmax(logits, axis=1), "probabilities": tf.nn.softmax(logits)}
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, predictions=predictions)
    loss = tf.losses.sparse_softmax_cross_entropy(labels=labels, logits=logits)
    if mode == tf.estimator.ModeKeys.TRAIN:
        step = tf.train.AdamOptimizer(params["rate"]).minimize(loss, tf.train.get_global_step())
        return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=step)
    metrics = {"accuracy": tf.metrics.accuracy(labels, predictions["classes"])}
    return tf.estimator.EstimatorSpec(mode, loss=loss, eval_metric_ops=metrics)


def inputs(part, count, **how):
    labels = np.asarray(part.labels[:count], dtype=np.int32)
    return tf.estimator.inputs.numpy_input_fn({"x": part.images[:count]}, labels, **how)


config = tf.estimator.RunConfig(tf_random_seed=1, log_step_count_steps=None, save_summary_steps=None)
folder = os.path.join(os.environ["LOG_DIR"], "cnn")
classifier = tf.estimator.Estimator(model_fn, folder, config, params={"rate": 0.005})
classifier.train(inputs(mnist.train, 6000, batch_size=100, num_epochs=None, shuffle=True), steps=100)
classifier.train(inputs(mnist.train, 6000, batch_size=100, num_epochs=None, shuffle=True), steps=20)
results = classifier.evaluate(inputs(mnist.test, 1000, num_epochs=1, shuffle=False))
found = classifier.predict(inputs(mnist.test, 5, num_epochs=1, shuffle=False))
print("step", results["global_step"], "classes", [int(row["classes"]) for row in found])
print(f"accuracy {results['accuracy']:.4f}")
