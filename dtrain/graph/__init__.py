"""The dataflow graph: operations, tensors, names. Imports nothing of dtrain but errors."""
