"""tf.saved_model: graphs with their values, in folders of dtrain's own format."""

from dtrain.names import module_getattr
from dtrain.tf1.saved_model import (
    builder,
    loader,
    signature_constants,
    signature_def_utils,
    tag_constants,
    utils,
)
from dtrain.tf1.saved_model.simple import simple_save

__all__ = [
    "builder",
    "loader",
    "signature_constants",
    "signature_def_utils",
    "simple_save",
    "tag_constants",
    "utils",
]

__getattr__ = module_getattr("tf.saved_model")
