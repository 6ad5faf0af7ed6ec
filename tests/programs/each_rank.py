"""Run a program, each rank printing into a file of its own: each_rank.py PROGRAM.py FOLDER.

The seed is 0 unless the program sets another.
"""

import contextlib
import runpy
import sys
from pathlib import Path

import dtrain as tf
from dtrain.comm import launcher

if __name__ == "__main__":
    program, folder = sys.argv[1:]
    with open(Path(folder, f"rank{launcher.rank()}"), "w") as file, contextlib.redirect_stdout(file):
        tf.set_random_seed(0)
        runpy.run_path(program, run_name="__main__")
