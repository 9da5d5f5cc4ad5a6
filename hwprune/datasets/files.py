"""Image files as an array that is decoded when it is read, and only once where it fits into memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hwprune.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp", ".tif", ".tiff"})

#: Decoded images of one split are kept if they need no more than this.
KEPT_BYTES = 1 << 30


class ImageFiles:
    """RGB pixels of image files, ``(n, 3, size, size)`` uint8.

    An image of another size is scaled until its shorter side has ``resize`` pixels, then its centre is cut out.

    Attributes:
        paths: one file an image.
        size: pixels a side.
        resize: pixels of the shorter side before the cut, at least ``size``.
        workers: threads that decode a batch.
    """

    def __init__(self, paths: Sequence[Path], size: int, resize: int, workers: int = 1) -> None:
        self.paths = list(paths)
        self.size = size
        self.resize = resize
        self.workers = workers
        shape = (len(paths), 3, size, size)
        # The system hands out pages of an empty array when they are first written: images never read cost nothing.
        self._kept = np.empty(shape, np.uint8) if np.prod(shape) <= KEPT_BYTES else None
        self._decoded = np.zeros(len(paths), bool)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """``(n, 3, size, size)`` uint8 images of ``(n,)`` indices.

        Raises:
            DataError: a file cannot be decoded.
        """
        chosen = indices.numpy()
        if self._kept is None:
            return torch.from_numpy(np.stack(self._decode(chosen)))
        missing = np.unique(chosen[~self._decoded[chosen]])
        for index, image in zip(missing, self._decode(missing), strict=True):
            self._kept[index] = image
        self._decoded[missing] = True
        return torch.from_numpy(self._kept[chosen])

    def _decode(self, indices: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        paths = [self.paths[index] for index in indices]
        if self.workers == 1 or len(paths) < 2:
            return [self._read(path) for path in paths]
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(self._read, paths))

    def _read(self, path: Path) -> NDArray[np.uint8]:
        try:
            with Image.open(path) as source:
                image = source.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"the image {str(path)!r} cannot be decoded ({error}): replace or remove it") from error
        if image.size != (self.size, self.size):
            scale = self.resize / min(image.size)
            width, height = (max(self.size, round(side * scale)) for side in image.size)
            left, top = (width - self.size) // 2, (height - self.size) // 2
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            image = image.crop((left, top, left + self.size, top + self.size))
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def class_folders(folder: Path, only: Collection[str] | None = None) -> dict[str, list[Path]]:
    """Image files by the sub-folder (the class) that holds them, both sorted; of ``only`` these classes, if given.

    Raises:
        DataError: the folder is missing, has no sub-folders, lacks a class, or one of them has no images.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {str(folder)!r}: give one with a sub-folder of images a class")
    if missing := sorted(name for name in only or () if not (folder / name).is_dir()):
        raise DataError(f"{str(folder)!r} lacks {len(missing)} of {len(only or ())} classes, {missing[0]} the first")
    found = {}
    for child in sorted(folder.iterdir()):
        if child.is_dir() and (only is None or child.name in only):
            found[child.name] = sorted(path for path in child.iterdir() if path.suffix.lower() in SUFFIXES)
            if not found[child.name]:
                raise DataError(f"the class folder {str(child)!r} has no images: add some, or remove it")
    if not found:
        raise DataError(f"{str(folder)!r} has no class folders: sort its images into one sub-folder a class")
    return found


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file, in pixels.

    Raises:
        DataError: the file is no image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError) as error:
        raise DataError(f"the image {str(path)!r} cannot be decoded ({error}): replace or remove it") from error
