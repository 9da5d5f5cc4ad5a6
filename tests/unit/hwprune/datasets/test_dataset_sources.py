import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from hwprune import datasets
from hwprune.datasets import files
from hwprune.datasets.data import Data, ImageSplit, Normalization, Split, assemble
from hwprune.datasets.imagenet import IMAGENET100
from hwprune.errors import DataError, UnknownNameError


def labels_of(split: Split) -> list[int]:
    return torch.cat([targets for _, targets in split.batches(64)]).tolist()


def stripes(num_classes: int) -> Data:
    images = torch.zeros(6, 1, 4, 4)
    split = ImageSplit(images, torch.arange(6) % num_classes, Normalization.of(images))
    return assemble(split, split, split, num_classes)


# digits


def test_digits_are_split_by_class_without_overlap() -> None:
    data = datasets.load({"name": "digits", "size": 8})
    assert [len(split) for split in (data.train, data.val, data.test)] == [1077, 360, 360]
    for split in (data.val, data.test):
        assert np.bincount(labels_of(split)).min() >= 34
    every = np.concatenate([labels_of(split) for split in (data.train, data.val, data.test)])
    assert (np.bincount(every) == np.bincount(load_digits().target)).all()


def test_digits_of_eight_pixels_are_the_originals() -> None:
    data = datasets.load({"name": "digits", "size": 8})
    assert data.normalization is not None
    images, _ = next(data.test.batches(360))
    pixels = images * data.normalization.std[0] + data.normalization.mean[0]
    originals = {row.tobytes() for row in load_digits().images.astype(np.uint8)}
    assert {row.tobytes() for row in (pixels[:, 0] * 16).round().to(torch.uint8).numpy()} <= originals


def test_digits_are_enlarged_and_repeated_over_channels() -> None:
    data = datasets.load({"name": "digits", "size": 16, "channels": 3})
    images, _ = next(data.val.batches(4))
    assert data.input_shape == (3, 16, 16) == tuple(images.shape[1:])
    assert torch.equal(images[:, 0], images[:, 2])


def test_another_seed_splits_digits_differently() -> None:
    first, second = datasets.load({"name": "digits"}), datasets.load({"name": "digits"}, seed=1)
    assert first.digest == datasets.load({"name": "digits"}).digest != second.digest


@pytest.mark.parametrize("options", [{"size": 7}, {"channels": 2}])
def test_digits_name_the_option_they_cannot_use(options: dict[str, int]) -> None:
    with pytest.raises(DataError, match=r"take (8|1)"):
        datasets.load({"name": "digits", **options})


# names and user data


def test_data_of_the_users_come_by_name() -> None:
    assert datasets.load({"name": f"{__name__}:stripes", "num_classes": 2}).num_classes == 2


def test_an_unknown_source_offers_the_nearest_known_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        datasets.load({"name": "digit"})


def test_an_unknown_option_of_a_source_offers_the_nearest_known_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'size'"):
        datasets.load({"name": "digits", "sise": 16})


# arrays


def written(path: Path, **changes: np.ndarray) -> str:
    random_state = np.random.default_rng(0)
    arrays = {}
    for name, n in (("train", 40), ("val", 20), ("test", 10)):
        arrays[f"x_{name}"] = random_state.integers(256, size=(n, 6, 6, 3), dtype=np.uint8)
        arrays[f"y_{name}"] = np.arange(n) % 5
    arrays.update(changes)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return str(path)


def test_arrays_of_bytes_are_read_channels_first(tmp_path: Path) -> None:
    path = written(tmp_path / "data.npz")
    data = datasets.load({"name": "arrays", "path": path, "mean": [0, 0, 0], "std": [1, 1, 1]})
    assert (data.input_shape, data.num_classes, len(data.train)) == ((3, 6, 6), 5, 40)
    images, _ = next(data.train.batches(40))
    expected = np.load(path)["x_train"].transpose(0, 3, 1, 2) / 255
    assert np.allclose(images.numpy(), expected, atol=1e-6)


def test_grey_arrays_need_no_channel_axis(tmp_path: Path) -> None:
    grey = {f"x_{name}": np.ones((n, 6, 6), np.uint8) for name, n in (("train", 40), ("val", 20), ("test", 10))}
    assert datasets.load({"name": "arrays", "path": written(tmp_path / "data.npz", **grey)}).input_shape == (1, 6, 6)


def test_float_arrays_go_to_the_network_as_they_are(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 2, 6, 6))
    path = written(tmp_path / "data.npz", x_train=x, x_val=x[:20], x_test=x[:10])
    images, _ = next(datasets.load({"name": "arrays", "path": path}).train.batches(40))
    assert torch.equal(images, torch.from_numpy(x.astype(np.float32)))


