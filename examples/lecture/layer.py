"""One layer with fixed shapes, h = relu(x W + b), compared with NumPy."""

import numpy as np

import dtrain as tf

b = tf.Variable(tf.zeros((100,)))
W = tf.Variable(tf.random_uniform((784, 100), -1, 1))
x = tf.placeholder(tf.float32, (100, 784))
h = tf.nn.relu(tf.matmul(x, W) + b)

np.random.seed(0)
with tf.Session() as sess:
    sess.run(tf.initialize_all_variables())
    data = np.random.random((100, 784))
    out, weights = sess.run([h, W], {x: data})
    print(out.shape, out.dtype)
    print(bool(np.abs(weights).max() <= 1), np.allclose(out, np.maximum(data @ weights, 0), atol=1e-3))
