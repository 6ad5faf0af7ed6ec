"""Softmax regression fed by data sets: one iterator over the training and the test examples."""

import numpy as np
from dtrain.examples.tutorials.mnist import input_data

import dtrain as tf

mnist = input_data.read_data_sets("MNIST_data", dtype=tf.uint8, validation_size=0, seed=0)


def example(image, label):
    return tf.cast(image, tf.float32) / 255, tf.one_hot(label, 10)


images, labels = tf.placeholder(tf.uint8, [None, 784]), tf.placeholder(tf.uint8, [None])
train = tf.data.Dataset.from_tensor_slices((images, labels)).map(example, num_parallel_calls=4)
train = train.shuffle(2000, seed=3).batch(96).prefetch(1)
test = tf.data.Dataset.from_tensor_slices((mnist.test.images[:2000], mnist.test.labels[:2000]))
test = test.batch(300).map(example)

iterator = tf.data.Iterator.from_structure(train.output_types, train.output_shapes)
begin_training, begin_test = iterator.make_initializer(train), iterator.make_initializer(test)
x, y = iterator.get_next()

w = tf.Variable(tf.zeros([784, 10]))
b = tf.Variable(tf.zeros([10]))
logits = tf.matmul(x, w) + b
loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits_v2(labels=y, logits=logits))
step = tf.train.GradientDescentOptimizer(0.1).minimize(loss)
accuracy, update = tf.metrics.accuracy(tf.argmax(y, 1), tf.argmax(logits, 1))

with tf.Session() as sess:
    sess.run(tf.global_variables_initializer())
    for epoch in range(3):
        sess.run(begin_training, {images: mnist.train.images[:5000], labels: mnist.train.labels[:5000]})
        losses = []
        while True:
            try:
                losses.append(sess.run([loss, step])[0])
            except tf.errors.OutOfRangeError:
                break
        sess.run([begin_test, tf.local_variables_initializer()])
        try:
            while True:
                sess.run(update)
        except tf.errors.OutOfRangeError:
            pass
        print(f"epoch {epoch}: {len(losses)} steps, loss {np.mean(losses):.4f}, accuracy", end=" ")
        print(f"{sess.run(accuracy):.4f}")
