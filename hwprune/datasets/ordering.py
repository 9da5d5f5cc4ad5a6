"""Orders of images of which every prefix holds the classes in their proportions: splits and subsets are prefixes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwprune.errors import DataError


def stratified_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Permutation of ``range(n)``, random inside each class, of which every prefix is stratified.

    Args:
        labels: ``(n,)`` classes; with more axes (targets that are no classes) the order is simply random.
        seed: what the order is drawn with.
    """
    random_state = np.random.default_rng(seed)
    shuffled = random_state.permutation(len(labels))
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        return shuffled
    classes = labels[shuffled]
    by_class = np.argsort(classes, kind="stable")
    _, starts, counts = np.unique(classes[by_class], return_index=True, return_counts=True)
    place = np.empty(len(labels))  # of an image in its class, in (0, 1)
    place[by_class] = (np.arange(len(labels)) - np.repeat(starts, counts) + 0.5) / np.repeat(counts, counts)
    # Equal places (balanced classes) keep the random order of the shuffle.
    return shuffled[np.argsort(place, kind="stable")]


def holdout(targets: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of ``count`` stratified images, and those of the others.

    Both come in a stratified order.

    Raises:
        DataError: ``count`` is not positive, or would leave nothing.
    """
    if not 0 < count < len(targets):
        raise DataError(f"{count} images cannot be held out of {len(targets)}: take 1 to {len(targets) - 1}")
    order = torch.from_numpy(stratified_order(targets.numpy(), seed))
    return order[:count], order[count:]
