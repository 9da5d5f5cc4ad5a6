import copy
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hwprune import datasets, networks, tasks
from hwprune.errors import ConfigError, WeightsError
from hwprune.tasks.base import Task
from hwprune.training import (
    BatchNormEstimator,
    Checkpoint,
    Epoch,
    TrainingSettings,
    distillation_loss,
    finetune,
    load_weights,
    reestimate_batchnorm,
    save_weights,
    train,
    weights_digest,
)


@pytest.fixture(scope="module")
def task() -> Task:
    return tasks.build("classification", datasets.load({"name": "digits", "size": 8}))


def tiny_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(16 * 4 * 4, 10),
    )


def settings(**changes: object) -> TrainingSettings:
    return TrainingSettings(**{"epochs": 2, "lr": 0.05, "precision": "float32", **changes})


# training


def test_training_learns_digits(task: Task) -> None:
    module, epochs = tiny_network(), []
    train(module, task, settings(epochs=4), progress=epochs.append)
    assert task.evaluate(module, "val") > 0.9
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert epochs[-1].loss < epochs[0].loss
    assert not module.training


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(task: Task) -> None:
    digests = []
    for seed in (1, 1, 2):
        module = tiny_network()
        train(module, task, settings(epochs=1, seed=seed))
        digests.append(weights_digest(module))
    assert digests[0] == digests[1] != digests[2]


