"""Images in a folder for each class: DIR/CLASS/*.png, or DIR/train/CLASS/*.png, and test, validation.

All images have one size. Grey ones are [height, width], coloured ones [height, width, 3], with transparency
[height, width, 4]; a grey one among coloured ones is made coloured. Pillow, of dtrain's extra `data`, decodes
them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.data.dataset import PARTS
from dtrain.data.readers.source import SPELLINGS, Column, Label, Source, names_in, per_piece
from dtrain.errors import DataError, EnvironmentProblem

#: What is looked for, and what Pillow may take it for.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm")
UNREAD = (".gif", ".tif", ".tiff", ".heic", ".avif", ".jp2", ".svg")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")
#: Of which mode of Pillow's an image is used, by the mode that it has; the wider one stands after.
MODES = ("L", "RGB", "RGBA")
MODE = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
MODE |= {"LA": "RGBA", "PA": "RGBA", "RGBA": "RGBA"}
MOST_FILE, MOST_PIXELS = 256 << 20, 1 << 26  # bytes of a file, pixels of an image


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _refuse_unread(path: Path) -> None:
    """Raise DataError for what may be an image, but is not read; other files lie there for other reasons."""
    if path.name.startswith("."):
        return
    if path.suffix.lower() in UNREAD:
        raise DataError(f"{path}: is not read; save it as one of {', '.join(SUFFIXES)}.")
    if path.is_dir():
        raise DataError(f"{path}: is a folder in that of a class: put the images themselves there.")


def class_folders(folder: Path) -> list[str]:
    """The folders in a folder that hold an image."""
    found = []
    for name in names_in(folder):
        if not name.startswith(".") and os.path.isdir(folder / name):
            with os.scandir(folder / name) as entries:
                if any(is_image(entry.name) for entry in entries):
                    found.append(name)
    return found


def parts_of(folder: Path) -> dict[str, Path]:
    """Part -> the folder of its classes; empty where there are no images."""
    found: dict[str, Path] = {}
    for part in PARTS:
        for name in names_in(folder):
            if (
                name.lower() in SPELLINGS[part]
                and os.path.isdir(folder / name)
                and class_folders(folder / name)
            ):
                if part in found:
                    raise DataError(f"{folder}: holds {found[part].name} and {name}, both {part}: keep one.")
                found[part] = folder / name
    if not found and class_folders(folder):
        found["train"] = folder
    return found


class Images(Source):
    """A folder of class folders."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._list: dict[str, list[tuple[Path, int]]] = {}
        self._classes: list[str] = []
        whole = os.path.realpath(folder)
        for part, place in parts_of(folder).items():
            classes = class_folders(place)
            if not self._classes:
                self._classes = classes
            if classes != self._classes:
                odd = sorted({*classes} ^ {*self._classes})
                raise DataError(
                    f"{place}: its folders of classes are not those of {next(iter(self._list))}: "
                    f"{', '.join(odd[:5])} {'is' if len(odd) == 1 else 'are'} in one of them alone."
                )
            self._list[part] = []
            for index, name in enumerate(classes):
                for file in names_in(place / name):
                    path = place / name / file
                    if not is_image(file):
                        _refuse_unread(path)
                        continue
                    if not os.path.realpath(path).startswith(whole + os.sep):
                        raise DataError(f"{path}: leads out of {folder}: put the image itself there.")
                    self._list[part].append((path, index))
        self.files = [path for listed in self._list.values() for path, _ in listed]
        if self.files and self.files[0].parents[1] != folder:
            self.unused = class_folders(folder)  # beside train, test and validation
        self._mode = "L"

    def look(self, label: Label) -> None:
        first: tuple[int, int] | None = None
        for path in self.files:
            with _opened(path) as image:
                if image.mode not in MODE:
                    raise DataError(
                        f"{path}: its pixels are of mode {image.mode}: save it with 8 bits a channel."
                    )
                # a palette may have a transparent colour
                mode = "RGBA" if "transparency" in image.info else MODE[image.mode]
                self._mode = max(self._mode, mode, key=MODES.index)
                size = image.height, image.width
            if first is None:
                first = size
            if size != first:
                raise DataError(
                    f"{path}: is {size[0]} x {size[1]} pixels, but {self.files[0]} {first[0]} x {first[1]}: "
                    "all images need one size."
                )
        if first is None:
            raise DataError(f"{self.path}: holds no images.")
        self.parts = {part: len(listed) for part, listed in self._list.items()}
        channels = MODES.index(self._mode) + (2 if self._mode != "L" else 1)
        self.x = Column("uint8", first if channels == 1 else (*first, channels))
        self.settle(label)

    def pieces(self, part: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        many, listed = per_piece(self.x.nbytes), self._list[part]
        for at in range(0, len(listed), many):
            piece = listed[at : at + many]
            x = np.empty((len(piece), *self.x.shape), np.uint8)
            for into, (path, _) in zip(x, piece, strict=True):
                with _opened(path) as image:
                    if (image.height, image.width) != self.x.shape[:2]:
                        raise DataError(f"{path}: was changed while it was read.")
                    into[...] = np.asarray(image.convert(self._mode))
            yield x, np.array([index for _, index in piece])

    def only_targets(self, part: str) -> Iterator[np.ndarray]:
        yield np.array([index for _, index in self._list[part]])

    def target_names(self) -> Sequence[str]:
        return self._classes

    def place(self, part: str, row: int, cell: int = 0) -> str:
        return str(self._list[part][row][0])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An image whose size is known, its pixels not decoded; raises DataError for what is none."""
    try:
        from PIL import Image
    except ImportError:
        raise EnvironmentProblem(
            f"{path}: reading images needs Pillow, which is not installed: pip install 'dtrain[data]'."
        ) from None
    import warnings

    try:
        if not path.is_file() or path.stat().st_size > MOST_FILE:
            raise DataError(f"{path}: is no file, or larger than {MOST_FILE:,} bytes.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels: their number is checked here
            with Image.open(path, formats=FORMATS) as image:
                if image.height * image.width > MOST_PIXELS:
                    raise DataError(
                        f"{path}: says that it is {image.height} x {image.width} pixels: too many."
                    )
                yield image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: says that it is too large ({error}).") from None
    except Exception as error:  # of damaged files Pillow raises anything
        said = " ".join(str(error).split())[:120].replace(str(path), "it") or type(error).__name__
        raise DataError(f"{path}: is no image, or damaged ({said}).") from None
