from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune import tasks
from hwprune.datasets.data import Augmentation, Data, ImageSplit, Normalization, assemble
from hwprune.errors import ConfigError, DataError, UnknownNameError
from hwprune.tasks.base import BaseTask, Batch, Metric
from hwprune.tasks.precision import autocast, fast_dtype

PLAIN = Normalization((0.0,), (1.0,))


def rows_data(n: int = 300, num_classes: int = 3) -> Data:
    """Images whose brightest row is their class."""
    targets = torch.arange(n) % num_classes
    images = torch.zeros(n, 1, num_classes, 4)
    images[torch.arange(n), 0, targets] = 1
    split = ImageSplit(images, targets, PLAIN, Augmentation())
    return assemble(split, split, split, num_classes)


class RowSum(nn.Module):
    """Classifies rows perfectly, or all but class 0 where it is biased."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        logits = x.sum((1, 3)) * self.scale
        return logits - self.bias * F.one_hot(torch.tensor(0), logits.shape[1])


class Segmentation(BaseTask):
    """Foreground or background of each pixel, by mean intersection over union."""

    metric = Metric("mean_iou", higher_is_better=True)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs, batch[1])

    def score(self, results: Iterable[tuple[Any, Batch]]) -> float:
        joint, union = torch.zeros(2), torch.zeros(2)
        for outputs, (_, targets) in results:
            for label in range(2):
                found, true = outputs.argmax(1) == label, targets == label
                joint[label] += (found & true).sum()
                union[label] += (found | true).sum()
        return float((joint / union).mean())


class Detection(BaseTask):
    """One box an image, two outputs: its class and its corner; scored by the corner's distance in pixels."""

    metric = Metric("distance", higher_is_better=False, unit="px")

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        logits, corner = outputs
        return F.cross_entropy(logits, batch[1][:, 0].long()) + F.mse_loss(corner, batch[1][:, 1:])

    def score(self, results: Iterable[tuple[Any, Batch]]) -> float:
        return float(torch.cat([(corner - t[:, 1:]).norm(dim=1) for (_, corner), (_, t) in results]).mean())


def segmentation(data: Data, threshold: float = 0.5) -> Segmentation:
    task = Segmentation(data)
    task.threshold = threshold  # type: ignore[attr-defined]
    return task


def test_top1_is_the_share_of_right_classes() -> None:
    task = tasks.build("classification", rows_data())
    assert task.evaluate(RowSum(), "val") == 1.0
    assert task.evaluate(RowSum(bias=10), "val") == pytest.approx(2 / 3)
    assert task.evaluate(RowSum(bias=10), "val", limit=4) == pytest.approx(2 / 4)


def test_the_error_of_a_share_is_what_is_missing() -> None:
    task = tasks.build("classification", rows_data())
    assert (task.metric.name, task.metric.higher_is_better, task.needs_logits) == ("top1", True, True)
    assert task.error(0.75) == 0.25


def test_the_error_of_a_distance_is_the_distance() -> None:
    assert Detection(rows_data()).error(2.5) == 2.5


def test_the_loss_of_classification_is_cross_entropy() -> None:
    task = tasks.build("classification", rows_data())
    batch = next(task.batches("train", 6))
    logits = torch.randn(6, 3)
    expected = -logits.log_softmax(1)[torch.arange(6), batch[1]].mean()
    assert torch.allclose(task.loss(logits, batch), expected)


def test_scoring_leaves_the_network_as_it_was() -> None:
    task = tasks.build("classification", rows_data())
    module = nn.Sequential(RowSum(), nn.Dropout(0.9)).train()
    assert task.evaluate(module, "val") == 1.0
    assert module.training
    assert all(parameter.grad is None for parameter in module.parameters())


def test_bfloat16_scores_within_its_rounding() -> None:
    task = tasks.build("classification", rows_data())
    module = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 12, 3))
    exact = task.evaluate(module, "val")
    assert task.evaluate(module, "val", dtype=torch.bfloat16) == pytest.approx(exact, abs=0.1)


def test_outputs_are_float32_even_where_the_network_computes_in_bfloat16() -> None:
    task = tasks.build("classification", rows_data())
    batch = next(task.batches("val", 5))
    with autocast(torch.bfloat16):
        assert task.forward(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), batch).dtype == torch.float32


