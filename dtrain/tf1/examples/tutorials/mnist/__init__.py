"""dtrain.examples.tutorials.mnist: its input_data."""

from dtrain.tf1.examples.tutorials.mnist import input_data

__all__ = ["input_data"]
