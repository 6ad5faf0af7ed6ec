"""Logging for TensorBoard: the graph in named parts, the loss of each step, weights and gradients."""

import glob
import os
import tempfile

import dtrain as tf
from dtrain.examples.tutorials.mnist import input_data

tf.set_random_seed(1)
mnist = input_data.read_data_sets("/tmp/data/", one_hot=True)
learning_rate = 0.2
batch_size = 100
total_batch = 60
logs_path = os.environ.get("LOG_DIR") or tempfile.mkdtemp()

x = tf.placeholder(tf.float32, [None, 784], name="InputData")
y = tf.placeholder(tf.float32, [None, 10], name="LabelData")
W1 = tf.Variable(tf.random_normal([784, 32], stddev=0.1), name="W1")
b1 = tf.Variable(tf.zeros([32]), name="b1")
W2 = tf.Variable(tf.random_normal([32, 10], stddev=0.1), name="W2")
b2 = tf.Variable(tf.zeros([10]), name="b2")

with tf.name_scope("Model"):
    hidden = tf.nn.relu(tf.add(tf.matmul(x, W1), b1))
    tf.summary.histogram("relu1", hidden)
    pred = tf.add(tf.matmul(hidden, W2), b2)
with tf.name_scope("Loss"):
    loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(logits=pred, labels=y))
with tf.name_scope("SGD"):
    optimizer = tf.train.GradientDescentOptimizer(learning_rate)
    grads = tf.gradients(loss, tf.trainable_variables())
    grads = list(zip(grads, tf.trainable_variables()))
    apply_grads = optimizer.apply_gradients(grads_and_vars=grads)
with tf.name_scope("Accuracy"):
    acc = tf.equal(tf.argmax(pred, 1), tf.argmax(y, 1))
    acc = tf.reduce_mean(tf.cast(acc, tf.float32))

init = tf.global_variables_initializer()
tf.summary.scalar("loss", loss)
tf.summary.scalar("accuracy", acc)
for var in tf.trainable_variables():
    tf.summary.histogram(var.name, var)
for grad, var in grads:
    tf.summary.histogram(var.name + "/gradient", grad)
merged_summary_op = tf.summary.merge_all()

with tf.Session() as sess:
    sess.run(init)
    summary_writer = tf.summary.FileWriter(logs_path, graph=tf.get_default_graph())
    for epoch in range(2):
        avg_cost = 0.0
        for i in range(total_batch):
            batch_xs, batch_ys = mnist.train.next_batch(batch_size)
            _, c, summary = sess.run(
                [apply_grads, loss, merged_summary_op], feed_dict={x: batch_xs, y: batch_ys}
            )
            summary_writer.add_summary(summary, epoch * total_batch + i)
            avg_cost += c / total_batch
        print("Epoch:", "%02d" % (epoch + 1), "cost=", "{:.3f}".format(avg_cost))
    summary_writer.close()
    print("Accuracy: {:.2f}".format(acc.eval({x: mnist.test.images, y: mnist.test.labels})))
    print("files", len(glob.glob(os.path.join(logs_path, "events.out.tfevents.*"))))
