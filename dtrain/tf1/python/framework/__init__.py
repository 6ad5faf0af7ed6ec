"""tensorflow.python.framework: names/finder.py says what stands for its modules."""
