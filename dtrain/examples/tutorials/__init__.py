"""dtrain.examples.tutorials"""
