"""ConfigProto: TensorFlow 1's session options, each with what it means here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from dtrain.errors import UsageError


class _Options:
    """Keyword arguments as attributes; a name that is not known is an error."""

    known: ClassVar[dict[str, Any]] = {}

    def __init__(self, **options: Any) -> None:
        for name in options:
            self._check(name)
        for name, default in self.known.items():
            object.__setattr__(
                self, name, options.get(name, default() if isinstance(default, type) else default)
            )

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def _check(self, name: str) -> None:
        if name not in self.known:
            kind = type(self).__name__
            raise UsageError(f"{kind} has no option {name!r} in dtrain; it has {', '.join(self.known)}.")

    def __setattr__(self, name: str, value: Any) -> None:
        self._check(name)
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.known)
        return f"{type(self).__name__}({shown})"


class GPUOptions(_Options):
    """TensorFlow 1's options for GPUs and their memory, accepted without effect.

    A session allocates the memory that a plan needs, and each rank uses the GPU of its local rank.

    Args:
        options: any of TensorFlow 1's.
    """

    known: ClassVar[dict[str, Any]] = {
        "allow_growth": False,
        "per_process_gpu_memory_fraction": 0.0,
        "allocator_type": "",
        "deferred_deletion_bytes": 0,
        "force_gpu_compatible": False,
        "visible_device_list": "",
    }


class OptimizerOptions(_Options):
    """How TensorFlow 1 rewrites graphs. A plan is compiled in one way, so none of it changes anything."""

    L1, L0 = 0, -1
    DEFAULT, OFF, ON_1, ON_2 = 0, -1, 1, 2
    known: ClassVar[dict[str, Any]] = {
        "do_common_subexpression_elimination": False,
        "do_constant_folding": False,
        "do_function_inlining": False,
        "global_jit_level": 0,
        "opt_level": 0,
    }


class GraphOptions(_Options):
    """OptimizerOptions, and others that change nothing either."""

    known: ClassVar[dict[str, Any]] = {
        "optimizer_options": OptimizerOptions,
        "build_cost_model": 0,
        "infer_shapes": False,
        "place_pruned_graph": False,
    }


class ConfigProto(_Options):
    """Options of a Session.

    Args:
        options: any of these, and no effect of TensorFlow 1's inter_op_parallelism_threads,
            use_per_session_threads, allow_soft_placement, log_device_placement, gpu_options, graph_options
            and device_filters, since a session runs on one device, one operation after the other.

    Attributes:
        device_count: {"GPU": 0} keeps the session on the CPU, whatever device= says.
        intra_op_parallelism_threads: threads of the linear algebra library in this process; 0 leaves them.
        check_numerics: whether a run that updates parameters checks its loss and gradients first. True: a NaN
            or an infinity raises errors.NumericError on every rank, which names the op that made it first,
            and nothing is updated. "warn": a warning, once, when a parameter or the loss becomes one. False
            does not check. An option of dtrain alone.
        check_replicas_every: each so many runs that update parameters the ranks' copies of all variables are
            compared; errors.ReplicaError names the first that differs. 0 for never. An option of dtrain
            alone.
        bitwise: whether every value is the same bits on any number of ranks, 1 included: docs/bitwise.md. It
            needs kernels in C, and no GPU. An option of dtrain alone.

    Raises:
        UsageError: any other option is given.
    """

    known: ClassVar[dict[str, Any]] = {
        "device_count": dict,
        "intra_op_parallelism_threads": 0,
        "inter_op_parallelism_threads": 0,
        "allow_soft_placement": False,
        "log_device_placement": False,
        "use_per_session_threads": False,
        "gpu_options": GPUOptions,
        "graph_options": GraphOptions,
        "device_filters": list,
        "check_numerics": "warn",
        "check_replicas_every": 0,
        "bitwise": False,
    }

    def apply(self, device: Any) -> Any:
        """The device that the session is to use; sets the number of threads."""
        threads = self.intra_op_parallelism_threads
        if threads > 0:
            from threadpoolctl import threadpool_limits

            threadpool_limits(limits=threads, user_api="blas")
        on_cpu = self.device_count.get("GPU") == 0
        return "cpu" if on_cpu and isinstance(device, str) else device


class RunOptions(_Options):
    """Options of one Session.run.

    Args:
        options: trace_level: NO_TRACE, or a higher level, which records the run.
    """

    NO_TRACE, SOFTWARE_TRACE, HARDWARE_TRACE, FULL_TRACE = range(4)
    known: ClassVar[dict[str, Any]] = {"trace_level": 0}


class RunMetadata:
    """What Session.run records of a run with a trace_level: step_stats, for timeline.Timeline."""

    step_stats: Any = None
