"""The options of a training run: said once here, for flags, DTRAIN_* variables and TOML files.

flag > variable > file > default.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from dtrain import choices
from dtrain.choices import (
    AVERAGES,
    DEVICES,
    KERNELS,
    LOG_FORMATS,
    MODELS,
    OPTIMIZERS,
    PRECISIONS,
    SWITCH,
)
from dtrain.errors import CheckpointError, UsageError
from dtrain.files import read_regular

#: Bytes of a TOML file, at most: no options are longer, and a key a.a.a... takes time and memory by its
#: square: 1.2 s and 300 MB.
MOST_BYTES = 1 << 14

#: Variables that are not options: read by the data search, launch/, the report and the tests.
OTHER_VARIABLES = (
    "DTRAIN_DATA",
    "DTRAIN_LAB",
    "DTRAIN_MPIRUN",
    "DTRAIN_OWN_GPU",
    "DTRAIN_POISON",
    "DTRAIN_TERMINAL",
    "DTRAIN_VENV",
)


#: What --augment does to an image, and how many pixels are usual.
AUGMENTS = {"shift": 2, "flip": 0, "crop": 4, "cutout": 8}
MOST_PIXELS = 1 << 12
Augmentation = tuple[str, int]


def option(
    default: Any, help: str, words: tuple[str, ...] = (), metavar: str = "", bare: str | None = None
) -> Any:
    """A field of TrainConfig with what its flag needs.

    words: the values that it may have, by default any. bare: what the flag means without a value.
    """
    metadata = {"help": help, "choices": words, "metavar": metavar, "bare": bare}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """All options of `dtrain train`, checked; the run directory keeps them as config.toml.

    Raises:
        UsageError: an invalid value, naming the option.
    """

    task: str = option(
        "",
        "a file that describes what is trained: its function, by default task(), returns dt.Task(...)",
        metavar="FILE.py[:FUNCTION]",
    )
    model: str = option(
        "mlp",
        "logistic is one layer, mlp two of 256 with ReLU before it, cnn two convolutions and one of 1024; or "
        "your own",
        MODELS,
        metavar="logistic|mlp|cnn|FILE.py:FUNCTION",
    )
    model_digest: str = option(
        "",
        "refuse FILE.py of --model where its SHA-256 is another; a run's config.toml has that of its own",
        metavar="SHA256",
    )
    dataset: str = option(
        "auto",
        "auto (MNIST, or generated digits where there is none), mnist, fashion-mnist, kmnist, cifar10, "
        "cifar100, synthetic; a folder of IDX files, of images in a folder a class, of CIFAR's binary "
        "files, or one that `dtrain data import` wrote; an .npz, .csv, .parquet or .arrow file; or "
        "x.npy,y.npy",
        metavar="NAME|FILE|DIR",
    )
    label: str = option(
        "",
        "the target column of a table, or several with commas between; after a colon its kind, where that is "
        "not plain: price:numbers (or classes, labels)",
        metavar="COLUMN[,...][:KIND]",
    )
    validation: str = option(
        "",
        "hold back a share or a number of the training examples, or take those of another set, to choose the "
        "best checkpoint by; the test set is then used once, at the end",
        metavar="SHARE|N|DIR",
    )
    early_stop: int = option(0, "end after so many epochs without a better validation loss; 0: never")
    augment: str = option(
        "",
        "change images in training: shift:N moves each by up to N pixels, flip makes left right, crop:N pads "
        "it by N mirrored pixels and cuts at random, cutout:N blackens a square; in this order",
        metavar="WORD:N,...",
    )
    epochs: int = option(5, "passes over the training examples")
    batch_size: int = option(100, "examples of one step over all ranks together")
    optimizer: str = option("adam", "optimizer", OPTIMIZERS)
    lr: float = option(0.001, "learning rate; never scaled by the number of ranks")
    seed: int = option(0, "makes initial parameters and the order of examples reproducible")
    device: str = option("auto", "auto takes a GPU where each rank of the node has one", DEVICES)
    precision: str = option(
        "float32",
        "what a GPU rounds the operands of float32 matrix products to; sums and parameters stay float32; "
        "float16 scales the loss, so that small gradients are kept",
        PRECISIONS,
    )
    share_gpu: bool = option(False, "let the ranks of a node take its GPUs in turn, where it has fewer")
    kernels: str = option(
        "auto", "kernels on a CPU: compiled C where there is a C compiler, or NumPy's", KERNELS
    )
    average: str = option(
        "auto",
        "how ranks sum gradients: through shared memory, and MPI between nodes; or by MPI's allreduce alone",
        AVERAGES,
    )
    overlap: str = option(
        "auto",
        "overlap the allreduce between nodes with the backward pass; auto: where it is likely to be faster",
        SWITCH,
    )
    bitwise: bool = option(
        False,
        "the same bits in parameters, losses and metrics on any number of ranks, nodes and restarts: see "
        "docs/bitwise.md; needs a C compiler, and CPUs",
    )
    run_dir: str = option("", "where the run is recorded; by default runs/DATE-MODEL", metavar="DIR")
    checkpoint_every: int = option(0, "steps between two checkpoints; one is saved after each epoch anyway")
    keep: int = option(3, "checkpoints that are kept: the newest N, and with --validation the best besides")
    resume: str = option(
        "",
        "resume a run as if it had not stopped; auto: that of --run-dir, where it holds one",
        metavar="RUN_DIR|auto",
    )
    elastic: bool = option(
        False, "continue without ranks that die; needs Open MPI and its mpirun --with-ft ulfm"
    )
    min_ranks: int = option(1, "where --elastic has fewer ranks left, the run is saved and ends")
    init_from: str = option(
        "", "start from the parameters that another run saved, as far as they fit", metavar="RUN_DIR"
    )
    log_format: str = option("text", "json prints one object a line", LOG_FORMATS)
    log_every: int = option(100, "iterations between two lines where there is no progress bar")
    log_dir: str = option("", "a folder for the log of each rank: rank-0.log, rank-1.log, ...", metavar="DIR")
    tensorboard: str = option(
        "auto", "write event files into the run directory; auto: where TensorBoard is installed", SWITCH
    )
    check_numerics: bool = option(
        True, "stop at a NaN or an infinity before it reaches the parameters, and name the operation"
    )
    check_every: int = option(100, "compare the parameters of the ranks every so many steps; 0: never")
    stall_warn: float = option(10.0, "seconds until a rank that others wait for is named; 0: never")
    stall_abort: float = option(60.0, "seconds until such a rank ends the run; 0: never")
    profile: str = option(
        "",
        "record a timeline of the steps FIRST to LAST - 1, counted from 0; without a value 10:30",
        metavar="FIRST:LAST",
        bare="10:30",
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            words, value = f.metadata["choices"], getattr(self, f.name)
            assert isinstance(value, bool) == isinstance(f.default, bool), f"{f.name}={value!r}"
            if words and not (f.name == "model" and ".py:" in value):
                own = ", or FILE.py:function" if f.name == "model" else ""
                choices.check(f"{flag(f.name)} {value}", value, words, own)
        least_values = {
            "epochs": 1,
            "batch_size": 1,
            "checkpoint_every": 0,
            "keep": 1,
            "early_stop": 0,
            "log_every": 1,
            "check_every": 0,
            "min_ranks": 1,
        }
        for name, least in least_values.items():
            if getattr(self, name) < least:
                raise UsageError(f"{flag(name)} {getattr(self, name)}: give an integer >= {least}.")
        for name in ("stall_warn", "stall_abort"):
            if not 0 <= getattr(self, name) < 1e9:
                raise UsageError(f"{flag(name)} {getattr(self, name)}: give seconds, or 0 for never.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"--lr {self.lr}: give a number above 0, such as 0.001.")
        if not 0 <= self.seed < 2**62:
            raise UsageError(f"--seed {self.seed}: give a whole number from 0 to 2**62 - 1.")
        if self.resume == "auto" and not self.run_dir:
            raise UsageError("--resume auto: say by --run-dir which run to resume.")
        if self.resume not in ("", "auto", self.run_dir):
            raise UsageError(f"--resume {self.resume}: it continues in that folder; leave --run-dir out.")
        if self.early_stop and not self.validation:
            raise UsageError(
                f"--early-stop {self.early_stop}: say by --validation, such as --validation 0.1, which "
                "examples decide it; the test set may not."
            )
        if self.average == "shared" and self.elastic:
            raise UsageError("--average shared: a rank that is killed spoils it; leave --elastic out.")
        if self.bitwise and self.kernels == "numpy":
            raise UsageError(
                "--bitwise: NumPy's products have other bits at other sizes; leave --kernels out."
            )
        if self.bitwise and self.device == "gpu":
            raise UsageError("--bitwise: a GPU's libraries sum in an order of theirs; take --device cpu.")
        if self.overlap == "on" and self.elastic:
            raise UsageError("--overlap: a death may leave a sum that has begun undone; leave --elastic out.")
        if self.profile and self.elastic:
            raise UsageError("--profile records all ranks to its end; leave --elastic out.")
        if self.profile:
            self.profile_window()
        self.augmentations()

    def augmentations(self) -> list[Augmentation]:
        """What --augment says, in its order."""
        return augmentations(self.augment)

    def profile_window(self) -> tuple[int, int]:
        """The first step that --profile records, from 0, and the one after the last."""
        return steps_of(self.profile, f"--profile {self.profile}")

    #: What a run has from its first step to its last; the data set is compared by its content.
    fixed: ClassVar[tuple[str, ...]] = ("task", "model", "augment", "optimizer", "lr", "batch_size", "seed")

    @property
    def title(self) -> str:
        """A word for the name of a new folder."""
        return label(self.task or self.model)

    def kept(self) -> str:
        """The text of a run's config.toml."""
        return replace(self, resume="").with_whole_paths().to_toml()

    def as_written(self) -> dict[str, Any]:
        """Each option and its value as files and messages have it: a boolean is on or off."""
        return {name: choices.word(value) for name, value in asdict(self).items()}

    @staticmethod
    def said(name: str, value: Any) -> str:
        """An option with a value as its user writes it."""
        return f"{flag(name)} {shlex.quote(str(value))}"

    def with_whole_paths(self) -> TrainConfig:
        """The same with files and folders by their whole paths, as they are found from any folder."""
        return replace(
            self,
            task=_whole(self.task),
            model=_whole(self.model),
            dataset=_whole_if_there(self.dataset),
            validation=_whole_if_there(self.validation),
            log_dir=os.path.abspath(self.log_dir) if self.log_dir else "",
        )

    def to_toml(self) -> str:
        """The options as a file that --config takes. TOML has JSON's strings, but no pairs of surrogates.

        Raises:
            UsageError: an option is not text that can be written, such as a name of a file that is not UTF-8.
        """
        lines = []
        for name, value in self.as_written().items():
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            lines.append(f"{name} = {_utf8(text, flag(name))}\n")
        return "".join(lines)


