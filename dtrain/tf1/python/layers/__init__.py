"""tensorflow.python.layers: names/finder.py says what stands for its modules."""
