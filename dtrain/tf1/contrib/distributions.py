"""tf.contrib.distributions: tf.distributions, under its first path."""

from dtrain.names import module_getattr
from dtrain.tf1.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    MultivariateNormalDiag,
    Normal,
    Uniform,
    kl_divergence,
)

__all__ = [
    "Bernoulli",
    "Categorical",
    "Distribution",
    "MultivariateNormalDiag",
    "Normal",
    "Uniform",
    "kl_divergence",
]

__getattr__ = module_getattr("tf.contrib.distributions")
