"""model.json: what the model of a recorded fit is made of, so that others can ask it without the program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtrain.errors import CheckpointError, DtrainError, UsageError
from dtrain.files import read_regular
from dtrain.keras import saving
from dtrain.keras.names import as_data

if TYPE_CHECKING:
    from dtrain.keras.models import Model, Sequential

FILE = "model.json"
#: Bytes that such a file may have.
MOST_BYTES = 8 << 20


def keep(model: Model, folder: Path) -> None:
    """Write the layers and what compile() settled into a run's folder, if they have a plain form. Collective.

    Raises:
        EnvironmentProblem: it cannot be written.
    """
    try:
        described = saving.about(model)
        text = json.dumps(described)
    except (UsageError, TypeError):  # of a layer of the program's own: only the program can make it
        return
    try:
        text = json.dumps(described | {"compile": as_data(model.compiled.config)})
    except (UsageError, TypeError):
        pass
    with model.comm.together():
        model.rank_zero.writes(folder / FILE, text.encode())


def rebuilt(folder: Path, **options: Any) -> Sequential:
    """The model that a run's folder describes, with new weights. Collective.

    It is compiled where its loss is dtrain's. options: comm and device, as Sequential takes them.

    Raises, on every rank:
        CheckpointError: the folder does not describe it, or a layer is the program's own.
    """
    comm = options["comm"]
    with comm.together():
        try:
            text = read_regular(folder / FILE, MOST_BYTES).decode()
            model = saving.model_from_json(text, **options)
            settled = json.loads(text).get("compile")
        except FileNotFoundError:
            raise CheckpointError(
                f"{folder} does not say what its model is made of, since a layer is the program's own, or an "
                "older dtrain recorded it: start that program, and give its model the run's parameters by "
                f"load_weights({str(folder)!r})."
            ) from None
        except DtrainError as error:
            raise CheckpointError(
                f"{folder}: its model cannot be made without its program: {error} In the program, its model "
                f"takes the run's parameters by load_weights({str(folder)!r})."
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{folder / FILE} cannot be read: {error}.") from None
    model.build()
    model.initialize()
    if settled is not None:
        try:
            model.compile(**settled)
        except (UsageError, TypeError):  # a loss of the program's own: it predicts all the same
            model._compiled = None
    return model
