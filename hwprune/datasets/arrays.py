"""Images and targets in one NumPy file.

::

    data: {name: arrays, path: path/to/data.npz}
    data: {name: arrays, path: path/to/data.npz, mean: [0.5], std: [0.25], shift: 2, flip: true}

The file holds ``x_train``, ``y_train``, ``x_test``, ``y_test`` and, if it has a validation split, ``x_val``, ``y_val``;
otherwise ``val_images`` (a tenth by default) are held out of the training images. Images are uint8 ``(n, h, w)`` or
``(n, h, w, c)``, or float ``(n, c, h, w)`` as the network takes them. Targets are integer classes ``(n,)``, or for a
task of your own integers or floats of any shape. Without ``mean`` and ``std``, uint8 images get those of the training
images.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwprune.datasets.data import Augmentation, Data, ImageSplit, Normalization, assemble
from hwprune.datasets.ordering import holdout, stratified_order
from hwprune.errors import DataError

#: More channels than this in the last axis of uint8 images means that it is not the axis of channels.
MAX_CHANNELS = 16


def build(
    path: str,
    val_images: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    shift: int = 0,
    flip: bool = False,
    seed: int = 0,
) -> Data:
    """Data set of the ``.npz`` file at ``path``.

    Args:
        path: of the file.
        val_images: size of the validation split; of one in the file, the first so many of a stratified order.
        mean: by channel, of pixels in [0, 1].
        std: the same.
        shift: largest random shift of training images, in pixels.
        flip: mirror training images at random; only for targets that do not move with the pixels.
        seed: what orders are drawn with.

    Raises:
        DataError: the file or an array is missing or damaged, or arrays do not fit each other.
    """
    arrays = _read(path)
    parts = {
        name: _split(arrays, name, path) for name in ("train", "val", "test") if f"x_{name}" in arrays or name != "val"
    }
    images, targets = parts["train"]
    if "val" not in parts:
        val, rest = holdout(targets, val_images or max(1, len(targets) // 10), seed)
        parts["val"] = images[val], targets[val]
        parts["train"] = images[rest], targets[rest]
    else:
        parts["val"] = _first(*parts["val"], val_images, seed)
    num_classes = _count_classes({name: part[1] for name, part in parts.items()}, path)
    normalization = Normalization.given(mean, std) or Normalization.of(parts["train"][0])
    augmentation = Augmentation(shift, flip)
    splits = {name: ImageSplit(*part, normalization, augmentation) for name, part in parts.items()}
    return assemble(splits["train"], splits["val"], splits["test"], num_classes)


def _read(path: str) -> Mapping[str, NDArray[np.generic]]:
    if not Path(path).is_file():
        raise DataError(f"there is no file {path!r}: give the path of an .npz file")
    try:
        with open(path, "rb") as file:
            archive = np.load(file)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path!r} cannot be read ({error}): write it with numpy.savez") from error


def _split(arrays: Mapping[str, NDArray[np.generic]], name: str, path: str) -> tuple[Tensor, Tensor]:
    """Images ``(n, c, h, w)`` and targets of one split."""
    for key in (f"x_{name}", f"y_{name}"):
        if key not in arrays:
            raise DataError(f"{path!r} has no array {key}, only {', '.join(sorted(arrays)) or 'none'}: add it")
    x, y = arrays[f"x_{name}"], arrays[f"y_{name}"]
    if len(x) != len(y):
        raise DataError(f"{path!r} has {len(x)} images in x_{name} and {len(y)} targets in y_{name}: make them as many")
    return _images(x, f"x_{name}", path), _targets(y, f"y_{name}", path)


def _images(x: NDArray[np.generic], key: str, path: str) -> Tensor:
    if x.dtype == np.uint8:
        x = x[..., None] if x.ndim == 3 else x
        if x.ndim == 4 and x.shape[3] <= MAX_CHANNELS:
            return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    elif np.issubdtype(x.dtype, np.floating) and x.ndim == 4:
        return torch.from_numpy(x.astype(np.float32))
    raise DataError(
        f"{key} in {path!r} is {x.dtype} of shape {x.shape}: "
        "store uint8 (n, h, w) or (n, h, w, c), or float (n, c, h, w)"
    )


def _targets(y: NDArray[np.generic], key: str, path: str) -> Tensor:
    if np.issubdtype(y.dtype, np.integer):
        return torch.from_numpy(y.astype(np.int64))
    if np.issubdtype(y.dtype, np.floating):
        return torch.from_numpy(y.astype(np.float32))
    raise DataError(f"{key} in {path!r} holds {y.dtype}: expected integers or floats")


def _first(images: Tensor, targets: Tensor, count: int | None, seed: int) -> tuple[Tensor, Tensor]:
    if count is not None and not 0 < count <= len(targets):
        raise DataError(
            f"val_images is {count}, but the validation split has {len(targets)} images: take 1 to {len(targets)}"
        )
    order = torch.from_numpy(stratified_order(targets.numpy(), seed))[:count]
    return images[order], targets[order]


def _count_classes(targets: Mapping[str, Tensor], path: str) -> int:
    """Classes of ``(n,)`` integer targets; of integers with more axes (pixel classes) too; 1 for anything else."""
    if any(part.is_floating_point() for part in targets.values()):
        return 1
    classes = {name: torch.unique(part) for name, part in targets.items() if len(part)}
    lowest = min((int(found.min()) for found in classes.values()), default=0)
    highest = max((int(found.max()) for found in classes.values()), default=0)
    if lowest < 0:
        raise DataError(f"{path!r} has the class {lowest}: number classes from 0")
    missing = set(range(highest + 1)) - set(classes.get("train", torch.tensor([])).tolist())
    if missing and targets["train"].ndim == 1:
        raise DataError(
            f"class {min(missing)} of {path!r} has no training image: add one, or number classes without gaps"
        )
    return highest + 1
