"""Train, save, and go on from there in a second session that never ran the initializer."""

import os
import tempfile

import dtrain as tf
from dtrain.examples.tutorials.mnist import input_data

tf.set_random_seed(1)
mnist = input_data.read_data_sets("/tmp/data/", one_hot=True)
model_path = os.path.join(os.environ.get("LOG_DIR") or tempfile.mkdtemp(), "model.ckpt")

x = tf.placeholder("float", [None, 784])
y = tf.placeholder("float", [None, 10])
w1 = tf.Variable(tf.random_normal([784, 64], stddev=0.1), name="w1")
w2 = tf.Variable(tf.random_normal([64, 10], stddev=0.1), name="w2")
pred = tf.matmul(tf.nn.relu(tf.matmul(x, w1)), w2)
cost = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(logits=pred, labels=y))
optimizer = tf.train.AdamOptimizer(learning_rate=0.001).minimize(cost)
accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(pred, 1), tf.argmax(y, 1)), "float"))

init = tf.global_variables_initializer()
saver = tf.train.Saver()
test = {x: mnist.test.images, y: mnist.test.labels}


def train(sess, steps):
    for _ in range(steps):
        batch_x, batch_y = mnist.train.next_batch(100)
        sess.run(optimizer, feed_dict={x: batch_x, y: batch_y})


with tf.Session() as sess:
    sess.run(init)
    train(sess, 100)
    first = sess.run(accuracy, test)
    save_path = saver.save(sess, model_path)
    print("Model saved in file:", os.path.basename(save_path))

with tf.Session() as sess:
    saver.restore(sess, model_path)
    print("restored as saved:", bool(sess.run(accuracy, test) == first))
    train(sess, 200)
    second = sess.run(accuracy, test)
    print("better than before:", bool(second > first))
    print("accuracy {:.2f}".format(second))
