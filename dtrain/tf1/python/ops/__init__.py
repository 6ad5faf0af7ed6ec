"""tensorflow.python.ops: names/finder.py says what stands for its modules."""
