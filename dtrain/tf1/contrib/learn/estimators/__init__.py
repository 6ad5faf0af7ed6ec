"""tf.contrib.learn.estimators, by the paths that programs import from."""

from dtrain.tf1.contrib.learn.estimators import estimator, model_fn, run_config

__all__ = ["estimator", "model_fn", "run_config"]
