"""The models that `dtrain train` knows, written as a user would write them."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import dtrain as dt


def dense(
    x: dt.Tensor, units: int, name: str, activation: Callable[..., dt.Tensor] | None = None
) -> dt.Tensor:
    """A fully connected layer: [n, inputs] -> [n, units]; He's initialisation (He et al. 2015)."""
    inputs = x.shape[1]
    with dt.name_scope(name):
        kernel = dt.Variable(dt.truncated_normal([inputs, units], stddev=sqrt(2 / inputs)), name="kernel")
        bias = dt.Variable(dt.zeros([units]), name="bias")
        y = dt.matmul(x, kernel) + bias
        return activation(y) if activation else y


def conv(x: dt.Tensor, size: int, channels: int, name: str) -> dt.Tensor:
    """A convolution, 2x2 max pooling and ReLU: [n, h, w, inputs] -> [n, h/2, w/2, channels]."""
    inputs = x.shape[3]
    with dt.name_scope(name):
        stddev = sqrt(2 / (size * size * inputs))
        kernel = dt.Variable(
            dt.truncated_normal([size, size, inputs, channels], stddev=stddev), name="kernel"
        )
        bias = dt.Variable(dt.zeros([channels]), name="bias")
        y = dt.nn.conv2d(x, kernel, strides=[1, 1, 1, 1], padding="SAME")
        # bias and ReLU keep the order of values, so after pooling they do the same to a quarter of them
        return dt.nn.relu(dt.nn.max_pool(y, [1, 2, 2, 1], [1, 2, 2, 1], "SAME") + bias)


def logistic(x: dt.Tensor, training: dt.Tensor) -> dt.Tensor:
    """784-10: multinomial logistic regression; returns the logits."""
    return dense(x, 10, "logits")


def mlp(x: dt.Tensor, training: dt.Tensor) -> dt.Tensor:
    """784-256-256-10 with ReLU; returns the logits."""
    x = dense(x, 256, "hidden_1", dt.nn.relu)
    x = dense(x, 256, "hidden_2", dt.nn.relu)
    return dense(x, 10, "logits")


def cnn(x: dt.Tensor, training: dt.Tensor) -> dt.Tensor:
    """Two 5x5 convolutions, of 32 and 64 channels, each pooled 2x2; 1024 with dropout 1/2; 10; the logits."""
    x = dt.reshape(x, [-1, 28, 28, 1])
    x = conv(x, 5, 32, "conv_1")
    x = conv(x, 5, 64, "conv_2")
    x = dense(dt.reshape(x, [-1, 7 * 7 * 64]), 1024, "hidden", dt.nn.relu)
    x = dt.nn.dropout(x, rate=0.5 * training, name="dropout")
    return dense(x, 10, "logits")


#: Each takes the images [n, pixels] and a scalar that is 1 while training and 0 otherwise.
MODELS = {"logistic": logistic, "mlp": mlp, "cnn": cnn}
