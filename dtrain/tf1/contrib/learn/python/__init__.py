"""tensorflow.contrib.learn.python, whose `learn` is tf.contrib.learn."""
