"""What TensorFlow 1 kept under tensorflow.examples and programs import from there."""
