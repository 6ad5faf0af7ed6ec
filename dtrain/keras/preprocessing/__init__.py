"""dt.keras.preprocessing: images drawn anew for each epoch, sequences of one length, texts as numbers."""

from dtrain.compat import module_getattr
from dtrain.keras.preprocessing import image, sequence, text

__all__ = ["image", "sequence", "text"]

__getattr__ = module_getattr("tf.keras.preprocessing")
