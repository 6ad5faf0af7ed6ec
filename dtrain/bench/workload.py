"""The step that the parts measure: the trainer's own, of the mlp with Adam, on examples drawn at random."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import dtrain as dt
from dtrain.comm.base import Communicator
from dtrain.data import Dataset
from dtrain.data.order import epoch_order
from dtrain.runtime.feeds import Shard
from dtrain.runtime.plan import Plan
from dtrain.task.network import TRAINING, build
from dtrain.task.trainer import make_optimizer
from dtrain.train.batches import batches

EXAMPLES = 60_000
#: The share of MNIST's pixels that are not black.
LIT = 0.19
#: Those of W, the global batches that all parts look at.
BATCHES = (100, 1000)


class Workload:
    """A session on the graph of `dtrain train` whose steps are taken one by one; collective to make."""

    def __init__(self, comm: Communicator) -> None:
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (EXAMPLES, 28, 28), np.uint8)
        images *= random.random(images.shape, np.float32) < LIT  # what is zero costs a product less
        labels = random.integers(0, 10, EXAMPLES, np.uint8)
        examples = range(EXAMPLES)
        data = Dataset("random", "generated", "", images, labels, examples, classes=tuple("0123456789"))
        graph = dt.Graph()
        graph.seed = 0
        with graph.as_default():
            network = build("mlp", data)
            minimize = make_optimizer("adam", 0.001).minimize(network.loss)
            initialize = dt.global_variables_initializer()
        self.comm = comm
        self._session = dt.Session(graph=graph, comm=comm)
        self._session.run(initialize)
        network.lend(self._session)
        feeds = [network.indices, network.training]
        self._step = self._session.make_callable([network.loss, *network.sums, minimize], feeds)
        self._order = epoch_order(0, 1, examples)

    def batches(self, batch_size: int) -> Iterator[Shard]:
        """This rank's share of each batch of an epoch."""
        return batches(self._order, batch_size, self.comm)

    def step(self, shard: Shard) -> None:
        """Train on a batch."""
        self._step(shard, TRAINING)

    def plan(self) -> Plan:
        """The plan of the last step."""
        return list(self._session.plans.values())[-1]
