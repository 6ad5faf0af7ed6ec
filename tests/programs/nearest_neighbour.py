"""The class of the nearest training image, by the sum of absolute differences."""

import numpy as np

import dtrain as tf
from dtrain.examples.tutorials.mnist import input_data

tf.set_random_seed(1)
mnist = input_data.read_data_sets("/tmp/data/", one_hot=True)
Xtr, Ytr = mnist.train.next_batch(2000)
Xte, Yte = mnist.test.next_batch(40)

xtr = tf.placeholder("float", [None, 784])
xte = tf.placeholder("float", [784])
distance = tf.reduce_sum(tf.abs(tf.add(xtr, tf.negative(xte))), reduction_indices=1)
pred = tf.argmin(distance, 0)

accuracy = 0.0
with tf.Session() as sess:
    sess.run(tf.global_variables_initializer())
    for i in range(len(Xte)):
        nearest = sess.run(pred, feed_dict={xtr: Xtr, xte: Xte[i, :]})
        if i < 3:
            print("Test", i, "Prediction:", np.argmax(Ytr[nearest]), "True Class:", np.argmax(Yte[i]))
        if np.argmax(Ytr[nearest]) == np.argmax(Yte[i]):
            accuracy += 1.0 / len(Xte)
print("Accuracy: {:.3f}".format(accuracy))
