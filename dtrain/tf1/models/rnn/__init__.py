"""Recurrent nets under the path that they had before TensorFlow 1.0."""
