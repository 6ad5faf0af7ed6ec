"""tensorflow.python.framework: where TensorFlow keeps graphs, dtypes, errors; names/finder.py says what stands for its modules."""