def test_training_does_not_touch_the_callers_random_state(task: Task) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    torch.manual_seed(5)
    train(module, task, settings(epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_training_in_bfloat16_keeps_weights_in_float32(task: Task) -> None:
    module = tiny_network()
    train(module, task, settings(epochs=2, precision="bfloat16"))
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert all(parameter.is_contiguous() for parameter in module.parameters())
    assert task.evaluate(module, "val") > 0.6


def test_a_batch_larger_than_the_training_split_is_one_step(task: Task) -> None:
    epochs: list[Epoch] = []
    train(tiny_network(), task, settings(epochs=1, batch_size=5000), progress=epochs.append)
    assert math.isfinite(epochs[0].loss)


def test_training_that_diverges_says_so(task: Task) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    with pytest.raises(ConfigError, match="lower lr from 1000000"):
        train(network, task, settings(lr=1e6, warmup_epochs=0))


def test_the_cosine_falls_from_the_full_rate_to_zero() -> None:
    schedule = settings(epochs=11, lr=0.4, warmup_epochs=1)
    assert schedule.lr_at(0) == schedule.lr_at(0.9) == pytest.approx(0.04)
    assert schedule.lr_at(1) == pytest.approx(0.4)
    assert schedule.lr_at(6) == pytest.approx(0.2)
    assert schedule.lr_at(11) == pytest.approx(0)


def test_steps_follow_the_published_schedule_of_the_final_fine_tune() -> None:
    schedule = settings(epochs=200, lr=0.01, schedule="step", warmup_epochs=1)
    rates = [schedule.lr_at(epoch) for epoch in (0, 1, 59, 60, 119, 120, 159, 160, 199)]
    expected = [0.001, 0.01, 0.01, 0.002, 0.002, 0.0004, 0.0004, 0.00008, 0.00008]
    assert rates == pytest.approx(expected)


def test_a_training_of_one_epoch_has_no_warm_up() -> None:
    assert settings(epochs=1, lr=0.4, warmup_epochs=1).lr_at(0) == pytest.approx(0.4)


# fine-tuning with a teacher


class InterruptedTrainingError(Exception):
    """What stops a training in these tests."""


def stop_after(epochs: int) -> Callable[[Epoch], None]:
    def progress(epoch: Epoch) -> None:
        if epoch.number == epochs:
            raise InterruptedTrainingError

    return progress


def test_an_interrupted_training_goes_on_to_the_same_weights(task: Task, tmp_path: Path) -> None:
    whole = tiny_network()
    train(whole, task, settings(epochs=3))
    checkpoint = Checkpoint(tmp_path / "training.checkpoint", task.data.digest)
    with pytest.raises(InterruptedTrainingError):
        train(tiny_network(), task, settings(epochs=3), progress=stop_after(2), checkpoint=checkpoint)
    resumed, epochs = tiny_network(), []
    before = torch.get_rng_state()
    train(resumed, task, settings(epochs=3), progress=epochs.append, checkpoint=checkpoint)
    assert weights_digest(resumed) == weights_digest(whole)
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert torch.equal(torch.get_rng_state(), before)
    checkpoint.remove()
    assert not list(tmp_path.iterdir())


def test_a_finished_training_is_not_done_again(task: Task, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "training.checkpoint")
    once = tiny_network()
    train(once, task, settings(), checkpoint=checkpoint)
    written = checkpoint.path.stat().st_mtime_ns
    again = tiny_network()
    train(again, task, settings(), checkpoint=checkpoint)
    assert weights_digest(again) == weights_digest(once)
    assert checkpoint.path.stat().st_mtime_ns == written


@pytest.mark.parametrize("other", ["settings", "weights", "key", "damaged"])
def test_a_checkpoint_of_another_training_counts_for_nothing(task: Task, tmp_path: Path, other: str) -> None:
    path = tmp_path / "training.checkpoint"
    train(tiny_network(), task, settings(epochs=1), checkpoint=Checkpoint(path))
    if other == "damaged":
        path.write_bytes(path.read_bytes()[:1000])
    changed = settings(epochs=1, seed=1) if other == "settings" else settings(epochs=1)
    module = tiny_network(1 if other == "weights" else 0)
    expected = copy.deepcopy(module)
    train(expected, task, changed)
    train(module, task, changed, checkpoint=Checkpoint(path, "another" if other == "key" else ""))
    assert weights_digest(module) == weights_digest(expected)


def test_a_checkpoint_that_cannot_be_written_says_so(task: Task, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WeightsError, match="checkpoint cannot be written"):
        train(tiny_network(), task, settings(epochs=1), checkpoint=Checkpoint(tmp_path / "file" / "x"))


def test_distillation_is_zero_at_the_teachers_logits_and_positive_elsewhere() -> None:
    logits = torch.randn(6, 10)
    assert float(distillation_loss(logits, logits + 3, temperature=4.0)) == pytest.approx(0, abs=1e-5)
    assert float(distillation_loss(logits, logits.flip(1), temperature=4.0)) > 0.01


def test_distillation_is_the_divergence_of_softened_classes() -> None:
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    p, q = torch.softmax(teacher / 2, 1), torch.softmax(student / 2, 1)
    expected = 4 * (p * (p / q).log()).sum()
    assert torch.allclose(distillation_loss(student, teacher, temperature=2.0), expected)


def test_a_student_that_only_hears_its_teacher_comes_to_agree_with_it(task: Task) -> None:
    teacher, student = tiny_network(1), tiny_network(2)
    train(teacher, task, settings(epochs=3))
    before = weights_digest(teacher)
    finetune(student, task, settings(epochs=4, distillation=1.0), teacher=teacher)
    batch = next(task.batches("val", 360))
    with torch.inference_mode():
        agreement = (task.forward(teacher, batch).argmax(1) == task.forward(student, batch).argmax(1)).float().mean()
    assert agreement > 0.9
    assert weights_digest(teacher) == before


def test_without_a_teacher_fine_tuning_is_training(task: Task) -> None:
    trained, tuned = tiny_network(), tiny_network()
    train(trained, task, settings(epochs=1))
    finetune(tuned, task, settings(epochs=1))
    assert weights_digest(trained) == weights_digest(tuned)


# BatchNorm


def test_statistics_become_those_of_the_training_images(task: Task) -> None:
    module = tiny_network()
    reestimate_batchnorm(module, task, images=512, seed=3)
    batches = [module[0](inputs) for inputs, _ in task.batches("train", 128, shuffle_seed=3, limit=512)]
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    variances = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    assert torch.allclose(module[1].running_mean, means, atol=1e-5)
    assert torch.allclose(module[1].running_var, variances, rtol=1e-4)


def test_reestimation_repairs_a_network_whose_statistics_are_wrong(task: Task) -> None:
    module = tiny_network()
    train(module, task, settings(epochs=4))
    right = task.evaluate(module, "val")
    module[1].running_mean += 3
    broken = task.evaluate(module, "val")
    reestimate_batchnorm(module, task, images=512)
    assert broken < 0.6 < right - 0.05 < task.evaluate(module, "val")


def test_an_estimator_serves_many_networks_and_changes_nothing_but_statistics(task: Task) -> None:
    estimator = BatchNormEstimator(task, images=256)
    first = tiny_network().train()
    second = copy.deepcopy(first).eval()
    weights = [parameter.clone() for parameter in first.parameters()]
    estimator(first)
    estimator(second)
    assert first.training
    assert not second.training
    assert not second[1].training
    assert first[1].momentum == 0.1
    assert torch.equal(first[1].running_var, second[1].running_var)
    assert all(torch.equal(a, b) for a, b in zip(weights, first.parameters(), strict=True))


def test_networks_without_batchnorm_are_left_alone(task: Task) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = weights_digest(module)
    reestimate_batchnorm(module, task, images=128)
    assert weights_digest(module) == before


def test_statistics_can_be_trained_on_after_reestimation(task: Task) -> None:
    module = tiny_network()
    reestimate_batchnorm(module, task, images=128)
    train(module, task, settings(epochs=1))
    assert task.evaluate(module, "val") > 0.3


# weights


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_weights_come_back_from_a_file(tmp_path: Path, name: str) -> None:
    module, other = tiny_network(1), tiny_network(2)
    if name.endswith(".pt"):
        torch.save(module.state_dict(), tmp_path / name)
    else:
        save_weights(module, tmp_path / "deep" / name, {"val_top1": "0.9"})
        name = f"deep/{name}"
    load_weights(other, tmp_path / name)
    assert weights_digest(other) == weights_digest(module)


def test_half_precision_and_wrapped_names_are_understood(tmp_path: Path) -> None:
    module, other = tiny_network(1), tiny_network(2)
    content = {
        f"module.{key}": value.half() if value.is_floating_point() else value
        for key, value in module.state_dict().items()
    }
    torch.save({"state_dict": content, "epoch": 3}, tmp_path / "checkpoint.pt")
    load_weights(other, tmp_path / "checkpoint.pt")
    assert other[0].weight.dtype == torch.float32
    assert torch.equal(other[0].weight, module[0].weight.half().float())


def test_files_without_batch_counters_are_understood(tmp_path: Path) -> None:
    content = {key: value for key, value in tiny_network(1).state_dict().items() if "num_batches" not in key}
    torch.save(content, tmp_path / "old.pt")
    load_weights(tiny_network(2), tmp_path / "old.pt")


def changed(key: str, value: Tensor | None) -> dict[str, Tensor]:
    content = tiny_network().state_dict()
    if value is None:
        del content[key]
    else:
        content[key] = value
    return content


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("6.bias", None, "1 missing: 6.bias"),
        ("7.bias", torch.zeros(1), "1 unexpected: 7.bias"),
        ("6.bias", torch.zeros(9), r"1 of another shape: 6.bias is \(9,\), not \(10,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_change_nothing(
    tmp_path: Path, key: str, value: Tensor | None, message: str
) -> None:
    torch.save(changed(key, value), tmp_path / "weights.pt")
    module = tiny_network(2)
    before = weights_digest(module)
    with pytest.raises(WeightsError, match=message):
        load_weights(module, tmp_path / "weights.pt")
    assert weights_digest(module) == before


def test_only_the_first_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save_weights(networks.build({"name": "resnet_cifar", "depth": 8}, 10, 1), tmp_path / "resnet.safetensors")
    with pytest.raises(WeightsError) as raised:
        load_weights(tiny_network(), tmp_path / "resnet.safetensors")
    assert ", ..." in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("content", [b"", b"not weights at all"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(tiny_network(), tmp_path / name)


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(tiny_network(), tmp_path / "network.pt")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(tiny_network(), tmp_path / "network.pt")


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    with pytest.raises(WeightsError, match="no state dictionary"):
        load_weights(tiny_network(), tmp_path / "numbers.pt")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there are no weights at"):
        load_weights(tiny_network(), tmp_path / "none.pt")


def test_weights_that_cannot_be_written_leave_no_file(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").mkdir()
    with pytest.raises(WeightsError, match="cannot be written"):
        save_weights(tiny_network(), tmp_path / "weights.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_the_digest_follows_every_weight_and_statistic() -> None:
    module = tiny_network()
    before = weights_digest(module)
    assert before == weights_digest(copy.deepcopy(module).to(memory_format=torch.channels_last))
    module[1].running_mean[3] += 1e-3
    assert weights_digest(module) != before


# the shared weights on the shared images


@pytest.mark.shared
def test_shared_resnet20_scores_what_its_file_says() -> None:
    root = Path(os.environ.get("HWPRUNE_SHARED", Path(__file__).parents[4] / "shared")) / "data"
    if not root.is_dir():
        pytest.skip(f"no data at {root}: set HWPRUNE_SHARED to the shared folder")
    module = networks.build({"name": "resnet_cifar", "depth": 20}, 10, 3)
    load_weights(module, root / "weights" / "resnet20.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, root / "unpack.py", folder], check=True)
        data = datasets.load({"name": "image_folder", "path": folder})
        top1 = tasks.build("classification", data).evaluate(module, "val", limit=1000)
    assert top1 == pytest.approx(0.8822, abs=0.03)  # of all 5,000; a thousand of them scatter by 0.01
