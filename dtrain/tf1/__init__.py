"""What only programs written for TensorFlow 1 need, laid out as TensorFlow 1 is.

A module here answers to its path under dtrain: dtrain/tf1/contrib/rnn.py to `from dtrain.contrib import rnn`
and to `tf.contrib.rnn`. `import dtrain` loads none of it, and no other room imports it. See dtrain/names.
"""
