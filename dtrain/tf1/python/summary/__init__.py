"""tensorflow.python.summary: names/finder.py says what stands for its modules."""
