"""An autoencoder of two layers each way, by RMSProp; its error falls and its pictures are images."""

import numpy as np

import dtrain as tf
from dtrain.examples.tutorials.mnist import input_data

tf.set_random_seed(1)
mnist = input_data.read_data_sets("/tmp/data/", one_hot=True)

sizes = {"encoder_h1": [784, 128], "encoder_h2": [128, 32], "decoder_h1": [32, 128], "decoder_h2": [128, 784]}
X = tf.placeholder("float", [None, 784])
weights = {name: tf.Variable(tf.random_normal(shape, stddev=0.1)) for name, shape in sizes.items()}
biases = {name: tf.Variable(tf.zeros([shape[1]])) for name, shape in sizes.items()}


def layer(x, name):
    return tf.nn.sigmoid(tf.add(tf.matmul(x, weights[name]), biases[name]))


code = layer(layer(X, "encoder_h1"), "encoder_h2")
y_pred = layer(layer(code, "decoder_h1"), "decoder_h2")
loss = tf.reduce_mean(tf.pow(X - y_pred, 2))
optimizer = tf.train.RMSPropOptimizer(0.01).minimize(loss)

with tf.Session() as sess:
    sess.run(tf.global_variables_initializer())
    for i in range(1, 201):
        batch_x, _ = mnist.train.next_batch(128)
        _, error = sess.run([optimizer, loss], feed_dict={X: batch_x})
        if i % 100 == 0 or i == 1:
            print("Step %i: Minibatch Loss: %.3f" % (i, error))
    pictures = sess.run(y_pred, feed_dict={X: mnist.test.images[:4]})
    canvas = np.empty((56, 56))
    for k, picture in enumerate(pictures):
        row, column = divmod(k, 2)
        canvas[row * 28 : (row + 1) * 28, column * 28 : (column + 1) * 28] = picture.reshape([28, 28])
    print("canvas {} to {}".format(bool(canvas.min() >= 0), bool(canvas.max() <= 1)))
