import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwprune.datasets.data import Augmentation, ImageSplit, Normalization, assemble
from hwprune.datasets.ordering import holdout, stratified_order
from hwprune.errors import DataError

IDENTITY = Normalization((0.0,), (1.0,))
NO_AUGMENTATION = Augmentation()


def split_of(images: torch.Tensor, augmentation: Augmentation = NO_AUGMENTATION) -> ImageSplit:
    return ImageSplit(images, torch.arange(len(images)), Normalization.of(images), augmentation)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 5))
def test_every_prefix_of_a_stratified_order_holds_the_classes_in_proportion(classes: list[int], seed: int) -> None:
    labels = np.array(classes)
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    share = np.bincount(labels, minlength=4) / len(labels)
    for n in range(1, len(labels) + 1):
        assert np.abs(np.bincount(labels[order[:n]], minlength=4) - share * n).max() < 4


def test_a_stratified_prefix_of_balanced_classes_is_balanced() -> None:
    labels = np.repeat(np.arange(10), 50)
    assert (np.bincount(labels[stratified_order(labels, 3)[:100]]) == 10).all()


def test_orders_differ_between_seeds_and_repeat_for_the_same_one() -> None:
    labels = np.repeat(np.arange(5), 20)
    assert (stratified_order(labels, 1) == stratified_order(labels, 1)).all()
    assert (stratified_order(labels, 1) != stratified_order(labels, 2)).any()


def test_targets_that_are_no_classes_are_ordered_at_random() -> None:
    assert sorted(stratified_order(np.zeros((9, 4, 4), np.int64), 0)) == list(range(9))


@pytest.mark.parametrize("count", [0, 10, 11])
def test_a_holdout_must_leave_something_on_both_sides(count: int) -> None:
    with pytest.raises(DataError, match="take 1 to 9"):
        holdout(torch.arange(10), count, 0)


def test_normalization_is_mean_and_standard_deviation_of_the_pixels() -> None:
    images = torch.randint(256, (20, 2, 5, 5), dtype=torch.uint8)
    out = Normalization.of(images).apply(images).transpose(0, 1).flatten(1)
    assert torch.allclose(out.mean(1), torch.zeros(2), atol=1e-5)
    assert torch.allclose(out.std(1, correction=0), torch.ones(2), atol=1e-5)


def test_normalization_follows_torchvisions_formula() -> None:
    image = torch.randint(256, (1, 3, 4, 4), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (image / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(Normalization(mean, std).apply(image), expected, atol=1e-6)


def test_floats_are_normalized_in_their_own_units_and_not_changed_in_place() -> None:
    images = torch.full((1, 1, 2, 2), 5.0)
    assert torch.equal(Normalization((3.0,), (2.0,)).apply(images), torch.ones(1, 1, 2, 2))
    assert torch.equal(images, torch.full((1, 1, 2, 2), 5.0))


def test_a_constant_channel_can_be_normalized() -> None:
    images = torch.full((3, 1, 2, 2), 51, dtype=torch.uint8)
    assert torch.allclose(Normalization.of(images).apply(images), torch.zeros(3, 1, 2, 2), atol=1e-6)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.1, 0.1)), ((0.5,), (0.0,))])
def test_mean_and_std_that_do_not_fit_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="every std above 0"):
        Normalization(mean, std)


def test_mean_without_std_is_refused() -> None:
    with pytest.raises(DataError, match="both or neither"):
        Normalization.given([0.5], None)


def test_augmentation_shifts_within_its_limit_and_brings_in_black() -> None:
    images = torch.zeros(200, 1, 7, 7, dtype=torch.uint8)
    images[:, :, 3, 3] = 9
    out = Augmentation(shift=2).apply(images, torch.Generator().manual_seed(0))
    assert (out.flatten(1).sum(1) == 9).all()
    rows, columns = np.nonzero(out.sum((0, 1)).numpy())
    assert set(rows) == set(columns) == {1, 2, 3, 4, 5}


def test_augmentation_mirrors_about_half_of_the_images() -> None:
    images = torch.tensor([1, 2], dtype=torch.uint8).repeat(400, 1, 1, 1)
    out = Augmentation(flip=True).apply(images, torch.Generator().manual_seed(0))
    mirrored = (out[:, 0, 0] == torch.tensor([2, 1])).all(1)
    kept = (out[:, 0, 0] == torch.tensor([1, 2])).all(1)
    assert (mirrored ^ kept).all()
    assert 150 < int(mirrored.sum()) < 250


def test_batches_keep_the_splits_order_and_end_at_the_limit() -> None:
    split = split_of(torch.zeros(10, 1, 2, 2))
    assert [targets.tolist() for _, targets in split.batches(4, limit=6)] == [[0, 1, 2, 3], [4, 5]]


def test_shuffled_batches_hold_every_image_once_and_repeat_with_the_seed() -> None:
    split = split_of(torch.randn(10, 1, 4, 4), Augmentation(shift=1, flip=True))
    first = list(split.batches(3, shuffle_seed=1, augment=True))
    again = list(split.batches(3, shuffle_seed=1, augment=True))
    other = torch.cat([targets for _, targets in split.batches(3, shuffle_seed=2)])
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    shuffled = torch.cat([targets for _, targets in first])
    assert sorted(shuffled.tolist()) == list(range(10))
    assert shuffled.tolist() != other.tolist()


def test_the_digest_tells_pixels_targets_and_normalization_apart() -> None:
    images = torch.randint(256, (8, 1, 4, 4), dtype=torch.uint8)
    changed = images.clone()
    changed[0, 0, 0, 0] += 1
    targets = torch.arange(8)

    def digest(images: torch.Tensor, targets: torch.Tensor, normalization: Normalization) -> str:
        split = ImageSplit(images, targets, normalization)
        return assemble(split, split, split, 8).digest

    digests = [
        digest(images, targets, IDENTITY),
        digest(changed, targets, IDENTITY),
        digest(images, targets.flip(0), IDENTITY),
        digest(images, targets, Normalization((0.1,), (1.0,))),
    ]
    assert len(set(digests)) == 4
    assert digests[0] == digest(images.clone(), targets.clone(), IDENTITY)


def test_an_empty_split_is_named() -> None:
    full, empty = split_of(torch.zeros(2, 1, 2, 2)), split_of(torch.zeros(0, 1, 2, 2))
    with pytest.raises(DataError, match="val split is empty"):
        assemble(full, empty, full, 2)


def test_splits_of_different_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="differ in shape"):
        assemble(
            split_of(torch.zeros(2, 1, 2, 2)), split_of(torch.zeros(2, 1, 3, 3)), split_of(torch.zeros(2, 1, 2, 2)), 2
        )


def test_a_normalization_of_other_channels_is_refused() -> None:
    split = ImageSplit(torch.zeros(2, 3, 2, 2), torch.arange(2), IDENTITY)
    with pytest.raises(DataError, match="1 numbers for 3 channels"):
        assemble(split, split, split, 2)
