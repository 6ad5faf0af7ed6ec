"""Run programs one after the other, each rank printing into files: all_of_them.py FOLDER PROGRAM.py ..."""

import contextlib
import json
import os
import runpy
import sys
from pathlib import Path

import dtrain as dt
from dtrain.comm import launcher


def run(program: str) -> None:
    """A program, or the cells of a notebook, in a graph of its own."""
    dt.reset_default_graph()
    dt.set_random_seed(0)
    if not program.endswith(".ipynb"):
        runpy.run_path(program, run_name="__main__")
        return
    names: dict = {"__name__": "__main__"}
    for cell in json.loads(Path(program).read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    print(f"alone {names['alone']:.6f} together {names['together']:.6f}")


if __name__ == "__main__":
    folder, *programs = sys.argv[1:]
    os.environ["LOG_DIR"] = folder
    for program in programs:
        with (
            open(Path(folder, f"{Path(program).stem}-{launcher.rank()}"), "w") as file,
            contextlib.redirect_stdout(file),
        ):
            run(program)
