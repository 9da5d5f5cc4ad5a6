"""``macs``: multiply-adds of one inference per image, exactly counted; one multiply-add is 1."""

from __future__ import annotations

import numpy as np

from hwprune.objectives.base import Candidates, FloatArray
from latency_models.shapes import LayerShape, NetworkShapes


class Macs:
    """Multiply-adds of convolutions and dense layers, per image."""

    name = "macs"
    unit = ""
    column = "macs"
    description = "multiply-adds of one image (one multiply-add is 1)"
    needs_metric = False

    def evaluate(self, candidates: Candidates) -> FloatArray:
        """``(n,)`` counts.

        Raises:
            ConfigError: the problem gives no layer shapes.
        """
        return np.asarray(layer_macs(candidates.shapes).sum(axis=1))


def layer_macs(shapes: NetworkShapes) -> FloatArray:
    """``(n, L)`` multiply-adds of every layer of n networks.

    0 for layers that do not multiply with weights, and for operators that no kernel of ours computes.
    """
    macs: FloatArray = np.column_stack(
        [
            _per_product(template) * _products(template, shapes.in_channels[:, layer], shapes.out_channels[:, layer])
            for layer, template in enumerate(shapes.templates)
        ]
    ).astype(np.float64)
    return macs


def _products(template: LayerShape, c_in: np.ndarray, c_out: np.ndarray) -> np.ndarray:
    """Pairs of channels that meet: every output of a depthwise layer meets one input, of a grouped one its group's.

    Of a sparse layer, its weights that are not zero.
    """
    if template.op == "conv2d_sparse":
        return np.full_like(c_out, template.nonzeros)
    depth = 1 if template.op == "depthwise" else template.group_channels or c_in
    return np.asarray(depth * c_out)


def _per_product(template: LayerShape) -> float:
    """Multiply-adds for each pair of channels that meet (of a sparse layer: for each weight)."""
    if template.op == "dense":
        return 1.0
    if template.op not in ("conv2d", "conv2d_sparse", "conv2d_grouped", "conv2d_transposed", "depthwise"):
        return 0.0
    size = np.array([template.height, template.width])
    kernel, stride, padding, dilation = map(
        np.array, (template.kernel, template.stride, template.padding, template.dilation)
    )
    pixels = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if template.op == "conv2d_transposed":  # its window moves over the input
        pixels = size
    return float(pixels.prod() * (1 if template.op == "conv2d_sparse" else kernel.prod()))


OBJECTIVE = Macs()
