"""Tags of saved models."""

__all__ = ["GPU", "SERVING", "TPU", "TRAINING"]

SERVING, TRAINING, GPU, TPU = "serve", "train", "gpu", "tpu"
