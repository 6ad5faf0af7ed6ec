"""Run a program of this folder, each rank printing into a file of its own: each_rank.py PROGRAM FOLDER.

The seed is 0 unless the program sets another.
"""

import contextlib
import runpy
import sys
from pathlib import Path

import dtrain as tf
from dtrain.comm import launcher

if __name__ == "__main__":
    name, folder = sys.argv[1:]
    with open(Path(folder, f"rank{launcher.rank()}"), "w") as file, contextlib.redirect_stdout(file):
        tf.set_random_seed(0)
        runpy.run_path(str(Path(__file__).with_name(f"{name}.py")), run_name="__main__")
