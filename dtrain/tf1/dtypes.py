"""tf.dtypes: types by their newer path; names/late.py says which."""

from dtrain.names import module_getattr

__all__: list[str] = []

__getattr__ = module_getattr("tf.dtypes")
