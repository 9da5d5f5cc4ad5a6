"""CIFAR-10 and CIFAR-100 as torchvision reads them.

::

    data: {name: cifar, classes: 10, path: path/to/folder}                   # holds cifar-10-batches-py
    data: {name: cifar, classes: 100, path: path/to/folder, download: true}

Validation images (5,000 by default) are held out of the training images, by class. For weights that have seen all
training images, ``val_from: test`` makes one half of the test images the validation split and the other the test split.
"""

from typing import Literal

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from hwprune.datasets.data import Augmentation, Data, ImageSplit, Normalization, assemble
from hwprune.datasets.ordering import holdout
from hwprune.errors import DataError

#: Of the training images; published recipes use these numbers.
NORMALIZATIONS = {
    10: Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    100: Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
SOURCES = {10: CIFAR10, 100: CIFAR100}


def build(
    path: str,
    classes: int = 10,
    download: bool = False,
    val_from: Literal["train", "test"] = "train",
    val_images: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    seed: int = 0,
) -> Data:
    """CIFAR with ``classes`` classes from the folder ``path``.

    Raises:
        DataError: the files are missing or damaged, or an option cannot be used.
    """
    if classes not in SOURCES:
        raise DataError(f"CIFAR has no variant with {classes} classes: take 10 or 100")
    if val_from not in ("train", "test"):
        raise DataError(f"val_from cannot be {val_from!r}: take 'train' or 'test'")
    normalization = Normalization.given(mean, std) or NORMALIZATIONS[classes]
    train_images, train_labels = _read(path, classes, train=True, download=download)
    test_images, test_labels = _read(path, classes, train=False, download=download)

    def split(images: torch.Tensor, labels: torch.Tensor, chosen: torch.Tensor) -> ImageSplit:
        return ImageSplit(images[chosen], labels[chosen], normalization, Augmentation(shift=4, flip=True))

    if val_from == "train":
        val, rest = holdout(train_labels, val_images or 5000, seed)
        splits = (
            split(train_images, train_labels, rest),
            split(train_images, train_labels, val),
            split(test_images, test_labels, torch.arange(len(test_labels))),
        )
    else:
        val, rest = holdout(test_labels, val_images or len(test_labels) // 2, seed)
        splits = (
            split(train_images, train_labels, torch.arange(len(train_labels))),
            split(test_images, test_labels, val),
            split(test_images, test_labels, rest),
        )
    return assemble(*splits, classes)


def _read(path: str, classes: int, *, train: bool, download: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Images ``(n, 3, 32, 32)`` uint8 and labels ``(n,)`` int64."""
    try:
        source = SOURCES[classes](path, train=train, download=download)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"CIFAR-{classes} cannot be read from {path!r} ({error}): "
            "give the folder that holds it, or set download: true"
        ) from error
    images = torch.from_numpy(np.ascontiguousarray(source.data.transpose(0, 3, 1, 2)))
    return images, torch.tensor(source.targets, dtype=torch.int64)
