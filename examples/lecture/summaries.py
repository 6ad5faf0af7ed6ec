"""Layers in name scopes with summaries of all that they hold, written for TensorBoard while training."""

import glob
import os
import tempfile

from dtrain.examples.tutorials.mnist import input_data

import dtrain as tf

tf.set_random_seed(1)
mnist = input_data.read_data_sets("/tmp/data/", one_hot=True)
log_dir = os.environ.get("LOG_DIR") or tempfile.mkdtemp()


def weight_variable(shape):
    return tf.Variable(tf.truncated_normal(shape, stddev=0.1))


def bias_variable(shape):
    return tf.Variable(tf.constant(0.1, shape=shape))


def variable_summaries(var):
    with tf.name_scope("summaries"):
        mean = tf.reduce_mean(var)
        tf.summary.scalar("mean", mean)
        with tf.name_scope("stddev"):
            stddev = tf.sqrt(tf.reduce_mean(tf.square(var - mean)))
        tf.summary.scalar("stddev", stddev)
        tf.summary.scalar("max", tf.reduce_max(var))
        tf.summary.scalar("min", tf.reduce_min(var))
        tf.summary.histogram("histogram", var)


def nn_layer(input_tensor, input_dim, output_dim, layer_name, act=tf.nn.relu):
    with tf.name_scope(layer_name):
        with tf.name_scope("weights"):
            weights = weight_variable([input_dim, output_dim])
            variable_summaries(weights)
        with tf.name_scope("biases"):
            biases = bias_variable([output_dim])
            variable_summaries(biases)
        with tf.name_scope("Wx_plus_b"):
            preactivate = tf.matmul(input_tensor, weights) + biases
            tf.summary.histogram("pre_activations", preactivate)
        activations = act(preactivate, name="activation")
        tf.summary.histogram("activations", activations)
        return activations


x = tf.placeholder(tf.float32, [None, 784], name="x-input")
y_ = tf.placeholder(tf.float32, [None, 10], name="y-input")
hidden1 = nn_layer(x, 784, 100, "layer1")
y = nn_layer(hidden1, 100, 10, "layer2", act=tf.identity)

with tf.name_scope("cross_entropy"):
    cross_entropy = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=y_, logits=y))
tf.summary.scalar("cross_entropy", cross_entropy)
with tf.name_scope("train"):
    train_step = tf.train.AdamOptimizer(0.001).minimize(cross_entropy)
with tf.name_scope("accuracy"):
    accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(y, 1), tf.argmax(y_, 1)), tf.float32))
tf.summary.scalar("accuracy", accuracy)

merged = tf.summary.merge_all()
print(hidden1.name)

with tf.Session() as sess:
    writer = tf.summary.FileWriter(log_dir, sess.graph)
    sess.run(tf.global_variables_initializer())
    for i in range(100):
        batch_x, batch_y = mnist.train.next_batch(100)
        if i % 10 == 0:
            summary, _ = sess.run([merged, train_step], feed_dict={x: batch_x, y_: batch_y})
            writer.add_summary(summary, i)
        else:
            sess.run(train_step, feed_dict={x: batch_x, y_: batch_y})
    writer.close()
    acc = sess.run(accuracy, {x: mnist.test.images, y_: mnist.test.labels})
    print(f"accuracy {acc:.2f}")
    print("files", len(glob.glob(os.path.join(log_dir, "events.out.tfevents.*"))))
