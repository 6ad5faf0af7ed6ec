"""Paths of TensorFlow's own modules that programs import."""
