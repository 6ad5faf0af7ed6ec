"""Variable sharing: get_variable finds a variable of the scope again, or refuses to make it twice."""

import dtrain as tf

with tf.variable_scope("foo"):
    v = tf.get_variable("v", shape=[1])
print(v.name)

with tf.variable_scope("foo", reuse=True):
    v1 = tf.get_variable("v")
print(v1 is v or v1.name == v.name)

with tf.variable_scope("foo", reuse=False):
    try:
        tf.get_variable("v", shape=[1])
    except ValueError as error:
        print("ValueError:", error)
