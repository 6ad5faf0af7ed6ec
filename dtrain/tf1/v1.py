"""Switches of tensorflow.compat.v1 between TensorFlow 1 and 2: here everything is TensorFlow 1."""

#: The version of TensorFlow whose names these are.
VERSION = "1.12.0"
#: What it was built of and by: these are no builds of TensorFlow's.
GIT_VERSION = COMPILER_VERSION = "unknown"


def disable_v2_behavior() -> None:
    """Changes nothing: there is no other behaviour."""


def disable_eager_execution() -> None:
    """Changes nothing: graphs are always built first."""


def disable_v2_tensorshape() -> None:
    """Changes nothing: a size of a shape has a value, as in TensorFlow 1."""


def disable_resource_variables() -> None:
    """Changes nothing: a variable that is read before an assignment has its former value, in either kind."""
