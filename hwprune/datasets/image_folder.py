"""Folders of images, one sub-folder a class.

::

    data: {name: image_folder, path: path/to/folder, val_images: 1000}
    data: {name: image_folder, path: path/to/folder, size: 64, resize: 72, workers: 4, mean: [...], std: [...]}

The folder has ``train/``, ``val/`` and ``test/``, each with the same class folders. Without ``val/``, validation images
are held out of the training images; without ``test/``, one half of ``val/`` is the test split. ``val_images`` takes so
many, by class and always the same. Images are decoded when first read, and kept where they fit into memory.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hwprune.datasets.data import Augmentation, Data, ImageSplit, Normalization, assemble
from hwprune.datasets.files import ImageFiles, class_folders, image_size
from hwprune.datasets.ordering import holdout, stratified_order
from hwprune.errors import DataError

#: Of ImageNet, what most published weights for photographs expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Part = tuple[list[Path], Tensor]


def build(
    path: str,
    val_images: int | None = None,
    size: int | None = None,
    resize: int | None = None,
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
    shift: int | None = None,
    flip: bool = True,
    workers: int = 1,
    seed: int = 0,
    only: Sequence[str] | None = None,
) -> Data:
    """Data set of the image folder at ``path``.

    Args:
        path: of the folder that holds ``train/``.
        val_images: size of the validation split; by default all of ``val/``, or a tenth of ``train/`` without it.
        size: pixels a side; the first image's by default, if it is square.
        resize: pixels of the shorter side before the centre is cut out; ``size`` by default.
        mean: by channel, of pixels in [0, 1].
        std: the same.
        shift: largest random shift of training images in pixels; an eighth of ``size`` by default.
        flip: mirror training images at random.
        workers: threads that decode.
        seed: what orders are drawn with.
        only: class folders that are used; all by default.

    Raises:
        DataError: a folder is missing or empty, lacks a class that is used, classes differ between splits, or an option
            cannot be used.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"there is no folder {path!r}: give one that holds train/ and val/")
    folders = {
        name: class_folders(root / name, only)
        for name in ("train", "val", "test")
        if (root / name).is_dir() or name == "train"
    }
    classes = sorted(folders["train"])
    for name, folder in folders.items():
        if sorted(folder) != classes:
            odd = sorted(set(folder) ^ set(classes))
            raise DataError(
                f"classes of {name}/ and train/ in {path!r} differ ({', '.join(odd[:3])}): give them the same"
            )
    parts = _arrange({name: _list(folder) for name, folder in folders.items()}, val_images, seed, path)
    size = size or _square(parts["train"][0][0])
    resize = resize or size
    if resize < size:
        raise DataError(f"resize {resize} is smaller than size {size}: take at least {size}")
    normalization = Normalization.given(mean, std) or Normalization(MEAN, STD)
    augmentation = Augmentation(size // 8 if shift is None else shift, flip)
    splits = {
        name: ImageSplit(ImageFiles(paths, size, resize, workers), targets, normalization, augmentation)
        for name, (paths, targets) in parts.items()
    }
    return assemble(splits["train"], splits["val"], splits["test"], len(classes))


def _list(folder: Mapping[str, list[Path]]) -> Part:
    paths = [path for files in folder.values() for path in files]
    return paths, torch.tensor([label for label, files in enumerate(folder.values()) for _ in files])


def _arrange(parts: dict[str, Part], val_images: int | None, seed: int, path: str) -> dict[str, Part]:
    """Train, val and test in stratified orders, from the parts that there are."""
    if "val" not in parts and "test" not in parts:
        raise DataError(f"{path!r} has neither val/ nor test/: add one of them")
    if "val" not in parts:
        count = val_images or max(1, len(parts["train"][1]) // 10)
        parts["val"], parts["train"] = _halve(parts["train"], count, seed)
    elif "test" not in parts:
        parts["val"], parts["test"] = _halve(parts["val"], len(parts["val"][1]) // 2, seed)
    available = len(parts["val"][1])
    if val_images is not None and not 0 < val_images <= available:
        raise DataError(f"val_images is {val_images}, but there are {available} for validation: take 1 to {available}")
    orders = {name: torch.from_numpy(stratified_order(targets.numpy(), seed)) for name, (_, targets) in parts.items()}
    orders["val"] = orders["val"][:val_images]
    return {name: _take(parts[name], order) for name, order in orders.items()}


def _halve(part: Part, count: int, seed: int) -> tuple[Part, Part]:
    first, rest = holdout(part[1], count, seed)
    return _take(part, first), _take(part, rest)


def _take(part: Part, indices: Tensor) -> Part:
    paths, targets = part
    return [paths[index] for index in indices.tolist()], targets[indices]


def _square(path: Path) -> int:
    width, height = image_size(path)
    if width != height:
        raise DataError(f"images as {str(path)!r} are not square ({width}x{height}): give a size")
    return width