def test_arrays_without_validation_hold_some_out_of_the_training_images(tmp_path: Path) -> None:
    path = written(tmp_path / "data.npz", x_val=None, y_val=None)
    data = datasets.load({"name": "arrays", "path": path, "val_images": 10})
    assert (len(data.train), len(data.val), len(data.test)) == (30, 10, 10)
    assert (np.bincount(labels_of(data.val)) == 2).all()


def test_validation_images_of_arrays_can_be_fewer_by_class(tmp_path: Path) -> None:
    data = datasets.load({"name": "arrays", "path": written(tmp_path / "data.npz"), "val_images": 10})
    assert (np.bincount(labels_of(data.val)) == 2).all()


def test_targets_may_be_maps_of_classes_or_numbers(tmp_path: Path) -> None:
    maps = {f"y_{name}": np.ones((n, 6, 6), np.uint8) for name, n in (("train", 40), ("val", 20), ("test", 10))}
    assert datasets.load({"name": "arrays", "path": written(tmp_path / "maps.npz", **maps)}).num_classes == 2
    boxes = {f"y_{name}": np.ones((n, 4)) for name, n in (("train", 40), ("val", 20), ("test", 10))}
    data = datasets.load({"name": "arrays", "path": written(tmp_path / "boxes.npz", **boxes)})
    assert data.num_classes == 1
    assert next(data.train.batches(2))[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, "no array y_train"),
        ({"x_test": None}, "no array x_test"),
        ({"y_train": np.zeros(39, int)}, "40 images in x_train and 39 targets"),
        ({"x_train": np.zeros((40, 3, 32, 32), np.uint8)}, r"uint8 of shape \(40, 3, 32, 32\)"),
        ({"x_train": np.zeros((40, 36))}, r"float64 of shape \(40, 36\)"),
        ({"y_train": np.array(["cat"] * 40)}, "integers or floats"),
        ({"y_test": np.full(10, -1)}, "number classes from 0"),
        ({"y_train": np.arange(40) % 4}, "class 4 of .* has no training image"),
        ({"x_test": np.zeros((10, 8, 8, 3), np.uint8)}, "differ in shape"),
        ({"x_val": np.zeros((0, 6, 6, 3), np.uint8), "y_val": np.zeros(0, int)}, "val split is empty"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        datasets.load({"name": "arrays", "path": written(tmp_path / "data.npz", **changes)})


def test_more_validation_images_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="take 1 to 20"):
        datasets.load({"name": "arrays", "path": written(tmp_path / "data.npz"), "val_images": 21})


def test_a_missing_array_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        datasets.load({"name": "arrays", "path": str(tmp_path / "none.npz")})


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_a_damaged_array_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        datasets.load({"name": "arrays", "path": str(path)})


def test_a_single_array_is_no_data_set(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.zeros(3))
    with pytest.raises(DataError, match="cannot be read"):
        datasets.load({"name": "arrays", "path": str(tmp_path / "data.npy")})


# image folders


def image_folder(root: Path, splits: dict[str, int], classes: tuple[str, ...] = ("cat", "dog"), size: int = 8) -> str:
    """Folders with ``splits[name]`` images a class; the red channel is the class, the green one the image's number."""
    for split, count in splits.items():
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (size, size), (label * 100, index, 7)).save(folder / f"{index:03d}.png")
    return str(root)


def test_image_folders_give_pixels_and_classes(tmp_path: Path) -> None:
    path = image_folder(tmp_path, {"train": 6, "val": 4, "test": 3})
    data = datasets.load({"name": "image_folder", "path": path, "mean": [0, 0, 0], "std": [1, 1, 1]})
    assert (data.input_shape, data.num_classes) == ((3, 8, 8), 2)
    assert [len(split) for split in (data.train, data.val, data.test)] == [12, 8, 6]
    images, targets = next(data.test.batches(6))
    assert torch.allclose(images[:, 0, 0, 0] * 255, targets * 100.0, atol=1e-3)
    assert torch.allclose(images[:, 2] * 255, torch.tensor(7.0), atol=1e-3)


def test_validation_images_of_a_folder_are_some_of_each_class_and_always_the_same(tmp_path: Path) -> None:
    path = image_folder(tmp_path, {"train": 6, "val": 10, "test": 3})
    spec = {"name": "image_folder", "path": path, "val_images": 6}
    first, again = datasets.load(spec), datasets.load(spec)
    assert sorted(labels_of(first.val)) == [0, 0, 0, 1, 1, 1]
    assert first.digest == again.digest
    assert torch.equal(next(first.val.batches(6))[0], next(again.val.batches(6))[0])


