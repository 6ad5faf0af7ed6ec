"""An LSTM that reads a digit row by row."""

from dtrain.examples.tutorials.mnist import input_data

import dtrain as tf

tf.set_random_seed(3)
data = input_data.read_data_sets("/tmp/data/", one_hot=True)
ROWS, COLUMNS, UNITS, BATCH = 28, 28, 64, 100

x = tf.placeholder(tf.float32, [None, ROWS, COLUMNS])
label = tf.placeholder(tf.float32, [None, 10])
cell = tf.nn.rnn_cell.BasicLSTMCell(UNITS)
outputs, state = tf.nn.dynamic_rnn(cell, x, dtype=tf.float32)
logits = tf.matmul(outputs[:, -1], tf.Variable(tf.truncated_normal([UNITS, 10], stddev=0.1)))
logits += tf.Variable(tf.zeros([10]))
loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=label, logits=logits))
train = tf.train.AdamOptimizer(0.002).minimize(loss)
correct = tf.equal(tf.argmax(logits, 1), tf.argmax(label, 1))
accuracy = tf.reduce_mean(tf.cast(correct, tf.float32))

print(outputs.get_shape(), state.h.get_shape(), [v.name for v in tf.trainable_variables()][:2])
with tf.Session() as sess:
    sess.run(tf.global_variables_initializer())
    for i in range(1, 81):
        images, labels = data.train.next_batch(BATCH)
        feed = {x: images.reshape((BATCH, ROWS, COLUMNS)), label: labels}
        sess.run(train, feed_dict=feed)
        if i % 20 == 0:
            print("step {} loss {:.3f}".format(i, sess.run(loss, feed)))
    tests = {x: data.test.images[:2000].reshape((-1, ROWS, COLUMNS)), label: data.test.labels[:2000]}
    print("accuracy {:.3f}".format(sess.run(accuracy, tests)))
