"""Branches and loops: noise only while training, a rate that falls, a root by Newton's steps."""

import numpy as np

import dtrain as tf

tf.set_random_seed(1)
random = np.random.RandomState(0)
training = tf.placeholder(tf.bool, name="training")
x = tf.placeholder(tf.float32, [None, 3])
y = tf.placeholder(tf.float32, [None, 1])
step = tf.Variable(0, trainable=False)
moved = tf.Variable(tf.zeros([3]), trainable=False)


def noisy():
    update = tf.assign(moved, 0.9 * moved + 0.1 * tf.reduce_mean(x, 0))
    with tf.control_dependencies([update]):
        return tf.nn.dropout(x, 0.9, seed=5)


inputs = tf.cond(training, noisy, lambda: tf.identity(x))


def layers(value):
    # three layers of the same weights
    w = tf.get_variable("w", [3, 3])
    _, value = tf.while_loop(
        lambda i, v: i < 3, lambda i, v: (i + 1, v + 0.1 * tf.tanh(tf.matmul(v, w))), [0, value]
    )
    return value


prediction = tf.matmul(layers(inputs), tf.get_variable("out", [3, 1]))
loss = tf.reduce_mean(tf.square(prediction - y))
rate = tf.cond(step < 60, lambda: tf.constant(0.1), lambda: tf.constant(0.02))
train = tf.train.GradientDescentOptimizer(rate).minimize(loss, global_step=step)

number = tf.placeholder(tf.float32, [])
root, steps = tf.while_loop(
    lambda r, n: tf.abs(r * r - number) > 1e-3, lambda r, n: (0.5 * (r + number / r), n + 1), [number, 0]
)
products = tf.scan(lambda a, b: a * b, tf.range(1, 6))
norms = tf.map_fn(lambda row: tf.sqrt(tf.reduce_sum(row * row)), tf.constant([[3.0, 4.0], [6.0, 8.0]]))

with tf.Session() as sess:
    sess.run(tf.global_variables_initializer())
    for i in range(90):
        given = random.uniform(-1, 1, (24, 3)) + 0.5
        feed = {x: given, y: given.sum(1, keepdims=True), training: True}
        found = sess.run([loss, train], feed)[0]
        if i % 30 == 0:
            print("step {} loss {:.3f} rate {:.2f}".format(i, found, sess.run(rate)))
    before = sess.run(moved)
    tested = sess.run(loss, {x: given, y: given.sum(1, keepdims=True), training: False})
    print(
        "tested {:.3f}, statistics moved by training alone {}".format(
            tested, (before == sess.run(moved)).all()
        )
    )
    print("near 0.5: {}".format(bool(np.abs(before - 0.5).max() < 0.3)))
    print("root {:.3f} in {} steps".format(*sess.run([root, steps], {number: 10.0})))
    print(sess.run(products).tolist(), sess.run(norms).tolist())
