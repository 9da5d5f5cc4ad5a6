"""The 1,797 handwritten digits that come with scikit-learn: no download, the quickstart's data.

::

    data: {name: digits, size: 16}                # 8x8 pixels, enlarged to 16x16
    data: {name: digits, size: 32, channels: 3}   # grey in three equal channels

Split by class into 1,077 images for training, 360 for validation and 360 for test.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from hwprune.datasets.data import Augmentation, Data, ImageSplit, Normalization, assemble
from hwprune.datasets.ordering import stratified_order
from hwprune.errors import DataError

HOLDOUT = 360


def build(size: int = 16, channels: int = 1, seed: int = 0) -> Data:
    """Digits of ``size`` pixels a side.

    Raises:
        DataError: ``size`` is below 8, or ``channels`` is neither 1 nor 3.
    """
    if size < 8:
        raise DataError(f"digits cannot have size {size}: they have 8 pixels a side, take 8 or more")
    if channels not in (1, 3):
        raise DataError(f"digits cannot have {channels} channels: take 1 or 3")
    source = load_digits()
    labels = source.target.astype(np.int64)
    pixels = torch.from_numpy(source.images).float()[:, None] * (255 / 16)
    enlarged = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)
    images = enlarged.round().to(torch.uint8).repeat(1, channels, 1, 1)
    order = torch.from_numpy(stratified_order(labels, seed))
    normalization = Normalization.of(images[order[2 * HOLDOUT :]])

    def split(indices: torch.Tensor) -> ImageSplit:
        augmentation = Augmentation(shift=size // 8)  # one pixel of the original; a mirrored digit is none
        return ImageSplit(images[indices], torch.from_numpy(labels)[indices], normalization, augmentation)

    return assemble(
        split(order[2 * HOLDOUT :]), split(order[:HOLDOUT]), split(order[HOLDOUT : 2 * HOLDOUT]), int(labels.max()) + 1
    )
