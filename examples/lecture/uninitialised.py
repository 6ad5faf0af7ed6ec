"""The sum of two variables that nobody has given their values yet."""

import dtrain as tf

a = tf.get_variable(name="A", initializer=tf.constant([[0, 1], [2, 3]]))
b = tf.get_variable(name="B", initializer=tf.constant([[4, 5], [6, 7]]))
c = tf.add(a, b, name="Add")

with tf.Session() as sess:
    try:
        sess.run(c)
    except tf.errors.FailedPreconditionError as error:
        print("FailedPreconditionError:", error)
