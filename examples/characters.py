"""A net of two LSTMs that learns a text by heart, letter by letter, and then writes."""

import numpy as np

import dtrain as tf

tf.set_random_seed(4)
TEXT = "round and round the ragged rocks the rascal ran; " * 40
LETTERS = sorted(set(TEXT))
BATCH, STEPS, UNITS, LAYERS = 10, 20, 48, 2

codes = np.array([LETTERS.index(letter) for letter in TEXT])
rows = codes[: BATCH * (len(codes) // BATCH)].reshape(BATCH, -1)

letters = tf.placeholder(tf.int32, [None, None], name="letters")
following = tf.placeholder(tf.int32, [None, None], name="following")
keep = tf.placeholder_with_default(1.0, [], name="keep")


def layer():
    return tf.contrib.rnn.DropoutWrapper(tf.contrib.rnn.LSTMCell(UNITS), output_keep_prob=keep)


cell = tf.contrib.rnn.MultiRNNCell([layer() for _ in range(LAYERS)])
first = cell.zero_state(tf.shape(letters)[0], tf.float32)
embedded = tf.nn.embedding_lookup(tf.get_variable("embedding", [len(LETTERS), 16]), letters)
outputs, last = tf.nn.dynamic_rnn(cell, embedded, initial_state=first)
with tf.variable_scope("softmax"):
    w, b = tf.get_variable("w", [UNITS, len(LETTERS)]), tf.get_variable("b", [len(LETTERS)])
logits = tf.reshape(
    tf.matmul(tf.reshape(outputs, [-1, UNITS]), w) + b, [-1, tf.shape(letters)[1], len(LETTERS)]
)
loss = tf.contrib.seq2seq.sequence_loss(logits, following, tf.ones_like(following, tf.float32))
gradients, _ = tf.clip_by_global_norm(tf.gradients(loss, tf.trainable_variables()), 5.0)
train = tf.train.AdamOptimizer(0.01).apply_gradients(zip(gradients, tf.trainable_variables()))

with tf.Session() as sess:
    sess.run(tf.global_variables_initializer())
    for epoch in range(12):
        state = sess.run(first, {letters: rows[:, :STEPS]})
        losses = []
        for at in range(0, rows.shape[1] - STEPS - 1, STEPS):
            feed = {letters: rows[:, at : at + STEPS], following: rows[:, at + 1 : at + STEPS + 1], keep: 0.9}
            for (c, h), (c_value, h_value) in zip(first, state):
                feed[c], feed[h] = c_value, h_value
            found, state, _ = sess.run([loss, last, train], feed)
            losses.append(found)
        if epoch % 4 == 3:
            print(f"epoch {epoch + 1} loss {np.mean(losses):.2f}")
    text, state = "round and", None
    state = sess.run(last, {letters: [[LETTERS.index(letter) for letter in text[:-1]]]})
    for _ in range(39):
        feed = {letters: [[LETTERS.index(text[-1])]]}
        for (c, h), (c_value, h_value) in zip(first, state):
            feed[c], feed[h] = c_value, h_value
        scores, state = sess.run([logits, last], feed)
        text += LETTERS[int(np.argmax(scores[0, -1]))]
    print(text)
