"""The step on one GPU, beside PyTorch's, with the bars that it is to reach.

    python benchmarks/gpu [--torch PYTHON] [--rounds 3] [--epochs 2] [--out benchmarks/results]

Epochs of the mlp (Adam) at a batch of 100, 1,000 and 8,192 and of the cnn at 100 and 1,000, by `dtrain
train` and by PyTorch eager, as CUDA graphs (torch.compile, reduce-overhead) and with each step one CUDA
graph, update included, everything on the device in all. They take turns; each is a process that starts anew
and whose first epoch does not count. Then what a step is made of (inside.py), and whether 2 and 4 ranks that
share the GPU come to the loss of one.
DTRAIN_DATA names MNIST. Needs no network; what is not installed is left out, and told. --device cpu tries
the script itself where there is no GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

#: Model and batch; and the bars: PyTorch's seconds over dtrain's, at least.
CASES = (("mlp", 100), ("mlp", 1000), ("mlp", 8192), ("cnn", 100), ("cnn", 1000))
RIVALS = ("eager", "graph", "whole")
BARS = {("mlp", "eager"): 5.0, ("mlp", "graph"): 1.5, ("mlp", "whole"): 1.5}
BARS |= {("cnn", who): 1 / 1.3 for who in RIVALS}
#: Ranks that share the GPU, and how far their loss may be from that of one.
SHARING, NEAR = (2, 4), 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--torch", default=sys.executable, help="a Python that has PyTorch (default: this one)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2, help="that count, in each round")
    parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"))
    parser.add_argument("--only", default="", help="cases to run, such as mlp-100,cnn-1000 (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    cases = [c for c in CASES if not options.only or f"{c[0]}-{c[1]}" in options.only.split(",")]
    with tempfile.TemporaryDirectory(prefix="gpu-") as name:
        bench = Bench(Path(name), options)
        report = bench.report(cases)
    report["command"] = " ".join(["python benchmarks/gpu", *_without_paths(sys.argv[1:])])
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{datetime.date.today()}-gpu.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    text = table(report)
    path.with_suffix(".md").write_text(text)
    print(text)
    print(f"written to {path} and {path.with_suffix('.md')}")


class Bench:
    """Runs contenders in a folder that holds the data for those that are not dtrain."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.left_out: list[str] = []
        self.environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        self._runs = 0

    def report(self, cases: list[tuple[str, int]]) -> dict[str, Any]:
        from dtrain import info
        from dtrain.comm.single import SingleCommunicator
        from dtrain.data import load

        data = load("mnist", SingleCommunicator())
        train = slice(data.train.start, data.train.stop)
        np.save(self.folder / "train_images.npy", data.x[train].reshape(-1, 784))
        np.save(self.folder / "train_labels.npy", data.y[train])
        torch = self.torch_version()
        epochs = self.epochs(cases, torch != "")
        return {
            "date": str(datetime.datetime.now().replace(microsecond=0)),
            "environment": info.environment(),
            "gpu": info.gpu(),
            "torch": torch,
            "rounds": self.options.rounds,
            "epochs": [{"model": m, "batch": b, "who": w, "seconds": s} for (m, b, w), s in epochs.items()],
            "inside": self.inside([b for m, b in cases if m == "mlp"]),
            "sharing": self.sharing(),
            "left_out": self.left_out,
        }

    def torch_version(self) -> str:
        program = "import torch; print(torch.__version__, torch.version.cuda)"
        done = subprocess.run([self.options.torch, "-c", program], capture_output=True, text=True)
        if done.returncode:
            self.left_out.append(f"PyTorch: {self.options.torch} has none")
        return done.stdout.strip()

    def epochs(self, cases: list[tuple[str, int]], torch: bool) -> dict[tuple[str, int, str], list[float]]:
        """Seconds of each epoch that counts, of all contenders in turn."""
        found: dict[tuple[str, int, str], list[float]] = {}
        for _ in range(self.options.rounds):
            for model, batch in cases:
                for who in ("dtrain", *(RIVALS if torch else ())):
                    seconds = [e["seconds"] for e in self.run(self.command(who, model, batch))][1:]
                    found.setdefault((model, batch, who), []).extend(seconds)
                    print(f"{model} {batch} {who}: {' '.join(f'{s:.3f}' for s in seconds)}", flush=True)
        return {key: seconds for key, seconds in found.items() if seconds}

    def command(self, who: str, model: str, batch: int, ranks: int = 1) -> list[str]:
        count = 1 + self.options.epochs
        if who != "dtrain":
            device = "cuda" if self.options.device == "gpu" else "cpu"
            words = ["--data", self.folder, "--batch", batch, "--epochs", count, "--device", device]
            return [self.options.torch, str(HERE / "with_torch.py"), who, model, *map(str, words)]
        self._runs += 1
        words = ["--model", model, "--batch-size", batch, "--epochs", count, "--device", self.options.device]
        words += ["--run-dir", self.folder / f"run{self._runs}", "--log-format", "json", "--no-tensorboard"]
        if ranks > 1 and self.options.device == "gpu":
            words.append("--share-gpu")
        launch = [str(self.mpirun()), "-n", str(ranks)] if ranks > 1 else []
        return [*launch, sys.executable, "-m", "dtrain", "train", *map(str, words)]

    @staticmethod
    def mpirun() -> str | None:
        beside = Path(sys.executable).with_name("mpirun")
        return str(beside) if beside.exists() else shutil.which("mpirun")

    def run(self, command: list[str]) -> list[dict[str, Any]]:
        """The epochs that a run told of; none, with why among what was left out, where it failed."""
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment, cwd=self.folder, timeout=600
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            self.left_out.append(
                f"{' '.join(_without_paths(command[1:]))}: exit code {done.returncode}: {last}"
            )
            return []
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == "epoch"]

    def inside(self, batches: list[int]) -> list[dict[str, Any]]:
        if self.options.device != "gpu" or not batches:
            return []
        command = [sys.executable, str(HERE / "inside.py"), *map(str, batches)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=600)
        if done.returncode:
            self.left_out.append(f"inside.py: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def sharing(self) -> list[dict[str, Any]]:
        """Losses of each epoch, of 1 rank and of several on the same GPU."""
        found = []
        if self.mpirun() is None:
            self.left_out.append("ranks that share the GPU: there is no mpirun")
            return []
        for ranks in (1, *SHARING):
            losses = [e["loss"] for e in self.run(self.command("dtrain", "mlp", 100, ranks))]
            if losses:
                found.append({"ranks": ranks, "losses": losses})
        return found


def _without_paths(words: list[str]) -> list[str]:
    return [Path(w).name if os.sep in w else w for w in words]


def table(report: dict[str, Any]) -> str:
    """The report as Markdown: epochs and ratios with their bars, what a step is made of, sharing."""
    gpu = ", ".join(f"{k} {v}" for k, v in report["gpu"].items() if v)
    lines = [
        f"# The step on a GPU, {report['date'][:10]}",
        "",
        f"- {gpu}",
        f"- PyTorch {report['torch'] or 'none'}",
    ]
    lines += [f"- {k}: {v}" for k, v in report["environment"].items()]
    lines += [f"- `{report['command']}`, {report['rounds']} rounds in turns", ""]
    medians = {(e["model"], e["batch"], e["who"]): statistics.median(e["seconds"]) for e in report["epochs"]}
    lines.append("| model, batch | dtrain, s an epoch |" + "".join(f" PyTorch {w} | ratio |" for w in RIVALS))
    lines.append("|---|---|" + "---|---|" * len(RIVALS))
    for model, batch in dict.fromkeys((m, b) for m, b, _ in medians):
        own = medians.get((model, batch, "dtrain"))
        row = [f"{model}, {batch:,}", f"{own:.4f}" if own else "-"]
        for who in RIVALS:
            theirs = medians.get((model, batch, who))
            row.append(f"{theirs:.4f}" if theirs else "-")
            row.append(verdict(theirs / own, BARS[model, who]) if own and theirs else "-")
        lines.append(f"| {' | '.join(row)} |")
    if report["inside"]:
        keys = list(dict.fromkeys(k for facts in report["inside"] for k in facts))
        lines += ["", f"| {' | '.join(keys)} |", "|" + "---|" * len(keys)]
        for facts in report["inside"]:
            shown = (facts.get(k, "-") for k in keys)
            lines.append(f"| {' | '.join(f'{v:.3f}' if isinstance(v, float) else str(v) for v in shown)} |")
    if report["sharing"]:
        alone = report["sharing"][0]["losses"]
        lines += [
            "",
            "| ranks on this GPU | loss of each epoch | largest difference from one rank |",
            "|---|---|---|",
        ]
        for entry in report["sharing"]:
            far = max(abs(a - b) for a, b in zip(alone, entry["losses"], strict=True))
            losses = " ".join(f"{v:.6f}" for v in entry["losses"])
            met = "met" if far <= NEAR else "MISSED"
            lines.append(f"| {entry['ranks']} | {losses} | {far:.2e} (<= {NEAR:g} {met}) |")
    lines += ["", *(f"- left out: {text}" for text in report["left_out"])]
    return "\n".join(lines).rstrip() + "\n"


def verdict(ratio: float, bar: float) -> str:
    return f"{ratio:.2f} (>= {bar:.2g} {'met' if ratio >= bar else 'MISSED'})"


if __name__ == "__main__":
    main()
