"""tensorflow.python.ops: where TensorFlow keeps operations; names/finder.py says what stands for its modules."""
