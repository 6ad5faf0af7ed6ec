"""A network of slim's layers: arguments by scope, batch normalization, a train op with clipped gradients."""

import dtrain.contrib.slim as slim
from dtrain.contrib.framework import arg_scope, get_model_variables
from dtrain.examples.tutorials.mnist import input_data

import dtrain as tf

tf.set_random_seed(5)
mnist = input_data.read_data_sets("MNIST_data", one_hot=True)


def arguments(training):
    norm = {"is_training": training, "decay": 0.9, "scale": True}
    with arg_scope(
        [slim.conv2d, slim.fully_connected],
        weights_initializer=slim.variance_scaling_initializer(),
        weights_regularizer=slim.l2_regularizer(1e-4),
        normalizer_fn=slim.batch_norm,
        normalizer_params=norm,
        outputs_collections="end points",
    ) as scope:
        return scope


def network(images):
    net = tf.reshape(images, [-1, 28, 28, 1])
    with arg_scope([slim.conv2d], stride=2, padding="SAME"):
        net = slim.conv2d(net, 6, [5, 5], scope="conv1")
        net = slim.conv2d(net, 12, [3, 3], scope="conv2")
    net = slim.flatten(slim.avg_pool2d(net, [2, 2], scope="pool"))
    net = slim.stack(net, slim.fully_connected, [48, 32], scope="full")
    return slim.fully_connected(net, 10, activation_fn=None, normalizer_fn=None, scope="logits")


x = tf.placeholder(tf.float32, [None, 784])
t = tf.placeholder(tf.float32, [None, 10])
training = tf.placeholder(tf.bool, [])
with slim.arg_scope(arguments(training)):
    logits = network(x)

slim.losses.softmax_cross_entropy(logits, t)
total = slim.losses.get_total_loss()
train_op = slim.learning.create_train_op(total, tf.train.MomentumOptimizer(0.02, 0.8), clip_gradient_norm=2.0)
accuracy = tf.reduce_mean(tf.to_float(tf.equal(tf.argmax(logits, 1), tf.argmax(t, 1))))

print(" ".join(slim.utils.convert_collection_to_dict("end points")))
print(len(get_model_variables()), len(tf.losses.get_regularization_losses()))
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for i in range(41):
        images, labels = mnist.train.next_batch(64)
        loss = session.run(train_op, {x: images, t: labels, training: True})
        if i % 20 == 0:
            print("step %d loss %.4f" % (session.run(slim.get_or_create_global_step()), loss))
    test = {x: mnist.test.images[:2000], t: mnist.test.labels[:2000], training: False}
    print("accuracy %.4f" % session.run(accuracy, test))
