"""Training, fine-tuning, BatchNorm re-estimation, and weights in files."""

from hwprune.training.batchnorm import BatchNormEstimator, reestimate_batchnorm
from hwprune.training.checkpoint import Checkpoint
from hwprune.training.loop import Epoch, TrainingSettings, distillation_loss, finetune, fit, held_zeros, train
from hwprune.training.weights import load_weights, save_weights, weights_digest

__all__ = [
    "BatchNormEstimator",
    "Checkpoint",
    "Epoch",
    "TrainingSettings",
    "distillation_loss",
    "finetune",
    "fit",
    "held_zeros",
    "load_weights",
    "reestimate_batchnorm",
    "save_weights",
    "train",
    "weights_digest",
]
