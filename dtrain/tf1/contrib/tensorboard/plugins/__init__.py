"""Plugins of TensorBoard that need a file of their own."""

__all__: list[str] = []
