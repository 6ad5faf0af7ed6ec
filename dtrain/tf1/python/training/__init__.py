"""tensorflow.python.training: names/finder.py says what stands for its modules."""
