"""W in PyTorch: eager, with the fused Adam, through a DataLoader, and DistributedDataParallel over gloo."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import torch
from contest import LAYERS, LEARNING_RATE, Contest
from torch import nn


def network(contest: Contest) -> nn.Module:
    layers: list[nn.Module] = []
    for (kernel, _), inputs, units in zip(contest.weights(), LAYERS[:-1], LAYERS[1:], strict=True):
        linear = nn.Linear(inputs, units)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(kernel.T))
            linear.bias.zero_()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Trainer:
    """The usual step; loss is that of the last one."""

    def __init__(self, net: nn.Module, fused: bool) -> None:
        self.net = net
        self.optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE, fused=fused or None)
        self.criterion = nn.CrossEntropyLoss()
        self.loss = torch.zeros(())

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.criterion(self.net(images), labels)
        loss.backward()
        self.optimizer.step()
        self.loss = loss.detach()


def from_memory(contest: Contest, trainer: Trainer, rank: int = 0, size: int = 1) -> None:
    """Batches picked from tensors in memory; of each, this process takes its share."""
    images, labels = torch.from_numpy(contest.images), torch.from_numpy(contest.labels).long()

    def step(chosen: torch.Tensor) -> None:
        trainer.step(images.index_select(0, chosen), labels.index_select(0, chosen))

    def batches(order: object) -> list[torch.Tensor]:
        parts = torch.from_numpy(order).split(contest.batch)
        return [part.tensor_split(size)[rank] for part in parts]

    contest.train(step, lambda: trainer.loss.item(), batches)


def from_loader(contest: Contest, trainer: Trainer) -> None:
    """Batches from torch.utils.data's loader, in the process itself."""
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.from_numpy(contest.images), torch.from_numpy(contest.labels).long())
    loader = DataLoader(data, batch_size=contest.batch, shuffle=True)
    for epoch in range(contest.epochs):
        begun = time.perf_counter()
        for i, (images, labels) in enumerate(loader):
            trainer.step(images, labels)
            if epoch == i == 0:
                contest.first_step()
        contest.epoch(trainer.loss.item(), time.perf_counter() - begun)


def distributed(contest: Contest, fused: bool) -> None:
    """Two processes, each on its half of every batch; the first starts the second."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    meeting = os.environ.get("PEERS_MEETING")
    rank, other = (1, None) if meeting else (0, None)
    if rank == 0:
        meeting = os.path.join(tempfile.mkdtemp(), "meeting")
        other = subprocess.Popen(
            [sys.executable, *sys.argv],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PEERS_MEETING": meeting},
        )
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    net = network(contest)
    trainer = Trainer(DistributedDataParallel(net, gradient_as_bucket_view=True), fused)
    from_memory(contest, trainer, rank, 2)
    dist.destroy_process_group()
    if other is not None:
        other.wait()
        tested(contest, net)


def tested(contest: Contest, net: nn.Module) -> None:
    with torch.no_grad():
        contest.test(lambda images: net(torch.from_numpy(images)).numpy())


contest = Contest("eager", "fused", "loader", "ddp", "ddp-fused")
torch.set_num_threads(contest.threads)
torch.manual_seed(0)
if contest.variant.startswith("ddp"):
    distributed(contest, contest.variant == "ddp-fused")
else:
    net = network(contest)
    trainer = Trainer(net, fused=contest.variant == "fused")
    (from_loader if contest.variant == "loader" else from_memory)(contest, trainer)
    tested(contest, net)
