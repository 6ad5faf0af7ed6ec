"""Variables by get_variable, with initial values and with initializers; an operation on two of them."""

import dtrain as tf

s = tf.get_variable(name="scalar2", initializer=tf.constant(2))
m = tf.get_variable("matrix", initializer=tf.constant([[0, 1], [2, 3]]))
M = tf.get_variable("big_matrix", shape=(784, 10), initializer=tf.zeros_initializer())
W = tf.get_variable(
    "weight", shape=(784, 10), initializer=tf.truncated_normal_initializer(mean=0.0, stddev=0.01)
)
a = tf.get_variable(name="A", initializer=tf.constant([[0, 1], [2, 3]]))
b = tf.get_variable(name="B", initializer=tf.constant([[4, 5], [6, 7]]))
c = tf.add(a, b, name="Add")
init_op = tf.global_variables_initializer()

print(a)
print(c)

with tf.Session() as sess:
    sess.run(init_op)
    print(sess.run(c))
    print(sess.run(s), sess.run(m).tolist(), sess.run(M).sum())
    weights = sess.run(W)
    print(weights.shape, bool(abs(weights).max() <= 0.02), bool(0.008 < weights.std() < 0.0095))
