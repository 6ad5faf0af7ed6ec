"""Serialised summaries and graphs, in TensorBoard's own protocol buffers, which are imported when used."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from dtrain.errors import EnvironmentProblem, InvalidArgumentError
from dtrain.graph.dtypes import DType
from dtrain.graph.graph_def import GraphDef
from dtrain.hints import pip_install
from dtrain.ops.base import Value


@cache
def protos() -> Any:
    """The modules of messages.

    Raises:
        EnvironmentProblem: TensorBoard is not installed.
    """
    try:
        from tensorboard.compat import proto
        from tensorboard.compat.proto import event_pb2, graph_pb2, summary_pb2, types_pb2
    except ImportError as error:
        raise EnvironmentProblem(
            f"summaries are written with TensorBoard's own library, and it cannot be imported ({error}): "
            f"{pip_install('dtrain[tensorboard]')}"
        ) from None
    assert event_pb2 and graph_pb2 and summary_pb2 and types_pb2
    return proto


def scalar(tag: str, value: float) -> bytes:
    """A number."""
    return _summary(tag=tag, simple_value=float(value))


def scalars(values: Mapping[str, float]) -> Any:
    """Numbers by their tags, as a Summary message."""
    pb = protos().summary_pb2
    return pb.Summary(value=[pb.Summary.Value(tag=t, simple_value=v) for t, v in values.items()])


@cache
def _limits() -> np.ndarray:
    """Upper ends of TensorFlow 1's buckets: each 1.1 times the one before, on both sides of 0."""
    count = int(np.ceil(np.log(1e32) / np.log(1.1)))
    ends = 1e-12 * 1.1 ** np.arange(count)
    most = [sys.float_info.max]
    return np.concatenate([np.negative(most), -ends[::-1], [0.0], ends, most])


def histogram(tag: str, values: np.ndarray) -> bytes:
    """How often values lie in each bucket, with their extremes, sum and sum of squares.

    Raises:
        InvalidArgumentError: a value is not finite.
    """
    # sorted in its own dtype, so that each limit is looked up among the values and not each value among them
    flat = np.sort(values, axis=None).astype(np.float64)
    if not np.isfinite(flat).all():
        raise InvalidArgumentError(f"Nan in summary histogram for: {tag}. A value is NaN or infinite.")
    limits = _limits()
    counts = np.diff(np.searchsorted(flat, limits[:-1]), prepend=0, append=flat.size)
    kept = (counts > 0) | (np.append(counts[1:], 1) > 0)  # of a run of empty buckets only the last
    histo = protos().summary_pb2.HistogramProto(
        min=flat[0] if flat.size else 0.0,
        max=flat[-1] if flat.size else 0.0,
        num=flat.size,
        sum=flat.sum(),
        sum_squares=np.square(flat).sum(),
        bucket_limit=limits[kept].tolist(),
        bucket=counts[kept].tolist(),
    )
    return _summary(tag=tag, histo=histo)


def images(tag: str, batch: np.ndarray, max_outputs: int) -> bytes:
    """The first images [height, width, channels] of a batch, as PNG.

    uint8 is taken as it is; floats are scaled, each image by itself, so that 0 is black and the largest 255,
    or, where some are negative, 0 is 128 and the farthest from it 1 or 255. What is not finite counts as 0.
    """
    from PIL import Image

    pb = protos().summary_pb2
    shown = batch[:max_outputs]
    values = []
    for i, image in enumerate(shown):
        height, width, channels = image.shape
        pixels = image if image.dtype == np.uint8 else _bytes_of(image)
        file = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(file, "PNG")
        encoded = pb.Summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=file.getvalue()
        )
        name = f"{tag}/image" if max_outputs == 1 else f"{tag}/image/{i}"
        values.append(pb.Summary.Value(tag=name, image=encoded))
    return pb.Summary(value=values).SerializeToString()


def _bytes_of(image: np.ndarray) -> np.ndarray:
    image = np.where(np.isfinite(image), image, 0).astype(np.float64)
    low, high = float(image.min(initial=0)), float(image.max(initial=0))
    if low < 0:
        most = max(-low, high)
        return (image * (127.0 / most) + 128).clip(0, 255).astype(np.uint8)
    return (image * (255.0 / high if high else 0.0)).astype(np.uint8)


def text(tag: str, lines: Sequence[bytes], shape: Sequence[int]) -> bytes:
    """Strings, which TensorBoard shows as Markdown."""
    from tensorboard.compat.proto import tensor_pb2, tensor_shape_pb2

    pb = protos()
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=n) for n in shape]
    tensor = tensor_pb2.TensorProto(
        dtype=pb.types_pb2.DT_STRING,
        string_val=lines,
        tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=dims),
    )
    plugin = pb.summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
    return _summary(tag=tag, tensor=tensor, metadata=pb.summary_pb2.SummaryMetadata(plugin_data=plugin))


