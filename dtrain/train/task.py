"""What is trained, as one value: `dtrain train FILE.py` asks a file's function for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """What `dtrain train FILE.py` trains; what is left out is the command line's.

    data: ((x, y), (x_test, y_test)), arrays that all ranks have whole, a third one for the weight of each
        example; or (x, y) alone, for no test.
    model: a Keras Sequential, or a function (x, training) of graph tensors that gives the output for x
        [n, ...]; training is a scalar that is 1 in a step of training, else 0.
    loss: a name of Keras's, an object of dt.keras.losses, or a function (y_true, y_pred).
    metrics: names, objects or functions, as compile takes them.
    optimizer: a name of Keras's, or an object of dt.keras.optimizers or dt.train.
    """

    data: Any = None
    model: Any = None
    loss: Any = None
    metrics: Any = None
    optimizer: Any = None
