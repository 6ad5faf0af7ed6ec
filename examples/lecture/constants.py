"""Two constants and their sum: printed, it is a tensor of the graph and no number yet."""

import dtrain as tf

a = tf.constant(2, name="A")
b = tf.constant(3, name="B")
c = tf.add(a, b, name="Add")

print(c)

with tf.Session() as sess:
    print(sess.run(c))
