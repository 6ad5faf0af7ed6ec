"""What training needs around the graph: optimizers, data, report, checkpoint, and the loop itself."""

from dtrain.train.optimizers import AdamOptimizer, GradientDescentOptimizer, MomentumOptimizer, Optimizer

__all__ = ["AdamOptimizer", "GradientDescentOptimizer", "MomentumOptimizer", "Optimizer"]
