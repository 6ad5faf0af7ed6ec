"""Softmax regression with the cross entropy written out, by plain gradient descent."""

from dtrain.examples.tutorials.mnist import input_data

import dtrain as tf

tf.set_random_seed(1)
data = input_data.read_data_sets("/tmp/data/", one_hot=True)

x = tf.placeholder(tf.float32, [None, 784])
W = tf.Variable(tf.zeros([784, 10]))
b = tf.Variable(tf.zeros([10]))
prediction = tf.nn.softmax(tf.matmul(x, W) + b)
label = tf.placeholder(tf.float32, [None, 10])

cross_entropy = tf.reduce_mean(-tf.reduce_sum(label * tf.log(prediction), reduction_indices=[1]))
train_step = tf.train.GradientDescentOptimizer(0.5).minimize(cross_entropy)

correct = tf.equal(tf.argmax(prediction, 1), tf.argmax(label, 1))
accuracy = tf.reduce_mean(tf.cast(correct, tf.float32))

sess = tf.Session()
sess.run(tf.initialize_all_variables())
for i in range(300):
    batch_x, batch_label = data.train.next_batch(100)
    sess.run(train_step, feed_dict={x: batch_x, label: batch_label})
    if i % 100 == 0:
        loss = sess.run(cross_entropy, feed_dict={x: batch_x, label: batch_label})
        print(f"iteration {i} loss {loss:.3f}")
print(f"accuracy {sess.run(accuracy, {x: data.test.images, label: data.test.labels}):.3f}")
