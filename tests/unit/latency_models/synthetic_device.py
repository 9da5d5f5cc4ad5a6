"""An invented device whose latencies are known: the oracle of these tests."""

from __future__ import annotations

import numpy as np

from latency_models.features import activation_bytes, macs, weight_bytes, widths
from latency_models.kernel_table import KernelTable, KernelTime
from latency_models.shapes import LayerShape, NetworkShapes
from latency_models.stairs import padded

LANES = 16


def kernel_ms(shape: LayerShape, lanes: int = LANES) -> float:
    """True latency: whole blocks of output channels, memory at 20 GB/s, and a bend where weights leave the cache."""
    c_in, c_out = widths([shape])
    blocks = padded(c_out, lanes)
    compute = macs(shape.template, c_in, blocks)[0] / (70e6 if shape.height >= 16 else 50e6)
    weights = weight_bytes(shape.template, c_in, blocks)[0]
    memory = (activation_bytes(shape.template, c_in, blocks)[0] + weights) / 20e6
    return float(2e-4 + compute * (1 + 0.1 * np.tanh(weights / 3e5)) + 0.4 * memory)


def measured_table(shapes: list[LayerShape], noise: float = 0.01, seed: int = 0) -> KernelTable:
    """Measurements with relative noise of this standard deviation."""
    generator = np.random.default_rng(seed)
    times = [kernel_ms(shape) * np.exp(noise * generator.standard_normal()) for shape in shapes]
    return KernelTable({s: KernelTime(ms, noise * ms) for s, ms in zip(shapes, times, strict=True)})


def network_ms(layers: tuple[LayerShape, ...]) -> float:
    """True latency of a whole network: its kernels cost 6 % more than alone, plus calls and cold weights."""
    weights = sum(weight_bytes(shape.template, *widths([shape]))[0] for shape in layers)
    return float(1.06 * sum(map(kernel_ms, layers)) + 1e-3 + 3e-4 * len(layers) + weights / 60e6)


def measured_networks(
    shapes: NetworkShapes, noise: float = 0.005, seed: int = 0
) -> list[tuple[tuple[LayerShape, ...], float]]:
    """Whole networks measured with relative noise."""
    generator = np.random.default_rng(seed)
    rows = [shapes.row(index) for index in range(len(shapes))]
    return [(row, network_ms(row) * float(np.exp(noise * generator.standard_normal()))) for row in rows]


def conv(c_in: int, c_out: int, size: int, stride: int = 1, epilogue: str = "relu") -> LayerShape:
    return LayerShape("conv2d", c_in, c_out, size, size, (3, 3), (stride, stride), (1, 1), epilogue=epilogue)


def resnet_networks(n: int, depth: int = 20, seed: int = 0) -> NetworkShapes:
    """CIFAR ResNets with inner widths from 10 to 100 %, log-uniform; the first is dense, the second the least."""
    generator = np.random.default_rng(seed)
    templates, c_in, c_out = [conv(0, 0, 32)], [np.full(n, 3)], [np.full(n, 16)]
    stream, size = 16, 32
    for stage, dense in enumerate((16, 32, 64)):
        for block in range((depth - 2) // 6):
            stride = 2 if stage and not block else 1
            inner = _log_uniform(generator, n, dense)
            templates += [conv(0, 0, size, stride), conv(0, 0, size // stride, 1, "add+relu")]
            c_in += [np.full(n, stream), inner]
            c_out += [inner, np.full(n, dense)]
            stream, size = dense, size // stride
    templates += [LayerShape("global_pool", 0, 0, 8, 8), LayerShape("dense", 0, 0, 1, 1)]
    c_in += [np.full(n, 64), np.full(n, 64)]
    c_out += [np.full(n, 64), np.full(n, 10)]
    return NetworkShapes(tuple(templates), np.stack(c_in, axis=1), np.stack(c_out, axis=1))


def vgg_networks(n: int, seed: int = 0) -> NetworkShapes:
    """VGG-14 with every width free, so that hardly two kernels are alike."""
    generator = np.random.default_rng(seed)
    dense = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    sizes = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    c_out = [_log_uniform(generator, n, width) for width in dense] + [np.full(n, 10)]
    c_in = [np.full(n, 3), *c_out[:-1]]
    templates = [conv(0, 0, size) for size in sizes] + [LayerShape("dense", 0, 0, 1, 1)]
    return NetworkShapes(tuple(templates), np.stack(c_in, axis=1), np.stack(c_out, axis=1))


def _log_uniform(generator: np.random.Generator, n: int, dense: int) -> np.ndarray:
    drawn = np.rint(dense * np.exp(generator.uniform(np.log(0.1), 0, n))).astype(np.int64)
    drawn[:2] = [dense, max(1, round(0.1 * dense))][: min(n, 2)]
    return np.maximum(drawn, 1)
