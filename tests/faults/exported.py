"""Exported networks in ONNX Runtime beside dtrain, and both beside float64: whose logits are nearer?

    python tests/faults/exported.py [MODEL ...]

trains logistic, mlp and cnn on MNIST (five epochs, cnn one), exports them, and asks both for the logits of
the 10,000 test images; float64 is NumPy with the same parameters, of the cnn for 2,000 of them. Needs onnx
and onnxruntime; RESULTS.md has the last run. It ends with 1 where a class differs, or the exported network is
more than twice as far from float64 as dtrain is.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view

from dtrain.comm import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.task import trainer
from dtrain.task.exported import export
from dtrain.task.saved import open_saved

PIECE, FEW = 1000, 2000


def dense(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]


def conv(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    """5x5, pooled 2x2, ReLU: [n, h, w, c] -> [n, h/2, w/2, k]."""
    kernel = w[f"{name}/kernel"]
    seen = sliding_window_view(np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))), (5, 5), (1, 2))
    y = np.tensordot(seen, kernel, ([4, 5, 3], [0, 1, 2]))
    n, high, wide, channels = y.shape
    y = y.reshape(n, high // 2, 2, wide // 2, 2, channels).max((2, 4))
    return np.maximum(y + w[f"{name}/bias"], 0)


def exact(model: str, x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    """The logits in float64."""
    y = x.reshape(len(x), -1).astype(np.float64) * np.float64(np.float32(1 / 255))
    if model == "cnn":
        y = conv(conv(y.reshape(-1, 28, 28, 1), w, "conv_1"), w, "conv_2").reshape(len(x), -1)
    for name in {"logistic": (), "mlp": ("hidden_1", "hidden_2"), "cnn": ("hidden",)}[model]:
        y = np.maximum(dense(y, w, name), 0)
    return dense(y, w, "logits")


def compared(model: str, folder: Path) -> tuple[str, bool]:
    alone, run = SingleCommunicator(), str(folder / model)
    trainer.train(
        TrainConfig(model=model, epochs=1 if model == "cnn" else 5, run_dir=run, tensorboard="off"), alone
    )
    saved = open_saved(run, alone, {})
    assert saved.data is not None
    export(saved, f"{run}.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(f"{run}.onnx", options, providers=["CPUExecutionProvider"])
    ask = saved.session.make_callable([saved.results[0].output], [*saved.inputs.values(), *saved.fixed])
    x = saved.data.x[saved.data.part("test")[:]]
    pieces = [x[at : at + PIECE] for at in range(0, len(x), PIECE)]
    ours = np.concatenate([np.asarray(ask(piece, *saved.fixed.values())[0]) for piece in pieces])
    onnx = np.concatenate([session.run(None, {"x": piece})[0] for piece in pieces])
    weights = {name: value.astype(np.float64) for name, value in saved.values().items()}
    few = len(x) if model != "cnn" else FEW
    right = np.concatenate([exact(model, x[at : at + 200], weights) for at in range(0, few, 200)])

    def apart(a: Any, b: Any) -> float:
        return float(np.abs(a - b).max())

    same = int((ours.argmax(1) == onnx.argmax(1)).sum())
    spans = apart(ours, onnx), apart(ours[:few], right), apart(onnx[:few], right)
    cells = " | ".join(f"{span:.1e}" for span in spans)
    line = f"| {model} | {np.abs(ours).max():.1f} | {cells} | {same:,} of {len(x):,} |"
    return line, same == len(x) and spans[2] <= 2 * spans[1]


def main() -> int:
    columns = "dtrain to ONNX Runtime | dtrain to float64 | ONNX Runtime to float64 | same class"
    print(f"| model | largest logit | {columns} |\n|---|---|---|---|---|---|", flush=True)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for model in sys.argv[1:] or ("logistic", "mlp", "cnn"):
            line, well = compared(model, Path(folder))
            print(line, flush=True)
            good = good and well
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
