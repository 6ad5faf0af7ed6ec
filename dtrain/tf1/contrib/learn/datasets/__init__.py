"""tf.contrib.learn.datasets: MNIST, and tables in CSV files."""

from __future__ import annotations

from typing import Any

from dtrain.errors import NotSupportedError
from dtrain.tf1.contrib.learn.datasets import base, mnist

__all__ = ["base", "load_dataset", "mnist"]


def load_dataset(name: str, size: Any = None, test_with_fake_data: bool = False) -> Any:
    """The data set 'mnist'; others came with TensorFlow, and are read from files by base.load_csv_*."""
    if name != "mnist":
        raise NotSupportedError(
            f"load_dataset({name!r}): dtrain has 'mnist'; read a CSV file with "
            "learn.datasets.base.load_csv_with_header."
        )
    return mnist.load_mnist()
