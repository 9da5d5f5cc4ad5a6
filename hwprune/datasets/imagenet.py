"""ImageNet, or any folder of photographs, cut as its published weights expect: shorter side 256, centre 224.

::

    data: {name: imagenet, path: path/to/imagenet, val_images: 5000, workers: 4}

The folder is that of :mod:`hwprune.datasets.image_folder`; with ``train/`` and ``val/`` alone, half of ``val/`` is the
test split.
"""

from hwprune.datasets import image_folder
from hwprune.datasets.data import Data


def build(
    path: str, val_images: int | None = None, size: int = 224, resize: int = 256, workers: int = 1, seed: int = 0
) -> Data:
    """ImageNet in the folder ``path``; see :func:`hwprune.datasets.image_folder.build`."""
    return image_folder.build(path, val_images=val_images, size=size, resize=resize, workers=workers, seed=seed)
