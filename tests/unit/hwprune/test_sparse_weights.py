"""Weights with many zeros: stored by what is not zero, and trained without filling up."""

import numpy as np
import pytest
import torch
from torch import nn

from hwprune import datasets, tasks, training
from hwprune.errors import WeightsError
from hwprune.networks import build


def network(seed=0):
    torch.manual_seed(seed)
    return build({"name": "resnet_cifar", "depth": 8, "widths": [4, 8, 8]}, 10, 3).eval()


def masks_of(module, density):
    generator = np.random.default_rng(0)
    masks = {
        f"{name}.weight": generator.random(tuple(layer.weight.shape)) < density
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d)
    }
    with torch.no_grad():
        for name, mask in masks.items():
            module.get_parameter(name).masked_fill_(torch.from_numpy(~mask), 0.0)
    return masks


def test_sparse_file_gives_back_every_weight_and_is_smaller(tmp_path):
    module, other = network(), network(1)
    masks_of(module, 0.1)
    sizes = {}
    for sparse in (False, True):
        path = tmp_path / f"{sparse}.safetensors"
        training.save_weights(module, path, sparse=sparse)
        training.load_weights(other, path)
        assert training.weights_digest(other) == training.weights_digest(module)
        sizes[sparse] = path.stat().st_size
    assert sizes[True] < 0.6 * sizes[False]  # headers of many small tensors weigh here


def test_what_is_not_sparse_is_stored_as_it_is(tmp_path):
    module = network()
    training.save_weights(module, tmp_path / "one", sparse=True)
    training.save_weights(module, tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_sparse_file_of_another_network_is_refused(tmp_path):
    module = network()
    masks_of(module, 0.1)
    path = tmp_path / "weights.safetensors"
    training.save_weights(module, path, sparse=True)
    with pytest.raises(WeightsError, match="do not fit the network"):
        training.load_weights(build({"name": "resnet_cifar", "depth": 8}, 10, 3), path)


def test_training_leaves_dropped_weights_at_zero_and_the_block_ends_there():
    task = tasks.build({"name": "classification"}, datasets.load({"name": "digits", "size": 8, "channels": 3}))
    module = network()
    masks = masks_of(module, 0.5)
    before = {name: module.get_parameter(name).detach().clone() for name in masks}
    settings = training.TrainingSettings(epochs=1, lr=0.05, batch_size=512)
    with training.held_zeros(module, masks):
        training.finetune(module, task, settings, teacher=network(1))
    for name, mask in masks.items():
        weight = module.get_parameter(name).detach()
        assert (weight.numpy()[~mask] == 0).all()
        assert not torch.equal(weight, before[name])
    training.train(module, task, settings)
    assert any((module.get_parameter(name).detach().numpy()[~mask] != 0).any() for name, mask in masks.items())
