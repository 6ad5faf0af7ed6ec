"""Sets that have a name: where they are to be had, and the digests that their publishers give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dtrain.data.readers import cifar, idx
from dtrain.data.readers.idx import File

DIGITS = tuple("0123456789")


class Download(NamedTuple):
    """A file that mirrors serve; of its digests one is given, of its size where that is known."""

    name: str
    sha256: str = ""
    md5: str = ""
    nbytes: int = 0


class Known(NamedTuple):
    """A set: its files of IDX, or an archive that holds those of CIFAR; the mirrors' URLs end with a
    slash."""

    name: str
    title: str
    mirrors: Sequence[str]
    files: Sequence[File] = ()
    archive: Download | None = None
    classes: Sequence[str] = ()

    @property
    def downloads(self) -> list[Download]:
        if self.archive:
            return [self.archive]
        return [Download(f"{f.name}.gz", f.gz_sha256, f.gz_md5, f.gz_bytes) for f in self.files]


def _files(*md5: str) -> tuple[File, ...]:
    """Files of MNIST's names and shapes, with the MD5 of the compressed ones."""
    return tuple(File(file.stem, file.shape, gz_md5=sum) for file, sum in zip(idx.FILES, md5, strict=True))


def mnist() -> Known:
    return Known(
        "mnist",
        "MNIST",
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        idx.FILES,
        classes=DIGITS,
    )


#: Xiao, Rasul and Vollgraf (2017); the sums stand in the README of zalandoresearch/fashion-mnist.
FASHION_MNIST = Known(
    "fashion-mnist",
    "Fashion-MNIST",
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    _files(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    classes=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
)
#: Clanuwat et al. (2018); the sums are those of torchvision.datasets.KMNIST.
KMNIST = Known(
    "kmnist",
    "KMNIST",
    ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
    _files(
        "bdb82020997e1d708af4cf47b453dcf7",
        "e144d726b3acfaa3e44228e80efcd344",
        "5c965bf0a639b31b8f53240b1b52f4d7",
        "7320c461ea6c1c855c0b718fb2a4b134",
    ),
    classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
)
#: Krizhevsky (2009); the sums stand on the page of the sets.
CIFAR = ("https://www.cs.toronto.edu/~kriz/",)
CIFAR10 = Known(
    "cifar10",
    "CIFAR-10",
    CIFAR,
    archive=Download("cifar-10-binary.tar.gz", md5="c32a1d4ab5d03f1284b67883e8d87530", nbytes=170_052_171),
)
CIFAR100 = Known(
    "cifar100",
    "CIFAR-100",
    CIFAR,
    archive=Download("cifar-100-binary.tar.gz", md5="03b5dce01913d631647c71ecec9e9cb8"),
)
NAMES = ("mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100")


def known(name: str) -> Known:
    return {s.name: s for s in (mnist(), FASHION_MNIST, KMNIST, CIFAR10, CIFAR100)}[name]


def members(known: Known) -> list[str]:
    """What is taken out of an archive."""
    train, test, meta, *_ = cifar.LAYOUTS[known.name]
    return [*train, test, meta]
