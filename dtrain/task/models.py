"""The models that `dtrain train` knows, written as a user writes one for --model FILE.py:function.

Each takes examples x [n, numbers], float32, and a scalar that is 1 while training and 0 otherwise; and, as a
file's function need not, the shape of an example and how many numbers to give for it.
"""

from __future__ import annotations

from math import prod, sqrt
from typing import Any

import dtrain as dt
from dtrain.errors import UsageError
from dtrain.keras.layers import Dense, Dropout, Flatten, Reshape

Shape = tuple[int, ...]


def he(shape: Shape, dtype: Any = "float32") -> dt.Tensor:
    """He's initialisation (He et al. 2015), for a kernel [..., inputs, outputs] before a ReLU."""
    return dt.truncated_normal(shape, stddev=sqrt(2 / prod(shape[:-1])), dtype=dtype)


def conv(x: dt.Tensor, size: int, channels: int, name: str) -> dt.Tensor:
    """A convolution, 2x2 max pooling and ReLU: [n, h, w, inputs] -> [n, h/2, w/2, channels]."""
    with dt.name_scope(name):
        kernel = dt.Variable(he((size, size, x.shape[3].value, channels)), name="kernel")
        bias = dt.Variable(dt.zeros([channels]), name="bias")
        y = dt.nn.conv2d(x, kernel, strides=[1, 1, 1, 1], padding="SAME")
        # bias and ReLU keep the order of values, so after pooling they do the same to a quarter of them
        return dt.nn.relu(dt.nn.max_pool(y, [1, 2, 2, 1], [1, 2, 2, 1], "SAME") + bias)


def logistic(x: dt.Tensor, training: dt.Tensor, shape: Shape, outputs: int) -> dt.Tensor:
    """One layer: for classes multinomial logistic regression, for numbers a linear one."""
    return Dense(outputs, kernel_initializer=he, name="logits")(x)


def mlp(x: dt.Tensor, training: dt.Tensor, shape: Shape, outputs: int) -> dt.Tensor:
    """Two layers of 256 with ReLU, and the outputs."""
    x = Dense(256, "relu", kernel_initializer=he, name="hidden_1")(x)
    x = Dense(256, "relu", kernel_initializer=he, name="hidden_2")(x)
    return Dense(outputs, kernel_initializer=he, name="logits")(x)


def cnn(x: dt.Tensor, training: dt.Tensor, shape: Shape, outputs: int) -> dt.Tensor:
    """Two 5x5 convolutions, of 32 and 64 channels, each pooled 2x2; 1024 with dropout 1/2; the outputs.

    Raises:
        UsageError: the examples are no images [h, w] or [h, w, channels] of at least 4 x 4.
    """
    if len(shape) not in (2, 3) or min(shape[:2]) < 4:
        raise UsageError(
            f"--model cnn takes images, [height, width] or [height, width, channels], of at least 4 x 4, and "
            f"the data has examples of shape {list(shape)}: use --model mlp, or one of your own."
        )
    x = Reshape((*shape, 1)[:3])(x)
    x = conv(x, 5, 32, "conv_1")
    x = conv(x, 5, 64, "conv_2")
    x = Dense(1024, "relu", kernel_initializer=he, name="hidden")(Flatten()(x))
    x = Dropout(0.5, name="dropout")(x, training)
    return Dense(outputs, kernel_initializer=he, name="logits")(x)


MODELS = {"logistic": logistic, "mlp": mlp, "cnn": cnn}
