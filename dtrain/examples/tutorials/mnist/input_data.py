"""MNIST in batches, as tensorflow.examples.tutorials.mnist.input_data hands it out.

    from dtrain.examples.tutorials.mnist import input_data
    mnist = input_data.read_data_sets("/tmp/data/", one_hot=True)
    batch_x, batch_y = mnist.train.next_batch(128)

On several ranks every rank holds all examples and gets the same batches. They are marked as batches
(runtime/batch), so that a session gives each rank its share of the rows: the program stays as it is.
"""

from dtrain.examples.tutorials.mnist.sets import DataSet, DataSets, read_data_sets

__all__ = ["DataSet", "DataSets", "read_data_sets"]
