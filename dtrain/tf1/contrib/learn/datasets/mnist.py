"""tf.contrib.learn.datasets.mnist: MNIST in batches."""

from __future__ import annotations

from dtrain.tf1.examples.tutorials.mnist.sets import DataSet, DataSets, read_data_sets

__all__ = ["DataSet", "DataSets", "load_mnist", "read_data_sets"]


def load_mnist(train_dir: str = "MNIST-data") -> DataSets:
    """read_data_sets(train_dir)."""
    return read_data_sets(train_dir)
