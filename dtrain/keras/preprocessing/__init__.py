"""dt.keras.preprocessing: images drawn anew for each epoch, sequences of one length, texts as numbers."""

from dtrain.keras.preprocessing import image, sequence, text
from dtrain.names import module_getattr

__all__ = ["image", "sequence", "text"]

__getattr__ = module_getattr("tf.keras.preprocessing")
