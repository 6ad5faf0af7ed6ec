"""tensorflow.python.platform: where TensorFlow keeps flags, files, logging; names/finder.py says what stands for its modules."""
