"""Paths of TensorFlow's models before 1.0."""
