"""Branches and loops under the path of TensorFlow's own module."""

from dtrain.ops.control import tuple
from dtrain.ops.state import group, no_op
from dtrain.tf1.control_flow import case, cond, while_loop

__all__ = ["case", "cond", "group", "no_op", "tuple", "while_loop"]
