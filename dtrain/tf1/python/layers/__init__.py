"""tensorflow.python.layers: where TensorFlow keeps layers; names/finder.py says what stands for its modules."""
