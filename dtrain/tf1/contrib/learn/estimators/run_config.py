"""tf.contrib.learn's RunConfig by its path, and what it calls a job's tasks: all of mpirun's ranks."""

from __future__ import annotations

from dtrain.tf1.estimator.spec import RunConfig

__all__ = ["Environment", "RunConfig", "TaskType"]


class Environment:
    """Where a job runs, for cluster managers of TensorFlow's; no rank asks."""

    LOCAL, CLOUD, GOOGLE = "local", "cloud", "google"


class TaskType:
    """Names of TensorFlow's tasks."""

    MASTER, PS, WORKER = "master", "ps", "worker"
