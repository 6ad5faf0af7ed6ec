"""tf.contrib.learn: estimators that are fitted with arrays, on tf.estimator."""

from dtrain.names import module_getattr
from dtrain.tf1.contrib.learn import datasets, learn_runner
from dtrain.tf1.contrib.learn.canned import (
    DNNClassifier,
    DNNRegressor,
    LinearClassifier,
    LinearRegressor,
    infer_real_valued_columns_from_input,
)
from dtrain.tf1.contrib.learn.estimator import (
    Estimator,
    MetricSpec,
    ModeKeys,
    ModelFnOps,
    RunConfig,
    SKCompat,
)
from dtrain.tf1.contrib.learn.experiment import Experiment

__getattr__ = module_getattr("tf.contrib.learn")

__all__ = [
    "DNNClassifier",
    "DNNRegressor",
    "Estimator",
    "Experiment",
    "LinearClassifier",
    "LinearRegressor",
    "MetricSpec",
    "ModeKeys",
    "ModelFnOps",
    "RunConfig",
    "SKCompat",
    "datasets",
    "infer_real_valued_columns_from_input",
    "learn_runner",
]