def test_a_folder_without_validation_holds_some_out_of_the_training_images(tmp_path: Path) -> None:
    path = image_folder(tmp_path, {"train": 10, "test": 3})
    data = datasets.load({"name": "image_folder", "path": path, "val_images": 4})
    assert [len(split) for split in (data.train, data.val, data.test)] == [16, 4, 6]
    kept = {tuple(image[:, 0, 0].tolist()) for image in next(data.train.batches(16))[0]}
    assert not kept & {tuple(image[:, 0, 0].tolist()) for image in next(data.val.batches(4))[0]}


def test_a_folder_without_test_images_halves_the_validation_images(tmp_path: Path) -> None:
    path = image_folder(tmp_path, {"train": 3, "val": 10})
    data = datasets.load({"name": "image_folder", "path": path, "val_images": 4})
    assert [len(split) for split in (data.train, data.val, data.test)] == [6, 4, 10]
    assert sorted(labels_of(data.test)) == [0] * 5 + [1] * 5


def test_images_of_another_size_are_scaled_and_cut_in_the_middle(tmp_path: Path) -> None:
    folder = Path(image_folder(tmp_path, {"train": 1, "val": 1, "test": 1}))
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, 4:12] = 255  # the centre of a wide picture is white
    Image.fromarray(picture).save(folder / "val" / "cat" / "000.png")
    data = datasets.load({"name": "image_folder", "path": str(folder), "size": 8, "mean": [0] * 3, "std": [1] * 3})
    images, targets = next(data.val.batches(2))
    assert torch.equal(images[targets == 0], torch.ones(1, 3, 8, 8))


def test_resize_scales_the_shorter_side_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    cut = files.ImageFiles([path], size=4, resize=8)[torch.tensor([0])][0, 0]
    assert torch.equal(cut, torch.arange(64, dtype=torch.uint8).reshape(8, 8)[2:6, 2:6])


def test_images_are_decoded_once_where_they_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", (4, 4), (1, 2, 3)).save(path)
    kept = files.ImageFiles([path], 4, 4)
    monkeypatch.setattr(files, "KEPT_BYTES", 0)
    read_anew = files.ImageFiles([path], 4, 4)
    for images in (kept, read_anew):
        assert images[torch.tensor([0, 0])].shape == (2, 3, 4, 4)
    path.unlink()
    assert kept[torch.tensor([0])][0, :, 0, 0].tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="cannot be decoded"):
        read_anew[torch.tensor([0])]


def test_several_workers_read_the_same_pixels(tmp_path: Path) -> None:
    paths = []
    for index in range(9):
        paths.append(tmp_path / f"{index}.png")
        Image.new("RGB", (4, 4), (index, 0, 0)).save(paths[-1])
    chosen = torch.tensor([8, 3, 3, 0])
    one, three = (files.ImageFiles(paths, 4, 4, workers)[chosen] for workers in (1, 3))
    assert torch.equal(one, three)
    assert one[:, 0, 0, 0].tolist() == [8, 3, 3, 0]


def test_grey_images_become_three_channels(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 5).save(tmp_path / "x.png")
    assert (files.ImageFiles([tmp_path / "x.png"], 4, 4)[torch.tensor([0])] == 5).all()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*none"):
        datasets.load({"name": "image_folder", "path": str(tmp_path / "none")})


def test_a_folder_without_training_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*train"):
        datasets.load({"name": "image_folder", "path": image_folder(tmp_path, {"val": 2})})


def test_a_folder_without_anything_to_decide_on_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither val/ nor test/"):
        datasets.load({"name": "image_folder", "path": image_folder(tmp_path, {"train": 2})})


def test_a_folder_without_classes_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        datasets.load({"name": "image_folder", "path": str(tmp_path)})


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    path = image_folder(tmp_path, {"train": 2, "val": 2})
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(DataError, match=r"cow.* has no images"):
        datasets.load({"name": "image_folder", "path": path})


def test_classes_that_differ_between_splits_are_named(tmp_path: Path) -> None:
    image_folder(tmp_path, {"train": 2})
    path = image_folder(tmp_path, {"val": 2}, classes=("cat", "cow"))
    with pytest.raises(DataError, match="differ \\(cow, dog\\)"):
        datasets.load({"name": "image_folder", "path": path})


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    path = image_folder(tmp_path, {"train": 2, "val": 4})
    for file in (tmp_path / "val" / "cat").iterdir():
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match="cannot be decoded"):
        datasets.load({"name": "image_folder", "path": path})


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    path = image_folder(tmp_path, {"train": 1, "val": 4})
    for file in (tmp_path / "train").rglob("*.png"):
        file.write_text("not an image")
    with pytest.raises(DataError, match="cannot be decoded"):
        datasets.load({"name": "image_folder", "path": path})