def hyperparameters(values: Mapping[str, Any], metrics: Mapping[str, str]) -> Any:
    """What was chosen for a run, for TensorBoard's table of runs: a Summary message to write at its start.

    values: texts and numbers by name; metrics: tags of the run's scalars, and what to call them in the table.
    """
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    infos = []
    for name, value in values.items():
        if isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
        kind = api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64
        infos.append(api_pb2.HParamInfo(name=name, type=kind))
    experiment = api_pb2.Experiment(
        time_created_secs=time.time(),
        hparam_infos=infos,
        metric_infos=[
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=name)
            for tag, name in metrics.items()
        ],
    )
    summary = protos().summary_pb2.Summary()
    for tag, data in (
        (metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment)),
        (metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start)),
    ):
        _add_hparams(summary, tag, data)
    return summary


def hyperparameters_done() -> Any:
    """That the run of hyperparameters() has come to its end, as a Summary message."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    summary = protos().summary_pb2.Summary()
    data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
    _add_hparams(summary, metadata.SESSION_END_INFO_TAG, data)
    return summary


def restart(step: int) -> Any:
    """An Event by which TensorBoard forgets what was written of this step and later ones before."""
    pb = protos().event_pb2
    return pb.Event(wall_time=time.time(), step=step, session_log=pb.SessionLog(status=pb.SessionLog.START))


def _add_hparams(summary: Any, tag: str, data: Any) -> None:
    from tensorboard.plugins.hparams import metadata

    about = metadata.create_summary_metadata(data)
    summary.value.add(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)


def merge(parts: Iterable[bytes]) -> bytes:
    """Several summaries as one."""
    merged = protos().summary_pb2.Summary()
    for part in parts:
        merged.MergeFromString(part)
    return merged.SerializeToString()


def _summary(**value: Any) -> bytes:
    pb = protos().summary_pb2
    return pb.Summary(value=[pb.Summary.Value(**value)]).SerializeToString()


def graph(definition: GraphDef) -> bytes:
    """A graph as TensorBoard shows it: names, ops, inputs, and the outputs' dtypes and shapes."""
    from tensorboard.compat.proto import attr_value_pb2, node_def_pb2, tensor_shape_pb2, versions_pb2

    pb, nodes = protos(), []
    for node in definition.node:
        shapes = []
        for shape in node.attr["_output_shapes"]:
            dims = None if shape.dims is None else [-1 if d is None else d for d in shape.dims]
            shapes.append(
                tensor_shape_pb2.TensorShapeProto(
                    unknown_rank=dims is None,
                    dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=d) for d in dims or ()],
                )
            )
        lists = attr_value_pb2.AttrValue.ListValue(shape=shapes)
        attr = {"_output_shapes": attr_value_pb2.AttrValue(list=lists)}
        for key, value in node.attr.items():
            if not key.startswith("_"):
                attr[key] = attr_value_pb2.AttrValue(**_attribute(value))
        nodes.append(node_def_pb2.NodeDef(name=node.name, op=node.op, input=node.input, attr=attr))
    versions = versions_pb2.VersionDef(producer=27)
    return pb.graph_pb2.GraphDef(node=nodes, versions=versions).SerializeToString()


def run_metadata(trace: Iterable[dict[str, Any]]) -> bytes:
    """The kernels of a trace in Chrome's format as a RunMetadata: when each ran, and how long."""
    from tensorboard.compat.proto import config_pb2, step_stats_pb2

    nodes = []
    for event in trace:
        if event["ph"] == "X" and event["tid"] == 1:
            ran = max(round(event["dur"]), 1)
            nodes.append(
                step_stats_pb2.NodeExecStats(
                    node_name=event["name"],
                    all_start_micros=round(event["ts"]),
                    op_end_rel_micros=ran,
                    all_end_rel_micros=ran,
                    timeline_label=f"{event['name']} = {event['args'].get('op', '')}",
                )
            )
    device = step_stats_pb2.DeviceStepStats(
        device="/job:localhost/replica:0/task:0/device:CPU:0", node_stats=nodes
    )
    stats = step_stats_pb2.StepStats(dev_stats=[device])
    return config_pb2.RunMetadata(step_stats=stats).SerializeToString()


#: TensorFlow's names of the dtypes whose name there is not ours in capitals.
_TYPE_NAMES = {"float16": "DT_HALF", "float32": "DT_FLOAT", "float64": "DT_DOUBLE"}


def _attribute(value: Any) -> dict[str, Any]:
    """The field of AttrValue for an op's attribute."""
    if isinstance(value, DType):
        name = _TYPE_NAMES.get(value.name, f"DT_{value.name.upper()}")
        return {"type": getattr(protos().types_pb2, name)}
    if isinstance(value, bool):
        return {"b": value}
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return {"i": value}
    if isinstance(value, float):
        return {"f": value}
    if isinstance(value, Value):  # a constant's repr has a digest of all of it
        return {"s": np.array2string(value.array, threshold=6).encode()}
    return {"s": str(value).encode()}
