"""A convolutional network of tf.layers, started by tf.app.run: flags, summaries, messages, a folder."""

import os

from dtrain.examples.tutorials.mnist import input_data

import dtrain as tf

flags = tf.app.flags
flags.DEFINE_integer("steps", 60, "how many batches to train on")
flags.DEFINE_integer("batch", 50, "examples of a batch")
flags.DEFINE_float("rate", 2e-3, "learning rate")
flags.DEFINE_float("drop", 0.3, "share of the hidden units that is dropped")
flags.DEFINE_boolean("norm", True, "normalize the hidden layer over the batch")
flags.DEFINE_string("logs", os.environ.get("LOG_DIR", "logs"), "folder of the event files")
FLAGS = flags.FLAGS


def network(images, training):
    x = tf.reshape(images, [-1, 28, 28, 1])
    with tf.variable_scope("features"):
        h = tf.layers.conv2d(x, 8, 5, strides=2, padding="same", activation=tf.nn.relu)
        h = tf.layers.max_pooling2d(h, pool_size=2, strides=2)
        h = tf.layers.flatten(h)
    h = tf.layers.dense(h, 64, use_bias=not FLAGS.norm, name="hidden")
    if FLAGS.norm:
        h = tf.layers.batch_normalization(h, momentum=0.9, training=training)
    h = tf.layers.dropout(tf.nn.relu(h), FLAGS.drop, training=training)
    return tf.layers.dense(
        h, 10, kernel_initializer=tf.truncated_normal_initializer(stddev=0.05), name="logits"
    )


def main(argv):
    folder = os.path.join(FLAGS.logs, "layers")
    if tf.gfile.Exists(folder):
        tf.gfile.DeleteRecursively(folder)
    tf.gfile.MakeDirs(folder)
    tf.set_random_seed(3)
    mnist = input_data.read_data_sets("MNIST_data", one_hot=False)

    images = tf.placeholder(tf.float32, [None, 784], name="images")
    labels = tf.placeholder(tf.int32, [None], name="labels")
    training = tf.placeholder_with_default(False, [], name="training")
    with tf.device("/cpu:0"):
        logits = network(images, training)
        loss = tf.losses.sparse_softmax_cross_entropy(labels=labels, logits=logits)
        right = tf.equal(tf.argmax(logits, 1), tf.cast(labels, tf.int64))
        accuracy = tf.reduce_mean(tf.cast(right, tf.float32))
    with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
        step = tf.train.AdamOptimizer(FLAGS.rate).minimize(loss, tf.train.get_or_create_global_step())
    tf.summary.scalar("loss", loss)
    tf.summary.histogram("logits", logits)
    merged = tf.summary.merge_all()

    tf.logging.info("%d batches of %d", FLAGS.steps, FLAGS.batch)
    print(" ".join(v.op.name for v in tf.trainable_variables()))
    test = {images: mnist.test.images[:2000], labels: mnist.test.labels[:2000]}
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        writer = tf.summary.FileWriter(folder, session.graph)
        for i in range(FLAGS.steps):
            x, y = mnist.train.next_batch(FLAGS.batch)
            summary, value, _ = session.run([merged, loss, step], {images: x, labels: y, training: True})
            writer.add_summary(summary, i)
            if i % 20 == 0:
                print("step %d loss %.4f" % (i, value))
        writer.close()
        print("accuracy %.4f" % session.run(accuracy, test))
    print("files", len(tf.gfile.Glob(os.path.join(folder, "events*"))))


if __name__ == "__main__":
    tf.logging.set_verbosity(tf.logging.INFO)
    tf.app.run()
