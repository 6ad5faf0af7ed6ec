"""tf.test: unittest for programs that test graphs, and what there is of GPUs."""

from __future__ import annotations

import tempfile
import unittest
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from dtrain.errors import EnvironmentProblem
from dtrain.graph.graph import Graph, get_default_graph, get_default_session
from dtrain.names import module_getattr
from dtrain.runtime.backend import make_backend
from dtrain.runtime.session import Session

__all__ = [
    "TestCase",
    "get_temp_dir",
    "gpu_device_name",
    "is_built_with_cuda",
    "is_gpu_available",
    "main",
]

__getattr__ = module_getattr("tf.test")

_folder: tempfile.TemporaryDirectory[str] | None = None


def main() -> None:
    """Run the tests of the program."""
    unittest.main()


def get_temp_dir() -> str:
    """A folder that is gone at the end of the program."""
    global _folder
    _folder = _folder or tempfile.TemporaryDirectory()
    return _folder.name


def is_gpu_available(cuda_only: bool = False, min_cuda_compute_capability: Any = None) -> bool:
    """Whether a session can have a GPU."""
    try:
        make_backend("gpu")
    except EnvironmentProblem:
        return False
    return True


def gpu_device_name() -> str:
    """'/device:GPU:0', or '' where there is none."""
    return "/device:GPU:0" if is_gpu_available() else ""


def is_built_with_cuda() -> bool:
    """Whether a session can have a GPU: kernels for it are compiled where it is."""
    return is_gpu_available()


class TestCase(unittest.TestCase):
    """A test with a session for each graph, and comparisons of arrays."""

    def get_temp_dir(self) -> str:
        """A folder that is gone at the end of the program."""
        return get_temp_dir()

    def test_session(
        self, graph: Graph | None = None, config: Any = None, use_gpu: bool = False, force_gpu: bool = False
    ) -> AbstractContextManager[Session]:
        """`with` a new session as the default one; on which device is the session's matter."""
        if self.id().endswith(".test_session"):
            self.skipTest("it is named as a test, and is none")
        return Session(graph=graph or get_default_graph(), config=config)

    session = cached_session = test_session

    def evaluate(self, tensors: Any) -> Any:
        """Values in the default session."""
        return get_default_session().run(tensors)

    def assertAllEqual(self, a: Any, b: Any) -> None:
        """The same shape and values."""
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

    def assertAllClose(self, a: Any, b: Any, rtol: float = 1e-6, atol: float = 1e-6, msg: str = "") -> None:
        """The same shape, and values that differ by rounding."""
        self.assertEqual(np.shape(a), np.shape(b), msg)
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol, atol, err_msg=msg)

    def assertNear(self, f1: float, f2: float, err: float, msg: str | None = None) -> None:
        """Two numbers within err of one another."""
        self.assertLessEqual(abs(f1 - f2), err, msg)

    def assertShapeEqual(self, np_array: Any, tf_tensor: Any) -> None:
        """An array of the tensor's shape."""
        self.assertEqual(list(np_array.shape), tf_tensor.shape.as_list())
