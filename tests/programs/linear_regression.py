"""A line through points, one point a step, then the cost over all of them."""

import numpy as np

import dtrain as tf

rng = np.random.RandomState(0)
train_X = np.linspace(0, 10, 20, dtype=np.float32)
train_Y = (0.25 * train_X + 0.8 + 0.1 * rng.randn(20)).astype(np.float32)
n_samples = train_X.shape[0]

X = tf.placeholder("float")
Y = tf.placeholder("float")
W = tf.Variable(rng.randn(), name="weight")
b = tf.Variable(rng.randn(), name="bias")

pred = tf.add(tf.multiply(X, W), b)
cost = tf.reduce_sum(tf.pow(pred - Y, 2)) / (2 * n_samples)
optimizer = tf.train.GradientDescentOptimizer(0.1).minimize(cost)

with tf.Session() as sess:
    sess.run(tf.global_variables_initializer())
    for epoch in range(100):
        for x, y in zip(train_X, train_Y):
            sess.run(optimizer, feed_dict={X: x, Y: y})
        if (epoch + 1) % 25 == 0:
            c = sess.run(cost, feed_dict={X: train_X, Y: train_Y})
            print("Epoch:", "%04d" % (epoch + 1), "cost=", "{:.4f}".format(c), "W=", "%.3f" % sess.run(W))
    print("Training cost={:.4f} W={:.2f} b={:.2f}".format(c, sess.run(W), sess.run(b)))
    slope, offset = np.polyfit(train_X, train_Y, 1)
    print("least squares W={:.2f} b={:.2f}".format(slope, offset))
