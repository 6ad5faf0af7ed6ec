"""tf.contrib.tensorboard: the projector's configuration."""

__all__: list[str] = []
