"""dtrain.examples.tutorials.mnist: its data, and the network of its tutorial."""

from dtrain.tf1.examples.tutorials.mnist import input_data, mnist

__all__ = ["input_data", "mnist"]
