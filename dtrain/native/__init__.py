"""Kernels in C: made from the plan, compiled once by the machine's own compiler, kept on disk."""
