"""Sets that have a name: where they are downloaded from, and the digests that their publishers give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dtrain.data.readers import cifar, idx
from dtrain.data.readers.idx import File

DIGITS = tuple("0123456789")
#: Where sets are downloaded from: URLs that end with a slash, by name.
MIRRORS: dict[str, Sequence[str]] = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    "kmnist": ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/",),
    "cifar100": ("https://www.cs.toronto.edu/~kriz/",),
}
NAMES = (*MIRRORS,)


class Download(NamedTuple):
    """A file that mirrors serve; of its digests one is given, of its size where that is known."""

    name: str
    sha256: str = ""
    md5: str = ""
    nbytes: int = 0


class Known(NamedTuple):
    """A set: its four files of IDX, or an archive that holds those of CIFAR."""

    name: str
    title: str
    files: Sequence[File] = ()
    classes: Sequence[str] = ()
    archive: Download | None = None

    @property
    def downloads(self) -> list[Download]:
        if self.archive:
            return [self.archive]
        return [Download(f"{f.name}.gz", f.gz_sha256, f.gz_md5, f.gz_bytes) for f in self.files]

    @property
    def members(self) -> list[str]:
        """What is taken out of the archive."""
        train, test, meta, *_ = cifar.LAYOUTS[self.name]
        return [*train, test, meta]

    def missing(self, folder: Path) -> list[str]:
        """The downloads of which a folder holds nothing."""
        if self.archive:
            return [] if all((folder / name).is_file() for name in self.members) else [self.archive.name]
        found = idx.find(folder)
        return [f"{file.name}.gz" for file in self.files if file.stem not in found]


def of(name: str) -> Known:
    """A set by its name, one of NAMES; its digests are those that are published."""
    match name:
        case "mnist":
            return Known(name, "MNIST", idx.FILES, DIGITS)
        case "fashion-mnist":  # Xiao, Rasul and Vollgraf (2017); the README of zalandoresearch/fashion-mnist
            return Known(
                name,
                "Fashion-MNIST",
                _files(
                    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                    "25c81989df183df01b3e8a0aad5dffbe",
                    "bef4ecab320f06d8554ea6380940ec79",
                    "bb300cfdad3c16e7a12a480ee83cd310",
                ),
                (
                    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
                    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
                ),
            )
        case "kmnist":  # Clanuwat et al. (2018); torchvision's
            return Known(
                name,
                "KMNIST",
                _files(
                    "bdb82020997e1d708af4cf47b453dcf7",
                    "e144d726b3acfaa3e44228e80efcd344",
                    "5c965bf0a639b31b8f53240b1b52f4d7",
                    "7320c461ea6c1c855c0b718fb2a4b134",
                ),
                ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
            )
        case "cifar10":  # Krizhevsky (2009); the sets' own page
            md5 = "c32a1d4ab5d03f1284b67883e8d87530"
            return Known(
                name, "CIFAR-10", archive=Download("cifar-10-binary.tar.gz", md5=md5, nbytes=170_052_171)
            )
        case "cifar100":
            md5 = "03b5dce01913d631647c71ecec9e9cb8"
            return Known(name, "CIFAR-100", archive=Download("cifar-100-binary.tar.gz", md5=md5))
    raise KeyError(name)


def _files(*md5: str) -> tuple[File, ...]:
    """Files of MNIST's names and shapes, with the MD5 of the compressed ones."""
    return tuple(File(file.stem, file.shape, gz_md5=sum) for file, sum in zip(idx.FILES, md5, strict=True))
