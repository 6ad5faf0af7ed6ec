"""The linear algebra library of this process, and whether its environment holds it below the processor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: What a processor can do, the widest first: the name, the flags that say so, OpenBLAS's kernels that use it.
VECTORS = (
    (
        "AVX-512",
        {"avx512f", "avx512dq", "avx512bw", "avx512vl"},
        {"skylakex", "cooperlake", "sapphirerapids"},
    ),
    ("AVX2", {"avx2", "fma"}, {"haswell", "zen"}),
)

#: Names as their makers write them.
LIBRARIES = {"openblas": "OpenBLAS", "mkl": "MKL", "blis": "BLIS", "flexiblas": "FlexiBLAS"}


def blas() -> list[dict[str, Any]]:
    """What threadpoolctl knows of the BLAS libraries that are loaded; takes about 4 ms at first."""
    from threadpoolctl import threadpool_info

    return [library for library in threadpool_info() if library["user_api"] == "blas"]


def blas_text() -> str:
    """Library, kernel and threads: 'OpenBLAS 0.3.31, SkylakeX kernel, 1 thread'."""
    return "; ".join(map(_text, blas())) or "not one that threadpoolctl knows"


def _text(library: dict[str, Any]) -> str:
    name = LIBRARIES.get(library["internal_api"], library["internal_api"])
    kernel = f", {library['architecture']} kernel" if "architecture" in library else ""
    threads = library["num_threads"]
    return f"{name} {library['version']}{kernel}, {threads} {'thread' if threads == 1 else 'threads'}"


def held_back() -> list[str]:
    """A sentence for each variable that holds the BLAS of this process below what the processor can do."""
    if not {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"} & set(os.environ):
        return []
    kernel = next((library.get("architecture", "") for library in blas()), "")
    flags = set(_cpuinfo("flags").split())  # none on macOS and on other processors than x86
    return list(filter(None, (by_kernel(kernel, flags, os.environ), by_cache(_l2(), os.environ))))


def by_kernel(kernel: str, flags: set[str], environ: Mapping[str, str]) -> str:
    """What OPENBLAS_CORETYPE costs: '' where it is not set, or the kernel has the processor's widest vectors.

    kernel: OpenBLAS's name of it; flags: the processor's, as /proc/cpuinfo has them.
    """
    chosen = environ.get("OPENBLAS_CORETYPE")
    vectors = next((v for v in VECTORS if v[1] <= flags), None)
    if not chosen or not kernel or vectors is None or kernel.lower() in vectors[2]:
        return ""
    return (
        f"OPENBLAS_CORETYPE={chosen} holds the BLAS to the {kernel} kernel on a processor with {vectors[0]}: "
        "matrix products may take twice as long. Unset it."
    )


def by_cache(l2: int, environ: Mapping[str, str]) -> str:
    """What OPENBLAS_L2_SIZE costs: '' where it is not set, or no less than l2, the processor's own, in kB."""
    chosen = environ.get("OPENBLAS_L2_SIZE", "")
    if not chosen.isdigit() or not 0 < int(chosen) < l2:
        return ""
    return (
        f"OPENBLAS_L2_SIZE={chosen} makes the BLAS work in pieces for a smaller L2 cache than this "
        f"processor's {l2} kB. Unset it."
    )


def processor() -> str:
    """The processor's name."""
    import platform

    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(name: str) -> str:
    """What /proc/cpuinfo says of the first core; '' where it does not."""
    try:
        with open("/proc/cpuinfo") as lines:  # read no further than needed: it may be long, and slow to make
            return next(line.partition(":")[2].strip() for line in lines if line.startswith(name))
    except (OSError, StopIteration):
        return ""


def _l2() -> int:
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
    except OSError:
        return 0
    return int(text[:-1]) if text.endswith("K") and text[:-1].isdigit() else 0
