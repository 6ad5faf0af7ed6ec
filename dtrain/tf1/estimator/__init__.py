"""tf.estimator: models that are trained, evaluated and asked for predictions by a few calls."""

from dtrain.names import module_getattr
from dtrain.tf1.estimator import inputs
from dtrain.tf1.estimator.canned import (
    DNNClassifier,
    DNNLinearCombinedClassifier,
    DNNLinearCombinedRegressor,
    DNNRegressor,
    LinearClassifier,
    LinearRegressor,
)
from dtrain.tf1.estimator.estimator import Estimator, train_and_evaluate
from dtrain.tf1.estimator.spec import EstimatorSpec, EvalSpec, ModeKeys, RunConfig, TrainSpec

__getattr__ = module_getattr("tf.estimator")

__all__ = [
    "DNNClassifier",
    "DNNLinearCombinedClassifier",
    "DNNLinearCombinedRegressor",
    "DNNRegressor",
    "Estimator",
    "EstimatorSpec",
    "EvalSpec",
    "LinearClassifier",
    "LinearRegressor",
    "ModeKeys",
    "RunConfig",
    "TrainSpec",
    "inputs",
    "train_and_evaluate",
]
