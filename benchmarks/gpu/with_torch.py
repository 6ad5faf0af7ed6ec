"""W and the cnn in PyTorch on one device, everything on it: eager, compiled into CUDA graphs, or one graph.

    python with_torch.py eager|graph|whole mlp|cnn --data FOLDER --batch B --epochs N --device cuda|cpu

graph is torch.compile(mode="reduce-overhead"), which replays CUDA graphs of both passes and leaves the update
eager. whole is one torch.cuda.CUDAGraph of a step, update included; the last, shorter batch is eager. Adam is
fused in all. The cnn's images and weights have channels last. Prints JSON lines: the seconds of each epoch,
of which the first compiles, and the loss of its last step.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn() -> nn.Module:
    """That of dtrain/train/models.py."""

    def conv(inputs: int, channels: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, channels, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()]

    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        *conv(1, 32),
        *conv(32, 64),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 1024),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(1024, 10),
    )


def captured(
    step: Callable[[torch.Tensor], torch.Tensor], batch: int, device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A step as one graph; it is taken some times before, on a stream aside, as capturing wants it."""
    chosen = torch.zeros(batch, dtype=torch.int64, device=device)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step(chosen)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(chosen)

    def replay(rows: torch.Tensor) -> torch.Tensor:
        chosen.copy_(rows)
        graph.replay()
        return loss

    return replay


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("variant", choices=("eager", "graph", "whole"))
    parser.add_argument("model", choices=("mlp", "cnn"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--device", required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(options.device)
    # float32 products are float32, as dtrain's are unless --precision says otherwise
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    images, labels = (
        torch.from_numpy(np.load(os.path.join(options.data, f"train_{part}.npy"))).to(device)
        for part in ("images", "labels")
    )
    labels = labels.long()
    net = {"mlp": mlp, "cnn": cnn}[options.model]().to(device)
    if options.model == "cnn":
        net = net.to(memory_format=torch.channels_last)
    on_gpu = device.type == "cuda"
    optimizer = torch.optim.Adam(net.parameters(), 0.001, capturable=on_gpu, fused=on_gpu)
    criterion = nn.CrossEntropyLoss()

    def loss_of(chosen: torch.Tensor) -> torch.Tensor:
        x = images.index_select(0, chosen).to(torch.float32) * (1 / 255)
        return criterion(net(x), labels.index_select(0, chosen))

    if options.variant == "graph":
        loss_of = torch.compile(loss_of, mode="reduce-overhead")

    def step(chosen: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(chosen)
        loss.backward()
        optimizer.step()
        return loss.detach()

    whole = captured(step, options.batch, device) if options.variant == "whole" and on_gpu else None

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(options.epochs):
        order = torch.randperm(len(images), device=device)
        wait()
        begun = time.perf_counter()
        for chosen in order.split(options.batch):
            if options.variant == "graph":
                torch.compiler.cudagraph_mark_step_begin()
            loss = whole(chosen) if whole and len(chosen) == options.batch else step(chosen)
        last = loss.item()
        print(
            json.dumps({"event": "epoch", "seconds": time.perf_counter() - begun, "loss": last}), flush=True
        )


main()
