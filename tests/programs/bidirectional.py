"""Sequences of different lengths, read from both ends: is the sum of what is there above 0?"""

import numpy as np

import dtrain as tf

tf.set_random_seed(2)
random = np.random.RandomState(0)
BATCH, STEPS = 60, 12


def draw():
    lengths = random.randint(1, STEPS + 1, BATCH)
    values = random.uniform(-1, 1, (BATCH, STEPS, 1)).astype(np.float32)
    inside = np.arange(STEPS)[None, :, None] < lengths[:, None, None]
    # what is behind the end says the opposite
    return (
        np.where(inside, values, -5 * values),
        lengths,
        ((values * inside).sum((1, 2)) > 0).astype(np.int32),
    )


values = tf.placeholder(tf.float32, [None, STEPS, 1], name="values")
lengths = tf.placeholder(tf.int32, [None], name="lengths")
labels = tf.placeholder(tf.int32, [None], name="labels")
cell_class = tf.contrib.rnn.GRUCell
outputs, states = tf.nn.bidirectional_dynamic_rnn(
    cell_class(12), cell_class(12), values, sequence_length=lengths, dtype=tf.float32
)
logits = tf.matmul(tf.concat(states, 1), tf.get_variable("W", [24, 2]))
loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
train = tf.train.AdamOptimizer(0.02).minimize(loss)
right = tf.reduce_mean(tf.cast(tf.equal(tf.cast(tf.argmax(logits, 1), tf.int32), labels), tf.float32))

with tf.Session() as sess:
    sess.run(tf.global_variables_initializer())
    for i in range(150):
        a, b, c = draw()
        found = sess.run([loss, train], {values: a, lengths: b, labels: c})[0]
        if i in (0, 149):
            print("loss {:.2f}".format(found))
    a, b, c = draw()
    both, accuracy = sess.run([outputs, right], {values: a, lengths: b, labels: c})
    behind = np.arange(STEPS)[None, :] >= b[:, None]
    print("right {:.2f}, behind the ends {}".format(accuracy, np.abs(both[0][behind]).sum()))
