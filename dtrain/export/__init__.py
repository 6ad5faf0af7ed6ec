"""A trained network for other programs: as it is in a test, parameters inside, as an ONNX file."""
