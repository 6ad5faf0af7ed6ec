"""Images that are moved, turned, mirrored and scaled at random as they are drawn."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.comm import world
from dtrain.errors import DataError, NotSupportedError, UsageError
from dtrain.keras import settings
from dtrain.keras.rank_zero import RankZero
from dtrain.keras.utils import Sequence
from dtrain.names import module_getattr

__all__ = ["ImageDataGenerator", "array_to_img", "img_to_array", "load_img", "save_img"]

__getattr__ = module_getattr("tf.keras.preprocessing.image")


def img_to_array(img: Any, data_format: str | None = None, dtype: Any = "float32") -> np.ndarray:
    """An image as an array [height, width, channels]."""
    array = np.asarray(img, dtype)
    array = array[..., None] if array.ndim == 2 else array
    return array.transpose(2, 0, 1) if data_format == "channels_first" else array


def array_to_img(x: Any, data_format: str | None = None, scale: bool = True) -> Any:
    """An array as an image of the package Pillow.

    Raises:
        NotSupportedError: Pillow is not installed.
    """
    image = _pillow("array_to_img")
    x = np.asarray(x, np.float32)
    x = x.transpose(1, 2, 0) if data_format == "channels_first" else x
    if scale:
        x = x - x.min()
        x = x / (x.max() or 1) * 255
    x = x.astype(np.uint8)
    return image.fromarray(x[..., 0] if x.shape[-1] == 1 else x)


def _pillow(what: str) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise NotSupportedError(f"{what} needs Pillow: pip install pillow.") from None
    return Image


def load_img(
    path: str | os.PathLike[str],
    grayscale: bool = False,
    color_mode: str = "rgb",
    target_size: tuple[int, int] | None = None,
    interpolation: str = "nearest",
) -> Any:
    """A file as an image of the package Pillow.

    Args:
        path: the file.
        grayscale: whether it becomes one of grey tones; the same as color_mode='grayscale'.
        color_mode: 'grayscale', 'rgb' or 'rgba'.
        target_size: height and width that it is scaled to.
        interpolation: 'nearest', 'bilinear', 'bicubic', 'lanczos', 'box' or 'hamming'.

    Raises:
        NotSupportedError: Pillow is not installed.
        UsageError: there is no such mode or interpolation.
        DataError: the file is not there, or no image.
    """
    image = _pillow("load_img")
    modes = {"grayscale": "L", "rgb": "RGB", "rgba": "RGBA"}
    kinds = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
    mode = "grayscale" if grayscale else color_mode
    if mode not in modes:
        raise UsageError(f"load_img: color_mode={color_mode!r}: give {', '.join(modes)}.")
    if interpolation not in kinds:
        raise UsageError(f"load_img: interpolation={interpolation!r}: give {', '.join(kinds)}.")
    try:
        with image.open(path) as file:
            found = file.convert(modes[mode])
    except (OSError, SyntaxError) as error:
        raise DataError(f"{os.fspath(path)} cannot be read as an image: {error}.") from None
    if target_size is None:
        return found
    return found.resize((target_size[1], target_size[0]), getattr(image, interpolation.upper()))


def save_img(
    path: str | os.PathLike[str],
    x: Any,
    data_format: str | None = None,
    file_format: str | None = None,
    scale: bool = True,
) -> None:
    """Write an array as an image, on rank 0.

    Args:
        path: the file, whose ending says the format.
        x: [height, width, channels].
        data_format: 'channels_last' (the default) or 'channels_first'.
        file_format: the format where the ending does not say it.
        scale: whether values are spread over 0 to 255.

    Raises:
        NotSupportedError: Pillow is not installed.
    """
    data = io.BytesIO()
    kind = file_format or Path(path).suffix.removeprefix(".") or "png"
    array_to_img(x, data_format, scale).save(data, "jpeg" if kind.lower() == "jpg" else kind)
    RankZero(world()).writes(path, data.getvalue())


class ImageDataGenerator:
    """What happens to images at random; flow() draws batches of them.

    Every rank draws the same: by a seed, or by NumPy's global random numbers, which begin the same on all.

    Args:
        featurewise_center, featurewise_std_normalization, zca_whitening: by the set that fit() is shown.
        samplewise_center, samplewise_std_normalization: by each image.
        rotation_range: degrees. width_shift_range, height_shift_range: shares of the size, or pixels.
        shear_range: degrees. zoom_range: a share, or (least, greatest). channel_shift_range: is added.
        fill_mode: what comes in at the edges: nearest, constant (cval), reflect or wrap.
        horizontal_flip, vertical_flip: whether half of the images are mirrored.
        rescale, preprocessing_function: a factor, and a function of an image, before it is normalised.
        validation_split: the share that flow(subset='validation') gives.
    """

    def __init__(
        self,
        featurewise_center: bool = False,
        samplewise_center: bool = False,
        featurewise_std_normalization: bool = False,
        samplewise_std_normalization: bool = False,
        zca_whitening: bool = False,
        zca_epsilon: float = 1e-6,
        rotation_range: float = 0,
        width_shift_range: float = 0.0,
        height_shift_range: float = 0.0,
        brightness_range: Any = None,
        shear_range: float = 0.0,
        zoom_range: Any = 0.0,
        channel_shift_range: float = 0.0,
        fill_mode: str = "nearest",
        cval: float = 0.0,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        rescale: float | None = None,
        preprocessing_function: Callable[[np.ndarray], np.ndarray] | None = None,
        data_format: str | None = None,
        validation_split: float = 0.0,
        dtype: Any = "float32",
        dim_ordering: str | None = None,
    ) -> None:
        if brightness_range is not None:
            raise UsageError("ImageDataGenerator: brightness_range is not supported: leave it out.")
        if fill_mode not in ("nearest", "constant", "reflect", "wrap"):
            raise UsageError(
                f"ImageDataGenerator: fill_mode={fill_mode!r} is none of nearest, constant, reflect, wrap."
            )
        self.featurewise_center = featurewise_center or zca_whitening
        self.samplewise_center = samplewise_center
        self.featurewise_std_normalization = featurewise_std_normalization
        self.samplewise_std_normalization = samplewise_std_normalization
        self.zca_whitening, self.zca_epsilon = zca_whitening, zca_epsilon
        self.rotation_range, self.shear_range = rotation_range, shear_range
        self.width_shift_range, self.height_shift_range = width_shift_range, height_shift_range
        one = bool(np.isscalar(zoom_range))
        self.zoom_range = [1 - zoom_range, 1 + zoom_range] if one else list(zoom_range)
        self.channel_shift_range, self.fill_mode, self.cval = channel_shift_range, fill_mode, cval
        self.horizontal_flip, self.vertical_flip = horizontal_flip, vertical_flip
        self.rescale, self.preprocessing_function = rescale, preprocessing_function
        given = settings.ORDERINGS.get(dim_ordering or "", data_format)
        self.first = (given or settings.image_data_format()) == "channels_first"
        self.validation_split = validation_split
        self.mean: Any = None
        self.std: Any = None
        self._whiten: Any = None

    def _last(self, x: Any) -> np.ndarray:
        x = np.asarray(x, np.float32)
        return x.transpose(0, 2, 3, 1) if self.first else x

    def fit(self, x: Any, augment: bool = False, rounds: int = 1, seed: int | None = None) -> None:
        """Learn the mean, the deviation and the whitening of a set of images [n, height, width, channels]."""
        x = self._last(x).copy()
        if x.ndim != 4:
            raise UsageError(
                f"ImageDataGenerator.fit: x has shape {x.shape}: give [n, height, width, channels]."
            )
        if augment:
            draw = np.random if seed is None else np.random.RandomState(seed)
            x = np.concatenate([np.stack([self._moved(row, draw) for row in x]) for _ in range(rounds)])
        if self.featurewise_center:
            self.mean = x.mean((0, 1, 2))
            x -= self.mean
        if self.featurewise_std_normalization:
            self.std = x.std((0, 1, 2))
            x /= self.std + 1e-6
        if self.zca_whitening:
            flat = x.reshape(len(x), -1)
            u, s, _ = np.linalg.svd(flat.T @ flat / len(flat))
            self._whiten = (u / np.sqrt(s + self.zca_epsilon)) @ u.T

    def flow(
        self,
        x: Any,
        y: Any = None,
        batch_size: int = 32,
        shuffle: bool = True,
        sample_weight: Any = None,
        seed: int | None = None,
        subset: str | None = None,
        save_to_dir: str | os.PathLike[str] | None = None,
        save_prefix: str = "",
        save_format: str = "png",
    ) -> NumpyArrayIterator:
        """Batches of images, with their labels, without an end; by number, as of a Sequence, too.

        save_to_dir: a folder in which rank 0 writes each image that is drawn, as `<save_prefix>_<its
        number>_<a number from 0 to 9999>.<save_format>`, by Pillow.

        Raises:
            UsageError: they are no images, or an argument cannot be meant.
        """
        found = NumpyArrayIterator(self, x, y, batch_size, shuffle, sample_weight, seed, subset)
        if save_to_dir is not None:
            found.saved = Path(save_to_dir), save_prefix, save_format
        return found

    def flow_from_directory(self, *arguments: Any, **options: Any) -> Any:
        """Refused: images are given as arrays."""
        raise NotSupportedError(
            "flow_from_directory is not supported: read the images into an array, and flow(x, y) them."
        )

    def standardize(self, x: np.ndarray) -> np.ndarray:
        """Images [..., height, width, channels] as the arguments normalise them."""
        if self.preprocessing_function is not None:
            x = self.preprocessing_function(x)
        if self.rescale:
            x = x * np.float32(self.rescale)
        if self.samplewise_center:
            x = x - x.mean(keepdims=True)
        if self.samplewise_std_normalization:
            x = x / (x.std(keepdims=True) + 1e-6)
        for asked, known in (
            (self.featurewise_center, self.mean),
            (self.featurewise_std_normalization, self.std),
        ):
            if asked and known is None:
                raise UsageError("ImageDataGenerator: it normalises by the whole set: call its fit(x) first.")
        if self.mean is not None:
            x = x - self.mean
        if self.std is not None:
            x = x / (self.std + 1e-6)
        if self._whiten is not None:
            x = (x.reshape(-1) @ self._whiten).reshape(x.shape)
        return x.astype(np.float32, copy=False)

    def random_transform(self, x: np.ndarray, seed: int | None = None) -> np.ndarray:
        """An image, moved at random."""
        return self._moved(x, np.random if seed is None else np.random.RandomState(seed))

    def _moved(self, x: np.ndarray, draw: Any) -> np.ndarray:
        height, width = x.shape[:2]
        turn = (
            np.deg2rad(draw.uniform(-self.rotation_range, self.rotation_range))
            if self.rotation_range
            else 0.0
        )
        down = self._shift(self.height_shift_range, height, draw)
        across = self._shift(self.width_shift_range, width, draw)
        shear = np.deg2rad(draw.uniform(-self.shear_range, self.shear_range)) if self.shear_range else 0.0
        zoom = draw.uniform(*self.zoom_range, 2) if self.zoom_range != [1, 1] else np.ones(2)
        if turn or down or across or shear or (zoom != 1).any():
            c, s = np.cos(turn), np.sin(turn)
            matrix = np.array([[c, -s], [s, c]]) @ np.array([[1, -np.sin(shear)], [0, np.cos(shear)]])
            x = self._resampled(x, matrix @ np.diag(zoom), matrix @ np.array([down, across], float))
        if self.channel_shift_range:
            low, high = x.min(), x.max()
            shift = draw.uniform(-self.channel_shift_range, self.channel_shift_range, x.shape[-1])
            x = np.clip(x + shift.astype(np.float32), low, high)
        if self.horizontal_flip and draw.random_sample() < 0.5:
            x = x[:, ::-1]
        if self.vertical_flip and draw.random_sample() < 0.5:
            x = x[::-1]
        return x

    @staticmethod
    def _shift(most: float, size: int, draw: Any) -> float:
        if not most:
            return 0.0
        return float(draw.uniform(-most, most)) * (size if most < 1 else 1)

    def _resampled(self, x: np.ndarray, matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """The image whose pixel p is that at matrix (p - centre) + shift + centre, between four of x."""
        height, width = x.shape[:2]
        centre = np.array([height / 2 - 0.5, width / 2 - 0.5])
        places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1) - centre
        source = places @ matrix.T + shift + centre
        low = np.floor(source).astype(int)
        part = (source - low)[..., None].astype(np.float32)

        def pixels(i: np.ndarray, j: np.ndarray) -> np.ndarray:
            found = x[self._inside(i, height), self._inside(j, width)]
            if self.fill_mode == "constant":
                out = (i < 0) | (i >= height) | (j < 0) | (j >= width)
                found = np.where(out[..., None], np.float32(self.cval), found)
            return found

        i, j, a, b = low[..., 0], low[..., 1], part[..., 0, :], part[..., 1, :]
        top = pixels(i, j) * (1 - b) + pixels(i, j + 1) * b
        bottom = pixels(i + 1, j) * (1 - b) + pixels(i + 1, j + 1) * b
        return top * (1 - a) + bottom * a

    def _inside(self, at: np.ndarray, size: int) -> np.ndarray:
        if self.fill_mode == "wrap":
            return at % size
        if self.fill_mode == "reflect":
            at = at % (2 * size)
            return np.minimum(at, 2 * size - 1 - at)
        return np.clip(at, 0, size - 1)


class NumpyArrayIterator(Sequence):
    """What flow() gives: next() draws the next batch, in another order in each epoch."""

    def __init__(
        self,
        generator: ImageDataGenerator,
        x: Any,
        y: Any,
        batch_size: int,
        shuffle: bool,
        sample_weight: Any,
        seed: int | None,
        subset: str | None,
    ) -> None:
        x = generator._last(x)
        if x.ndim != 4:
            raise UsageError(f"flow: x has shape {x.shape}: give images [n, height, width, channels].")
        parts = [x, None if y is None else np.asarray(y), sample_weight]
        for name, part in zip(("y", "sample_weight"), parts[1:], strict=True):
            if part is not None and len(part) != len(x):
                raise UsageError(f"flow: x has {len(x)} images and {name} has {len(part)} entries.")
        if subset not in (None, "training", "validation"):
            raise UsageError(f"flow: subset={subset!r}: give 'training' or 'validation'.")
        if subset is not None:
            at = int(len(x) * generator.validation_split)
            parts = [p if p is None else p[:at] if subset == "validation" else p[at:] for p in parts]
        self.x, self.y, self.sample_weight = parts
        self.n, self.batch_size, self._shuffle, self.seed = len(self.x), batch_size, shuffle, seed
        self._generator, self.batch_index, self._passes = generator, 0, 0
        self._order: np.ndarray | None = None
        #: The folder that images are written into, the beginning of their names, and the end.
        self.saved: tuple[Path, str, str] | None = None

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def on_epoch_end(self) -> None:
        self._order = None

    def _numbers(self) -> np.ndarray:
        if self._order is None:
            self._passes += 1
            draw = self._draw(0)
            self._order = draw.permutation(self.n) if self._shuffle else np.arange(self.n)
        return self._order

    def _draw(self, number: int) -> Any:
        if self.seed is None:
            return np.random
        return np.random.RandomState((self.seed + 1_000_003 * self._passes + number) % 2**32)

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        rows = self._numbers()[index * self.batch_size : (index + 1) * self.batch_size]
        draw = self._draw(index + 1)
        images = [self._generator.standardize(self._generator._moved(self.x[i], draw)) for i in rows]
        x = np.stack(images)
        if self.saved is not None:
            self._save(x, rows)
        x = x.transpose(0, 3, 1, 2) if self._generator.first else x
        if self.y is None:
            return x
        more = [self.y[rows]] + ([] if self.sample_weight is None else [np.asarray(self.sample_weight)[rows]])
        return (x, *more)

    def _save(self, images: np.ndarray, rows: np.ndarray) -> None:
        assert self.saved is not None
        folder, begin, end = self.saved
        for image, row in zip(images, rows, strict=True):
            # not of NumPy's global numbers: those continue the same on all ranks
            name = f"{begin}_{row}_{secrets.randbelow(10_000)}.{end}"
            content = io.BytesIO()
            kind = {"jpg": "jpeg"}.get(end.lower(), end)
            array_to_img(image, "channels_last").save(content, kind)
            RankZero(world()).writes(folder / name, content.getvalue())

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        if self.batch_index >= len(self):
            self.batch_index = 0
            self.on_epoch_end()
        self.batch_index += 1
        return self[self.batch_index - 1]

    def next(self) -> Any:
        """The next batch."""
        return next(self)
