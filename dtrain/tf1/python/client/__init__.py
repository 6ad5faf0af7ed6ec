"""dtrain.python.client: its timeline."""
