"""tensorflow.python.client.device_lib: the devices that a session can be on."""

from __future__ import annotations

from dataclasses import dataclass

from dtrain.tf1.test import gpu_device_name

__all__ = ["DeviceAttributes", "list_local_devices"]


@dataclass
class DeviceAttributes:
    """A device by its name, /device:CPU:0 or /device:GPU:0."""

    name: str
    device_type: str
    memory_limit: int = 0
    physical_device_desc: str = ""


def list_local_devices(session_config: object = None) -> list[DeviceAttributes]:
    """The CPU and, where there is one that a session may take, a GPU."""
    gpu = gpu_device_name()
    return [DeviceAttributes("/device:CPU:0", "CPU"), *([DeviceAttributes(gpu, "GPU")] if gpu else [])]
