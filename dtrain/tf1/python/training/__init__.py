"""tensorflow.python.training: where TensorFlow keeps training; names/finder.py says what stands for its modules."""
