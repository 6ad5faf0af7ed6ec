"""Kernels in CUDA, and what runs them. Nothing here imports CuPy: the backend has it."""
