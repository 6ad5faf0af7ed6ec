"""W, or a network of convolutions, in PyTorch.

Eager, with the fused Adam, through a DataLoader, and DistributedDataParallel over gloo.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from contest import LEARNING_RATE, Contest
from torch import nn


def network(contest: Contest) -> nn.Module:
    """Images and kernels lie channels last; what is flattened has another order than elsewhere."""
    layers: list[nn.Module] = []
    weights, flat = iter(contest.weights()), contest.images.ndim == 2
    for kind, *how in contest.layers:
        if kind == "pool":
            layers.append(nn.MaxPool2d(2))
        elif kind == "dropout":
            layers.append(nn.Dropout(how[0]))
        else:
            kernel, _ = next(weights)
            if kind == "conv":
                layer: Any = nn.Conv2d(kernel.shape[2], kernel.shape[3], how[0], padding=how[2])
            else:
                if not flat:
                    layers.append(nn.Flatten())
                    flat = True
                layer = nn.Linear(*kernel.shape)
            with torch.no_grad():
                layer.weight.copy_(
                    torch.from_numpy(kernel.transpose((3, 2, 0, 1) if kind == "conv" else (1, 0)))
                )
                layer.bias.zero_()
            layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(memory_format=torch.channels_last)


def as_torch(images: np.ndarray) -> torch.Tensor:
    """Images [n, height, width, channels] as PyTorch numbers axes; they stay as they are in memory."""
    tensor = torch.from_numpy(images)
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


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
    images, labels = as_torch(contest.images), torch.from_numpy(contest.labels).long()

    def step(chosen: torch.Tensor) -> None:
        trainer.step(images.index_select(0, chosen), labels.index_select(0, chosen))

    def batches(order: object) -> list[torch.Tensor]:
        parts = torch.from_numpy(order).split(contest.batch)
        return [part.tensor_split(size)[rank] for part in parts]

    contest.train(step, lambda: trainer.loss.item(), batches)


def from_loader(contest: Contest, trainer: Trainer) -> None:
    """Batches from torch.utils.data's loader, in the process itself."""
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(as_torch(contest.images), torch.from_numpy(contest.labels).long())
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
    net.eval()
    with torch.no_grad():
        contest.test(lambda images: net(as_torch(images)).numpy())


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