def test_images_that_are_not_square_need_a_size(tmp_path: Path) -> None:
    path = image_folder(tmp_path, {"train": 1, "val": 4})
    for file in (tmp_path / "train").rglob("*.png"):
        Image.new("RGB", (8, 6)).save(file)
    with pytest.raises(DataError, match=r"8x6.* give a size"):
        datasets.load({"name": "image_folder", "path": path})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"val_images": 9}, "take 1 to 8"), ({"size": 8, "resize": 4}, "at least 8"), ({"std": [0, 1, 1]}, "above 0")],
)
def test_image_folders_name_the_option_they_cannot_use(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    path = image_folder(tmp_path, {"train": 2, "val": 4, "test": 1})
    with pytest.raises(DataError, match=message):
        datasets.load({"name": "image_folder", "path": path, **options})


def test_imagenet_scales_to_256_and_cuts_224(tmp_path: Path) -> None:
    path = image_folder(tmp_path, {"train": 1, "val": 2}, size=300)
    data = datasets.load({"name": "imagenet", "path": path})
    assert data.input_shape == (3, 224, 224)
    assert (len(data.val), len(data.test)) == (2, 2)


def test_imagenet_100_is_taken_out_of_a_larger_folder(tmp_path: Path) -> None:
    classes = IMAGENET100.read_text().split()
    assert len(set(classes)) == 100
    for split in ("train", "val", "test"):
        for name in (*classes, "n00000000"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "image.png")
    data = datasets.load({"name": "imagenet", "path": str(tmp_path), "classes": 100, "size": 8, "resize": 8})
    assert (data.num_classes, len(data.train)) == (100, 100)
    (tmp_path / "train" / classes[7] / "image.png").unlink()
    (tmp_path / "train" / classes[7]).rmdir()
    with pytest.raises(DataError, match=f"lacks 1 of 100 classes, {classes[7]} the first"):
        datasets.load({"name": "imagenet", "path": str(tmp_path), "classes": 100})
    with pytest.raises(DataError, match="take 100"):
        datasets.load({"name": "imagenet", "path": str(tmp_path), "classes": 10})


# CIFAR


@pytest.fixture
def cifar_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forty training and twenty test images in CIFAR-10's own format, with the checksums that torchvision looks for."""
    folder = tmp_path / torchvision.datasets.CIFAR10.base_folder
    folder.mkdir()
    random_state = np.random.default_rng(0)

    def write(name: str, content: dict[str, object]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    def images(n: int) -> dict[str, object]:
        return {
            "data": random_state.integers(256, size=(n, 3072), dtype=np.uint8),
            "labels": (np.arange(n) % 10).tolist(),
        }

    source = torchvision.datasets.CIFAR10
    monkeypatch.setattr(source, "train_list", [["data_batch_1", write("data_batch_1", images(40))]])
    monkeypatch.setattr(source, "test_list", [["test_batch", write("test_batch", images(20))]])
    meta = {"filename": "batches.meta", "key": "label_names"}
    digest = write("batches.meta", {"label_names": [str(label) for label in range(10)]})
    monkeypatch.setattr(source, "meta", {**meta, "md5": digest})
    return str(tmp_path)


def test_cifar_holds_validation_images_out_of_the_training_images(cifar_folder: str) -> None:
    data = datasets.load({"name": "cifar", "path": cifar_folder, "val_images": 10})
    assert (len(data.train), len(data.val), len(data.test)) == (30, 10, 20)
    assert sorted(labels_of(data.val)) == list(range(10))
    assert (data.input_shape, data.num_classes) == ((3, 32, 32), 10)


def test_cifar_can_take_one_half_of_the_test_images_for_validation(cifar_folder: str) -> None:
    data = datasets.load({"name": "cifar", "path": cifar_folder, "val_from": "test"})
    assert (len(data.train), len(data.val), len(data.test)) == (40, 10, 10)
    assert sorted(labels_of(data.test)) == list(range(10))


def test_a_damaged_cifar_file_is_named(cifar_folder: str) -> None:
    next(Path(cifar_folder).rglob("data_batch_1")).write_bytes(b"damaged")
    with pytest.raises(DataError, match="set download: true"):
        datasets.load({"name": "cifar", "path": cifar_folder, "val_images": 10})


def test_missing_cifar_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="CIFAR-100 cannot be read from"):
        datasets.load({"name": "cifar", "path": str(tmp_path), "classes": 100})


@pytest.mark.parametrize("options", [{"classes": 20}, {"val_from": "train+test"}])
def test_cifar_names_the_option_it_cannot_use(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"take (10|'train')"):
        datasets.load({"name": "cifar", "path": str(tmp_path), **options})
