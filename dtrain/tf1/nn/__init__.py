"""Modules of tf.nn that only programs of TensorFlow 1 need; its functions are in dtrain/nn.py."""
