"""The embedding projector: its messages are TensorBoard's own, and rank 0 writes its file.

TensorBoard reads the vectors from `tensor_path`, a text file with tabs; a checkpoint of a Saver's, which is
no file of TensorFlow's, it cannot read: numpy.savetxt(path, values, delimiter="\\t") writes such a text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dtrain.comm import launcher
from dtrain.errors import UsageError
from dtrain.ops.summary_proto import protos

protos()  # says what to install

from tensorboard.plugins.projector.projector_config_pb2 import (  # noqa: E402
    EmbeddingInfo,
    ProjectorConfig,
    SpriteMetadata,
)

__all__ = ["EmbeddingInfo", "ProjectorConfig", "SpriteMetadata", "visualize_embeddings"]


def visualize_embeddings(summary_writer: Any, config: Any) -> None:
    """Write projector_config.pbtxt into the folder of a FileWriter, or into one that is named.

    Raises:
        UsageError: config is no ProjectorConfig.
    """
    from google.protobuf import text_format

    if not isinstance(config, ProjectorConfig):
        raise UsageError(f"visualize_embeddings takes a ProjectorConfig, and not {config!r}.")
    folder = Path(summary_writer.get_logdir() if hasattr(summary_writer, "get_logdir") else summary_writer)
    if launcher.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "projector_config.pbtxt").write_text(text_format.MessageToString(config))
