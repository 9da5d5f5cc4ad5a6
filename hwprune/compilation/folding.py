"""Weights of a layer with its BatchNorm folded in, in float64 until the last step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from hwprune.compilation.layers import Layer


def affine(layer: Layer, tensors: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset of every channel that the layer's BatchNorm amounts to, float64."""
    found = {role: _array(tensors[name]) for role, name in layer.parameters.items() if role.startswith("bn_")}
    scale = 1.0 / np.sqrt(found["bn_var"] + layer.settings["epsilon"])
    if "bn_weight" in found:
        scale = scale * found["bn_weight"]
    shift = -found["bn_mean"] * scale
    return scale, shift + found["bn_bias"] if "bn_bias" in found else shift


def weight_and_bias(layer: Layer, tensors: Mapping[str, Tensor], out_axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a convolution or fully connected layer, float32; the bias is zeros where it has none.

    Args:
        layer: the layer.
        tensors: the module's, by name.
        out_axis: of the weight; its output channels.
    """
    weight = tensors[layer.parameters["weight"]].detach().cpu().numpy()
    bias = tensors[layer.parameters["bias"]].detach().cpu().numpy() if "bias" in layer.parameters else None
    if "bn_var" not in layer.parameters:
        return weight, np.zeros(weight.shape[out_axis], np.float32) if bias is None else bias
    scale, shift = affine(layer, tensors)
    weight = weight * scale.reshape([-1 if axis == out_axis else 1 for axis in range(weight.ndim)])
    return weight.astype(np.float32), (shift if bias is None else bias * scale + shift).astype(np.float32)


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().double().numpy()
    return array
