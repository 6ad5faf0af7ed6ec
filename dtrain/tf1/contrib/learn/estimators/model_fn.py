"""tf.contrib.learn.estimators.model_fn."""

from dtrain.tf1.contrib.learn.estimator import ModeKeys, ModelFnOps

__all__ = ["ModeKeys", "ModelFnOps"]
