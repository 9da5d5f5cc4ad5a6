"""Images that were written decoded come back as they were."""

from pathlib import Path

import torch

from hwprune import datasets
from hwprune.datasets import mapped


def test_mapped_images_are_the_same_in_every_batch(tmp_path: Path) -> None:
    data = datasets.load({"name": "digits", "size": 8})
    assert mapped.size_bytes(data) == 1797 * 64
    mapped.save(data, tmp_path)
    found = mapped.load(tmp_path)
    assert (found.digest, found.input_shape, found.num_classes) == (data.digest, data.input_shape, data.num_classes)
    for name in ("train", "val", "test"):
        one, other = getattr(data, name), getattr(found, name)
        assert len(one) == len(other)
        batches = (split.batches(100, shuffle_seed=1, augment=True, limit=250) for split in (one, other))
        for (images, targets), (mapped_images, mapped_targets) in zip(*batches, strict=True):
            assert torch.equal(images, mapped_images)
            assert torch.equal(targets, mapped_targets)