def _whole(own: str) -> str:
    """FILE.py, or FILE.py:function, by its whole path; anything else as it is."""
    if own.endswith(".py"):
        return os.path.abspath(own)
    file, colon, function = own.rpartition(":")
    return f"{os.path.abspath(file)}:{function}" if colon else own


def _whole_if_there(name: str) -> str:
    """The whole path of a file or folder that is there, or of two files; another word as it is."""
    paths = [name] if os.path.exists(name) else [part.strip() for part in name.split(",")]
    return ",".join(map(os.path.abspath, paths)) if all(map(os.path.exists, paths)) else name


def steps_of(window: str, said: str) -> tuple[int, int]:
    """FIRST:LAST as numbers of steps, from 0; LAST is the one after them. said: the option, for messages.

    Raises:
        UsageError: it is nothing like 10:30.
    """
    first, _, last = window.partition(":")
    if not (first.isdecimal() and last.isdecimal()):
        raise UsageError(f"{said}: give FIRST:LAST in whole numbers, such as 10:30.")
    if int(first) >= int(last):
        raise UsageError(f"{said}: FIRST has to be less than LAST, such as 10:30.")
    return int(first), int(last)


def augmentations(text: str) -> list[Augmentation]:
    """shift:2,flip as [("shift", 2), ("flip", 0)]; raises UsageError for what is none."""
    found = []
    for part in filter(None, text.split(",")):
        name, _, amount = part.strip().partition(":")
        choices.check(f"--augment {text}: {name}", name, AUGMENTS)
        if name == "flip" and not amount:
            amount = "0"
        elif name == "flip" or not amount.isdecimal() or not 0 < int(amount) <= MOST_PIXELS:
            usual = "flip" if name == "flip" else f"{name}:{AUGMENTS[name]}"
            raise UsageError(f"--augment {text}: {part.strip()}: give {usual}, say.")
        found.append((name, int(amount)))
    return found


