"""ImageNet, or any folder of photographs, cut as its published weights expect: shorter side 256, centre 224.

::

    data: {name: imagenet, path: path/to/imagenet, val_images: 5000, workers: 4}
    data: {name: imagenet, path: path/to/imagenet, classes: 100}     # ImageNet-100, out of the same folder

The folder is that of :mod:`hwprune.datasets.image_folder`; with ``train/`` and ``val/`` alone, half of ``val/`` is the
test split. The classes of ImageNet-100 are those of Tian, Krishnan, Isola: Contrastive multiview coding (2019), listed
in ``imagenet100.txt``.
"""

from pathlib import Path

from hwprune.datasets import image_folder
from hwprune.datasets.data import Data
from hwprune.errors import DataError

IMAGENET100 = Path(__file__).with_name("imagenet100.txt")


def build(
    path: str,
    val_images: int | None = None,
    size: int = 224,
    resize: int = 256,
    classes: int | None = None,
    workers: int = 1,
    seed: int = 0,
) -> Data:
    """ImageNet in the folder ``path``; see :func:`hwprune.datasets.image_folder.build`.

    Raises:
        DataError: ``classes`` is not 100, or the folder lacks one of ImageNet-100's.
    """
    if classes not in (None, 100):
        raise DataError(
            f"there is no list of {classes} classes: take 100 for ImageNet-100, or leave classes out for all"
        )
    only = None if classes is None else IMAGENET100.read_text().split()
    return image_folder.build(
        path, val_images=val_images, size=size, resize=resize, workers=workers, seed=seed, only=only
    )
