"""tf.compat: v1 is dtrain itself."""

from dtrain.tf1.compat import v1

__all__ = ["v1"]
