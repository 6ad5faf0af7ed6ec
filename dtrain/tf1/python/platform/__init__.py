"""tensorflow.python.platform: names/finder.py says what stands for its modules."""
