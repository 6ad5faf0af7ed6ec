"""tf.contrib.learn.estimators.estimator."""

from dtrain.tf1.contrib.learn.estimator import Estimator, SKCompat

__all__ = ["Estimator", "SKCompat"]