def test_the_fast_format_is_bfloat16_or_nothing() -> None:
    assert fast_dtype() in (torch.bfloat16, None)
    with autocast(None):
        assert not torch.is_autocast_enabled("cpu")


def test_a_processor_without_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    fast_dtype.cache_clear()
    assert fast_dtype() is None
    fast_dtype.cache_clear()


def test_the_example_has_the_shape_of_the_data() -> None:
    assert tasks.build("classification", rows_data()).example_input(2).shape == (2, 1, 3, 4)


def test_the_size_of_a_split_is_known() -> None:
    assert tasks.build("classification", rows_data(30)).size("train") == 30


def test_a_segmenter_is_a_loss_and_a_score() -> None:
    images = torch.zeros(4, 1, 2, 2)
    images[:, 0, 0] = 1
    split = ImageSplit(images, images[:, 0].long(), PLAIN)
    task = tasks.build({"name": f"{__name__}:segmentation", "threshold": 0.1}, assemble(split, split, split, 2))

    class Threshold(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([0.5 - x, x - 0.5], 1)

    class Foreground(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([0 * x, 0 * x + 1], 1)

    assert task.evaluate(Threshold(), "val") == 1.0
    assert task.evaluate(Foreground(), "val") == pytest.approx((0 + 0.5) / 2)
    assert not task.needs_logits


def test_a_detector_may_return_two_outputs() -> None:
    images = torch.zeros(4, 1, 2, 2)
    split = ImageSplit(images, torch.tensor([[0.0, 3.0, 4.0]] * 4), PLAIN)
    task = Detection(assemble(split, split, split, 1))

    class Origin(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.new_zeros(len(x), 2), x.new_zeros(len(x), 2)

    assert task.evaluate(Origin(), "test") == pytest.approx(5.0)
    batch = next(task.batches("train", 4))
    assert float(task.loss(task.forward(Origin(), batch), batch)) == pytest.approx(0.6931 + 12.5, abs=1e-3)


def test_named_outputs_are_float32_too() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"logits": x.bfloat16(), "boxes": [x.bfloat16()], "note": "kept"}

    outputs = Detection(rows_data()).forward(Named(), (torch.zeros(1, 1, 3, 4), None))
    assert outputs["logits"].dtype == outputs["boxes"][0].dtype == torch.float32
    assert outputs["note"] == "kept"


def test_an_unknown_task_offers_the_nearest_known_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'classification'"):
        tasks.build("clasification", rows_data())


def test_a_task_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(ConfigError, match="check the spelling"):
        tasks.build("no_such_package.module:build", rows_data())


def test_a_network_with_other_classes_than_the_data_is_named() -> None:
    task = tasks.build("classification", rows_data())
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    with pytest.raises(DataError, match=r"\(128, 5\) for 128 images of 3 classes"):
        task.evaluate(network, "val")


def test_targets_that_are_no_classes_are_named() -> None:
    images = torch.zeros(4, 1, 3, 4)
    split = ImageSplit(images, torch.zeros(4, 3, 4, dtype=torch.int64), PLAIN)
    with pytest.raises(DataError, match="name another task"):
        tasks.build("classification", assemble(split, split, split, 3)).evaluate(RowSum(), "val")


def test_a_network_for_other_channels_is_named_with_the_batch() -> None:
    task = tasks.build("classification", rows_data())
    with pytest.raises(DataError, match=r"batch of shape \(128, 1, 3, 4\).*3 channels"):
        task.evaluate(nn.Conv2d(3, 3, 3, padding=1), "val")


def test_a_batch_of_the_wrong_shape_is_named() -> None:
    class Growing:
        """A user's split whose second batch is larger than it should be."""

        def __len__(self) -> int:
            return 4

        def batches(self, batch_size: int, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
            yield torch.zeros(2, 1, 3, 4), torch.zeros(2, dtype=torch.int64)
            yield torch.zeros(2, 1, 3, 5), torch.zeros(2, dtype=torch.int64)

    data = Data(Growing(), Growing(), Growing(), 3, (1, 3, 4), "0")
    with pytest.raises(DataError, match=r"batch of val has shape \(2, 1, 3, 5\), but one image has \(1, 3, 4\)"):
        tasks.build("classification", data).evaluate(RowSum(), "val")
