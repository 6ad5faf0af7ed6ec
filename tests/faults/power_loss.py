"""Loss of power while checkpoints are saved, on an ext4 file system that is shut down under the writer.

A child process saves checkpoint after checkpoint on a loop-mounted ext4 and says when each is committed. At a
moment drawn at random the file system is shut down by ext4's own ioctl, without flushing its journal or data:
what was not synced is gone. After a new mount the newest checkpoint that loads must be the one that was said
to be committed last, or a later one, whole. Needs root, mkfs.ext4 and a loop device; says what was refused.

    python tests/faults/power_loss.py [--cuts 50] [--options data=ordered]
"""

from __future__ import annotations

import argparse
import fcntl
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dtrain.errors import CheckpointError
from dtrain.train import checkpoint

EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
NO_LOG_FLUSH = 2
VALUES = 20_000


def value(step: int) -> np.ndarray:
    return np.random.default_rng(step).random(VALUES, np.float32)


def write(run: Path, first: int) -> None:
    """Save steps from the first on until the file system ends."""
    step = first
    while True:
        checkpoint.save(run, step, {"v": value(step)}, {"about": step})
        os.write(1, f"{step}\n".encode())
        checkpoint.prune(run, step, keep=2)
        step += 1


def cut(run: Path, first: int, seconds: float) -> int:
    """Save for some seconds, then cut the power; the last step that was committed, as far as it was said."""
    child = subprocess.Popen(
        [sys.executable, __file__, "--write", str(run), str(first)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    said = child.stdout.readline()
    time.sleep(seconds)
    folder = os.open(run, os.O_RDONLY)
    fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    os.close(folder)
    child.wait(30)  # by the error that its next call got
    return int([said, *child.stdout.read().splitlines()][-1])


def command(*words: object) -> None:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"refused: {' '.join(map(str, words))}: {done.stderr.strip()}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--options", default="data=ordered", help="mount options")
    parser.add_argument("--write", nargs=2, metavar=("RUN", "STEP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(Path(options.write[0]), int(options.write[1]))
    random = np.random.default_rng(0)
    lost = later = damaged = step = 0
    with tempfile.TemporaryDirectory() as name:
        image, mounted = Path(name, "image"), Path(name, "mounted")
        image.write_bytes(b"")
        os.truncate(image, 32 << 20)
        mounted.mkdir()
        command("mkfs.ext4", "-q", "-F", image)
        for _ in range(options.cuts):
            command("mount", "-o", f"loop,{options.options}", image, mounted)
            try:
                committed = cut(mounted, step + 1, random.uniform(0, 0.1))
            finally:
                command("umount", mounted)
            command("mount", "-o", f"loop,{options.options}", image, mounted)
            try:
                found = checkpoint.load(mounted)
                whole = (found.values["v"] == value(found.step)).all() and found.manifest[
                    "about"
                ] == found.step
                lost += found.step < committed or not whole
                later += found.step > committed
                damaged += len(found.damaged)
                step = found.step
            except CheckpointError as error:
                print(f"step {committed} was committed, and {error}")
                lost += 1
            finally:
                command("umount", mounted)
    print(f"{options.cuts} cuts ({options.options}), {lost} losses, {step} steps saved")
    print(f"at {later} a later one than said was there; {damaged} half-written ones were passed over")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
