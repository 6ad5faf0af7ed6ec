"""What is trained, as one value: `dtrain train FILE.py` asks a file's function for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """What `dtrain train FILE.py` trains; what is left out comes from the command line.

    Args:
        data: ((x, y), (x_test, y_test)), arrays that every rank has whole, each pair with a third array for
            the weight of each example; or (x, y) alone, for no test. x and y may each be several arrays, as a
            dict by name.
        model: a Keras Sequential, or a function (x, training) that returns the output for x [n, ...], a
            tensor of the array's dtype (float64 becomes float32), or a dict of them; training is a scalar
            that is 1 in a step of training, else 0. The output is a tensor [n, ...] or a dict of them.
        loss: a name of Keras's, an object of dt.keras.losses, or a function (y_true, y_pred) that returns a
            number for each example. For several outputs a dict of such losses by name, whose sum is minimized
            (each compares with y[name], or with y where y is one array), or a function of the two dicts. By
            default it follows from y: softmax cross entropy for integers [n], sigmoid cross entropy for bytes
            or booleans [n, k] that are 0 or 1, else the mean squared error.
        metrics: names, objects or functions, as compile takes them; or a dict of lists by the names of
            losses. By default those of the default loss.
        optimizer: a name of Keras's, an object of dt.keras.optimizers or dt.train, or a function that takes
            the mean loss (where loss is a dict, a dict of the means) and returns the op of a step, such as a
            group of the minimize() of several optimizers, each with its var_list.
    """

    data: Any = None
    model: Any = None
    loss: Any = None
    metrics: Any = None
    optimizer: Any = None
