"""Kernels in CUDA, and what runs them. Only gpus.py and nvrtc.py import CuPy, where they are asked to."""
