"""tf.contrib.learn.learn_runner: runs experiments."""

from dtrain.tf1.contrib.learn.experiment import run

__all__ = ["run"]
