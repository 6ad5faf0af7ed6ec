"""A worker of a cluster as TensorFlow 1 had it, with moving averages, which are saved and tested."""

import os

from dtrain.examples.tutorials.mnist import input_data

import dtrain as tf

tf.flags.DEFINE_string("ps_hosts", "localhost:2222", "parameter servers")
tf.flags.DEFINE_string("worker_hosts", "localhost:2223,localhost:2224", "workers")
tf.flags.DEFINE_string("job_name", "worker", "what this task is")
tf.flags.DEFINE_integer("task_index", 0, "which of them")
tf.flags.DEFINE_string("logdir", os.environ.get("LOG_DIR", "logs"), "where checkpoints go")
FLAGS = tf.flags.FLAGS

STEPS = 80


def model(x):
    h = tf.nn.relu(tf.contrib.layers.fully_connected(x, 32, activation_fn=None, scope="hidden"))
    return tf.contrib.layers.linear(h, 10, scope="logits")


def main(_):
    cluster = tf.train.ClusterSpec({"ps": FLAGS.ps_hosts.split(","), "worker": FLAGS.worker_hosts.split(",")})
    server = tf.train.Server(cluster, job_name=FLAGS.job_name, task_index=FLAGS.task_index)
    if FLAGS.job_name == "ps":
        server.join()
    chief, workers = FLAGS.task_index == 0, cluster.num_tasks("worker")
    tf.set_random_seed(11)
    mnist = input_data.read_data_sets("MNIST_data", one_hot=True)

    worker = "/job:worker/task:%d" % FLAGS.task_index
    with tf.device(tf.train.replica_device_setter(worker_device=worker, cluster=cluster)):
        x = tf.placeholder(tf.float32, [None, 784])
        t = tf.placeholder(tf.float32, [None, 10])
        y = model(x)
        loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=t, logits=y))
        global_step = tf.train.get_or_create_global_step()
        optimizer = tf.train.SyncReplicasOptimizer(
            tf.train.GradientDescentOptimizer(0.5), replicas_to_aggregate=workers, total_num_replicas=workers
        )
        step = optimizer.minimize(loss, global_step=global_step)
        average = tf.train.ExponentialMovingAverage(0.9, global_step)
        with tf.control_dependencies([step]):
            train_op = average.apply(tf.trainable_variables())
        right = tf.reduce_mean(tf.to_float(tf.equal(tf.argmax(y, 1), tf.argmax(t, 1))))

    folder = os.path.join(FLAGS.logdir, "between")
    hooks = [optimizer.make_session_run_hook(chief), tf.train.StopAtStepHook(last_step=STEPS)]
    with tf.train.MonitoredTrainingSession(
        master=server.target,
        is_chief=chief,
        checkpoint_dir=folder,
        hooks=hooks,
        log_step_count_steps=None,
        save_summaries_steps=None,
    ) as session:
        while not session.should_stop():
            images, labels = mnist.train.next_batch(100)
            value, count, _ = session.run([loss, global_step, train_op], {x: images, t: labels})
            if count % 40 == 0:
                print("step %d loss %.4f" % (count, value))

    saver = tf.train.Saver(average.variables_to_restore())
    print(average.average_name(tf.trainable_variables()[0]))
    with tf.Session(server.target) as session:
        saver.restore(session, tf.train.latest_checkpoint(folder))
        test = {x: mnist.test.images[:2000], t: mnist.test.labels[:2000]}
        print("steps %d accuracy of the averages %.4f" % session.run((global_step, right), test))


if __name__ == "__main__":
    tf.app.run()
