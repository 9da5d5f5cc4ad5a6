"""A data set's images in one file, decoded, that processes map into their memory instead of reading them again."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hwprune.datasets.data import Data, ImageSplit, Split

#: Images that are decoded at a time.
_CHUNK = 1024


def size_bytes(data: Data) -> int | None:
    """Memory that the decoded images take; None for splits that are no images with a target each."""
    total = 0
    for split in _splits(data).values():
        if not isinstance(split, ImageSplit):
            return None
        total += len(split) * split.images[torch.tensor([0])].nbytes
    return total


def save(data: Data, folder: Path) -> None:
    """Write all images and targets, and what else there is to know of them."""
    tensors: dict[str, Tensor] = {}
    bare: dict[str, Any] = {}
    for name, split in _splits(data).items():
        assert isinstance(split, ImageSplit)  # size_bytes has told so
        chunks = torch.split(torch.arange(len(split)), _CHUNK)
        tensors[f"{name}.images"] = torch.cat([split.images[chunk] for chunk in chunks]).contiguous()
        tensors[f"{name}.targets"] = split.targets.contiguous()
        bare[name] = replace(split, images=torch.empty(0), targets=torch.empty(0))
    safetensors.torch.save_file(tensors, folder / "images.safetensors")
    (folder / "data.pickle").write_bytes(pickle.dumps(replace(data, **bare)))


def load(folder: Path) -> Data:
    """The data set that :func:`save` wrote, mapped."""
    tensors: dict[str, Tensor] = safetensors.torch.load_file(folder / "images.safetensors")
    bare: Data = pickle.loads((folder / "data.pickle").read_bytes())
    whole: dict[str, Any] = {
        name: replace(split, images=tensors[f"{name}.images"], targets=tensors[f"{name}.targets"])
        for name, split in _splits(bare).items()
        if isinstance(split, ImageSplit)
    }
    return replace(bare, **whole)


def _splits(data: Data) -> dict[str, Split]:
    return {"train": data.train, "val": data.val, "test": data.test}
