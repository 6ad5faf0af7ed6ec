"""tensorflow.python.summary: where TensorFlow keeps summaries; names/finder.py says what stands for its modules."""
