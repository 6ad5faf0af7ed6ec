"""The network that tensorflow.examples.tutorials.mnist.mnist builds: two hidden layers, by parts.

logits = mnist.inference(images, hidden1_units=128, hidden2_units=32)
step = mnist.training(mnist.loss(logits, labels), learning_rate=0.01)
"""

from __future__ import annotations

import math
from typing import Any

from dtrain.graph.graph import Operation, Tensor, name_scope
from dtrain.ops.array import zeros
from dtrain.ops.linalg import matmul
from dtrain.ops.loss import sparse_softmax_cross_entropy_with_logits
from dtrain.ops.math import add, cast
from dtrain.ops.nn import relu
from dtrain.ops.random import truncated_normal
from dtrain.ops.reduce import reduce_mean, reduce_sum
from dtrain.ops.state import Variable
from dtrain.ops.summary import scalar
from dtrain.ops.topk import in_top_k
from dtrain.train.optimizers import GradientDescentOptimizer

__all__ = ["IMAGE_PIXELS", "IMAGE_SIZE", "NUM_CLASSES", "evaluation", "inference", "loss", "training"]

NUM_CLASSES, IMAGE_SIZE = 10, 28
IMAGE_PIXELS = IMAGE_SIZE * IMAGE_SIZE


def inference(images: Any, hidden1_units: int, hidden2_units: int) -> Tensor:
    """Logits [n, NUM_CLASSES] of images [n, IMAGE_PIXELS]."""
    h = images
    sizes = [IMAGE_PIXELS, hidden1_units, hidden2_units, NUM_CLASSES]
    for scope, inputs, outputs in zip(
        ("hidden1", "hidden2", "softmax_linear"), sizes, sizes[1:], strict=False
    ):
        with name_scope(scope):
            start = truncated_normal([inputs, outputs], stddev=1.0 / math.sqrt(inputs))
            weights = Variable(start, name="weights")
            biases = Variable(zeros([outputs]), name="biases")
            h = add(matmul(h, weights), biases)
            h = h if scope == "softmax_linear" else relu(h)
    return h


def loss(logits: Any, labels: Any) -> Tensor:
    """The mean cross entropy; labels [n] are classes."""
    each = sparse_softmax_cross_entropy_with_logits(labels=cast(labels, "int64"), logits=logits)
    return reduce_mean(each, name="xentropy_mean")


def training(loss: Tensor, learning_rate: Any) -> Operation:
    """A step of gradient descent, which counts in the variable global_step; a summary of the loss."""
    scalar("loss", loss)
    global_step = Variable(0, name="global_step", trainable=False)
    return GradientDescentOptimizer(learning_rate).minimize(loss, global_step=global_step)


def evaluation(logits: Any, labels: Any) -> Tensor:
    """How many of the examples are classified right, an int32 scalar."""
    return reduce_sum(cast(in_top_k(logits, labels, 1), "int32"))
