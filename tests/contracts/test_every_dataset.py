"""What every source in hwprune/datasets must do; one that reads a path has a maker of tiny files here."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hwprune import datasets, plugins
from hwprune.datasets.data import Data
from hwprune.errors import DataError, UnknownNameError

NAMES = plugins.names("hwprune.datasets")


def make_folder(root: Path) -> str:
    for split in ("train", "val", "test"):
        for label in range(2):
            (root / split / f"class{label}").mkdir(parents=True)
            for index in range(6):
                pixels = np.random.default_rng((label, index)).integers(256, size=(8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / f"class{label}" / f"{index}.png")
    return str(root)


def make_arrays(root: Path) -> str:
    random_state = np.random.default_rng(0)
    arrays = {
        f"x_{split}": random_state.integers(256, size=(12, 8, 8, 1)).astype(np.uint8) for split in ("train", "test")
    }
    np.savez(root / "data.npz", y_train=np.arange(12) % 2, y_test=np.arange(12) % 2, **arrays)
    return str(root / "data.npz")


MAKERS: dict[str, Callable[[Path], str]] = {
    "image_folder": make_folder,
    "imagenet": make_folder,
    "arrays": make_arrays,
}


def examples(name: str) -> list[dict[str, object]]:
    """Specs that the module's docstring shows."""
    shown = re.findall(r"^ *data: (\{.*\})", plugins.load("hwprune.datasets", name).__doc__ or "", re.MULTILINE)
    return [yaml.safe_load(spec) for spec in shown]


def reads_a_path(name: str) -> bool:
    return "path" in examples(name)[0]


@pytest.fixture(params=[name for name in NAMES if name in MAKERS or not reads_a_path(name)])
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, object], Data]:
    spec: dict[str, object] = {"name": request.param}
    if request.param in MAKERS:
        spec["path"] = MAKERS[request.param](tmp_path)
    return spec, datasets.load(spec)


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_shows_the_yaml_of_the_data(name: str) -> None:
    assert examples(name)
    assert all(spec["name"] == name for spec in examples(name))


def test_batches_are_normalized_images_of_the_stated_shape_and_classes(loaded: tuple[dict[str, object], Data]) -> None:
    _, data = loaded
    for split in (data.train, data.val, data.test):
        images, targets = zip(*split.batches(5), strict=True)
        assert {batch.dtype for batch in images} == {torch.float32}
        assert torch.cat(images).shape == (len(split), *data.input_shape)
        assert torch.isfinite(torch.cat(images)).all()
        assert 0 <= int(torch.cat(targets).min()) <= int(torch.cat(targets).max()) < data.num_classes


def test_augmented_images_keep_shape_and_targets(loaded: tuple[dict[str, object], Data]) -> None:
    _, data = loaded
    plain = list(data.train.batches(4, shuffle_seed=3, limit=8))
    varied = list(data.train.batches(4, shuffle_seed=3, limit=8, augment=True))
    assert [images.shape for images, _ in plain] == [images.shape for images, _ in varied]
    assert all(torch.equal(a[1], b[1]) for a, b in zip(plain, varied, strict=True))


def test_loading_twice_gives_the_same_data(loaded: tuple[dict[str, object], Data]) -> None:
    spec, data = loaded
    again = datasets.load(spec)
    assert re.fullmatch("[0-9a-f]{64}", data.digest)
    assert again.digest == data.digest
    for split, same in ((data.train, again.train), (data.val, again.val), (data.test, again.test)):
        assert torch.equal(next(split.batches(4, shuffle_seed=1))[0], next(same.batches(4, shuffle_seed=1))[0])


@pytest.mark.parametrize("name", [name for name in NAMES if reads_a_path(name)])
def test_missing_data_are_named_with_the_remedy(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)no_such_place.*: give"):
        datasets.load({"name": name, "path": str(tmp_path / "no_such_place")})


@pytest.mark.parametrize("name", NAMES)
def test_it_refuses_an_option_that_it_does_not_have(name: str) -> None:
    with pytest.raises(UnknownNameError, match="no_such_option"):
        datasets.load({**examples(name)[0], "no_such_option": 1})
