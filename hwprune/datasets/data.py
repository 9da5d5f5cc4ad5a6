"""What a data set is: three splits of images and targets, read in normalized batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwprune.errors import DataError

#: Images of each split that enter the digest.
DIGEST_IMAGES = 64


class Split(Protocol):
    """One part of a data set."""

    def __len__(self) -> int: ...

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, augment: bool = False, limit: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of normalized float32 images ``(n, c, h, w)`` and their targets, the last one perhaps smaller.

        Args:
            batch_size: images of a batch.
            shuffle_seed: draws order and augmentation; None keeps the split's own order.
            augment: vary the images at random, as for training.
            limit: stop after so many images.
        """
        ...


class Images(Protocol):
    """Pixels that may be in memory (a tensor) or in files."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor:
        """``(n, c, h, w)`` images of ``(n,)`` indices: uint8, or float32 as it goes to the network."""
        ...


@dataclass(frozen=True)
class Normalization:
    """Affine map of pixels before the network, per channel.

    Attributes:
        mean: subtracted, in units of a pixel scaled to [0, 1] (of the stored number where images are stored as floats).
        std: divided by, in the same units.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(std > 0 for std in self.std):
            raise DataError(
                f"mean {list(self.mean)} and std {list(self.std)} do not fit: "
                "give one of each a channel, every std above 0"
            )

    def apply(self, images: Tensor) -> Tensor:
        """Normalized float32 of ``(n, c, h, w)`` images, uint8 or float32."""
        std = torch.tensor(self.std)
        shift = torch.tensor(self.mean) / std
        scale = 1 / (std * 255) if images.dtype == torch.uint8 else 1 / std
        return (images.float() * scale.view(-1, 1, 1)).sub_(shift.view(-1, 1, 1))

    @classmethod
    def given(cls, mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalization | None:
        """The user's mean and std; None where neither is given.

        Raises:
            DataError: only one of the two is given, or they do not fit.
        """
        if (mean is None) != (std is None):
            raise DataError("mean and std go together: give both or neither")
        return None if mean is None or std is None else cls(tuple(map(float, mean)), tuple(map(float, std)))

    @classmethod
    def of(cls, images: Tensor) -> Normalization:
        """Mean and standard deviation of ``(n, c, h, w)`` uint8 images by channel; a constant channel has std 1.

        Images stored as floats are taken to be normalized already: mean 0, std 1.
        """
        if images.dtype != torch.uint8:
            return cls((0.0,) * images.shape[1], (1.0,) * images.shape[1])
        pixels = images.transpose(0, 1).flatten(1).double() / 255
        std = pixels.std(1, correction=0)
        std[std < 1e-6] = 1
        return cls(tuple(pixels.mean(1).tolist()), tuple(std.tolist()))


@dataclass(frozen=True)
class Augmentation:
    """Random variation of training images.

    Attributes:
        shift: largest shift in pixels in each direction; what comes in is black.
        flip: mirror every second image, left to right.
    """

    shift: int = 0
    flip: bool = False

    def apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A varied copy of ``(n, c, h, w)`` images."""
        n, channels, height, width = images.shape
        if self.flip:
            mirrored = torch.rand(n, generator=generator) < 0.5
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        if self.shift:
            offsets = torch.randint(2 * self.shift + 1, (2, n), generator=generator)
            padded = F.pad(images, (self.shift,) * 4)
            rows = (offsets[0, :, None] + torch.arange(height)).view(n, 1, height, 1)
            columns = (offsets[1, :, None] + torch.arange(width)).view(n, 1, 1, width)
            images = padded[torch.arange(n).view(-1, 1, 1, 1), torch.arange(channels).view(1, -1, 1, 1), rows, columns]
        return images


@dataclass(frozen=True)
class ImageSplit:
    """Images with a target each.

    Attributes:
        images: the pixels, ``(n, c, h, w)``.
        targets: ``(n, ...)``: int64 classes, or whatever the task reads.
        normalization: what is done to the pixels.
        augmentation: how training varies them.
    """

    images: Images
    targets: Tensor
    normalization: Normalization
    augmentation: Augmentation = Augmentation()

    def __len__(self) -> int:
        return len(self.targets)

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, augment: bool = False, limit: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See :meth:`Split.batches`."""
        generator = torch.Generator().manual_seed(shuffle_seed or 0)
        order = torch.arange(len(self)) if shuffle_seed is None else torch.randperm(len(self), generator=generator)
        for indices in torch.split(order[:limit], batch_size):
            images = self.images[indices]
            if augment:
                images = self.augmentation.apply(images, generator)
            yield self.normalization.apply(images), self.targets[indices]

    def sample(self) -> bytes:
        """What identifies the split: its size, targets, normalization and the bytes of some of its images."""
        chosen = torch.from_numpy(np.linspace(0, len(self) - 1, min(len(self), DIGEST_IMAGES)).astype(np.int64))
        parts = (self.targets.numpy(), self.images[chosen].numpy())
        text = f"{[(part.shape, part.dtype.str) for part in parts]} {self.normalization}"
        return b"".join([text.encode(), *(part.tobytes() for part in parts)])


@dataclass(frozen=True)
class Data:
    """A data set: what is learned from, what is decided on, what is reported.

    Attributes:
        train: for training and for re-estimating BatchNorm statistics.
        val: for every decision of a search.
        test: read once, at the end.
        num_classes: number of classes; 1 where targets are not classes.
        input_shape: (channels, height, width) of one image.
        digest: SHA-256 of what identifies the data, hexadecimal.
        normalization: what is done to pixels in [0, 1], for whoever runs the network elsewhere; None where not known.
    """

    train: Split
    val: Split
    test: Split
    num_classes: int
    input_shape: tuple[int, int, int]
    digest: str
    normalization: Normalization | None = None


def assemble(train: ImageSplit, val: ImageSplit, test: ImageSplit, num_classes: int) -> Data:
    """Data set of three splits of equal kind.

    Raises:
        DataError: a split is empty, or images of the splits differ in shape.
    """
    splits = {"train": train, "val": val, "test": test}
    for name, split in splits.items():
        if not len(split):
            raise DataError(f"the {name} split is empty: it needs one image or more")
    shapes = {name: tuple(split.images[torch.tensor([0])].shape[1:]) for name, split in splits.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"images differ in shape between splits, {shapes}: bring them to one size")
    channels, height, width = shapes["train"]
    if channels != len(train.normalization.mean):
        raise DataError(
            f"mean and std have {len(train.normalization.mean)} numbers for {channels} channels: give one a channel"
        )
    digest = hashlib.sha256(b"".join(split.sample() for split in splits.values())).hexdigest()
    return Data(train, val, test, num_classes, (channels, height, width), digest, train.normalization)