def label(model: str) -> str:
    """A model as part of a folder's name."""
    file, colon, function = model.rpartition(":")
    return f"{Path(file).stem}-{function}" if colon else Path(model).stem


def flag(name: str) -> str:
    """The command-line flag of an option."""
    return "--" + name.replace("_", "-")


def resolve(
    flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ, file: str | None = None
) -> TrainConfig:
    """The options that flags, variables and a TOML file add up to.

    Args:
        flags: option name -> text, of the flags that were given.
        environ: where DTRAIN_* variables are looked up.
        file: path of a TOML file, or None.

    Raises:
        UsageError: an unknown name or an invalid value, with where it came from.
        CheckpointError: the folder of --resume holds no run.
    """
    known = {f.name: f for f in fields(TrainConfig)}
    layers: list[dict[str, tuple[Any, str]]] = [{}, {}, {}, {}]
    of_run, of_file, of_environ, of_flags = layers
    written = read_toml(file) if file else {}
    resume = str(flags.get("resume") or environ.get("DTRAIN_RESUME") or written.get("resume") or "")
    if resume not in ("", "auto"):  # below all else: what the run itself was started with
        of_run |= {name: (value, f"{resume}: {name}") for name, value in read_run(resume).items()}
        of_run["run_dir"] = (resume, "--resume")
    for name, value in written.items():
        if name not in known:
            raise UsageError(f"{file}: {_unknown(name, list(known))}")
        of_file[name] = (value, f"{file}: {name}")
    for variable, text in environ.items():
        if not variable.startswith("DTRAIN_") or variable in OTHER_VARIABLES:
            continue
        name = variable[len("DTRAIN_") :].lower()
        if name not in known:
            raise UsageError(
                _unknown(variable, ["DTRAIN_" + n.upper() for n in known] + list(OTHER_VARIABLES))
            )
        of_environ[name] = (text, variable)
    for name, text in flags.items():
        of_flags[name] = (text, flag(name))
    chosen: dict[str, tuple[Any, str]] = {}
    for layer in layers:
        if "model" in layer:  # a digest below is another file's
            chosen.pop("model_digest", None)
        chosen |= layer
    values = {name: _convert(known[name].default, value, where) for name, (value, where) in chosen.items()}
    try:
        return TrainConfig(**values)
    except UsageError as error:
        named = [where for name, (_, where) in chosen.items() if str(error).startswith(flag(name) + " ")]
        if not named or named[0].startswith("--"):
            raise
        raise UsageError(f"{error} (It comes from {named[0]}.)") from None


def _convert(default: Any, value: Any, where: str) -> Any:
    """A value as the type of the option's default."""
    kind = type(default)
    if kind is str and isinstance(value, str):
        return _utf8(value, where)
    if kind is bool:
        return value if isinstance(value, bool) else choices.boolean(f"{where} {value}", f"{value}")
    try:
        if isinstance(value, bool) or kind is str:
            raise ValueError
        if kind is int and isinstance(value, float):
            raise ValueError
        return kind(value)
    except (ValueError, TypeError, OverflowError):
        wanted = {int: "a whole number", float: "a number", str: "text in quotes"}[kind]
        raise UsageError(f"{where} {value!r}: give {wanted}, such as {default!r}.") from None


def _utf8(text: str, where: str) -> str:
    """The text, where it has an encoding: Python makes surrogates of a name's bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{where} {text!a}: give a name in UTF-8, in a shell whose locale is (LC_ALL=C.UTF-8)."
        ) from None
    return text


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
    return f"{name} is not an option of dtrain; {hint}"


def read_toml(path: str) -> dict[str, Any]:
    """The content of a TOML file; raises UsageError, naming it, where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return _parse_toml(path, file.read(MOST_BYTES + 1))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}.") from None


def read_own(run_dir: Path) -> dict[str, Any]:
    """What config.toml of a run directory says, whatever that is; it is not trusted.

    Raises:
        UsageError: it is no TOML. OSError: it cannot be read.
    """
    path = run_dir / "config.toml"
    return _parse_toml(str(path), read_regular(path, MOST_BYTES))


def read_run(run_dir: str) -> dict[str, Any]:
    """The options that a run directory keeps, but for those that are of one start: where, how, and from what.

    Raises:
        CheckpointError: it is no run directory.
    """
    path = Path(run_dir) / "config.toml"
    try:
        written = read_own(Path(run_dir))
    except FileNotFoundError:
        raise CheckpointError(
            f"{run_dir} is not a run directory: give the one that `dtrain train` printed."
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from None
    if "program" in written:  # see keras/run.py
        raise CheckpointError(
            f"{run_dir} is a run of {written['program']}: start that program again, with fit(resume=True), "
            f"to resume it; its model takes the parameters by load_weights({str(run_dir)!r}). `dtrain "
            "report` shows it, and `dtrain eval`, `predict` and `export` ask it."
        )
    known = {f.name for f in fields(TrainConfig)} - {"run_dir", "resume", "init_from", "elastic"}
    return {name: value for name, value in written.items() if name in known}


def _parse_toml(path: str, data: bytes) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path} holds more than {MOST_BYTES:,} bytes: it is no file of options.")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))  # editors of Windows begin a file with a mark
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} cannot be read: {error}.") from None
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        raise UsageError(f"{path} is not TOML: {error}.") from None
