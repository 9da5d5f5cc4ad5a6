"""Fully connected layer, fused with bias, residual and activation, on one image's vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwprune.compilation.kernels.conv import pad_vector
from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, divided, split_epilogue
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape

#: Output blocks that are computed together: as many independent sums as hide a multiply-add's latency.
GROUP = 8


@dataclass(frozen=True)
class DenseTile(Kernel):
    """Some output blocks, for the whole input.

    Attributes:
        group: blocks of a tile.
        add: whether a residual is added.
        activation: applied last.
    """

    group: int
    add: bool
    activation: str

    @property
    def steps(self) -> int:
        """Inputs that are added up apart, so that there are enough independent sums."""
        return GROUP // self.group

    @property
    def is_read_in_vectors(self) -> bool:
        """Whether one load brings four inputs, which then are multiplied lane by lane; as in a convolution."""
        return self.lanes == 4

    def build(self) -> dict[str, Any]:
        """Arguments: length of the input, tiles."""
        from hwprune.compilation.kernels import explicit

        buffers = ("x", "r", "w", "b", "out")
        return {self.symbol: explicit.function(self.symbol, ("length", "tiles"), buffers, self._body)}

    def _body(self, length: Any, tiles: Any, *buffers: Any) -> None:
        """Write the loops over tiles and inputs; weights are read from first to last."""
        from hwprune.compilation.kernels.explicit import Sums, Vectors, bind, long, loop
        from hwprune.compilation.kernels.tensor import activate

        lanes, group, steps = self.lanes, self.group, self.steps
        x, added, weights, biases, result = (Vectors(buffer, lanes) for buffer in buffers)
        sums = Sums(group * steps, lanes)

        def multiply(value: Any, k: Any, step: int) -> None:
            first = bind(long(k) * (group * lanes) + start)
            for g in range(group):
                sums[step * group + g] = sums[step * group + g] + value * weights[first + g * lanes]

        together = max(steps, lanes) if self.is_read_in_vectors else steps
        with loop(tiles) as tile:
            start = bind(long(tile) * long(length) * (group * lanes))
            sums.clear()
            with loop(length // together) as part:
                first_input = part * together
                if self.is_read_in_vectors:
                    vectors = [bind(x[first_input + offset]) for offset in range(0, together, lanes)]
                for step in range(together):
                    if self.is_read_in_vectors:
                        value = x.spread_lane(vectors[step // lanes], step % lanes)
                    else:
                        value = x.spread(first_input + step)
                    multiply(bind(value), first_input + step, step % steps)
            if together > 1:
                with loop((length // together * together, length)) as k:
                    multiply(bind(x.spread(k)), k, 0)
            base = bind(long(tile * (group * lanes)))
            for g in range(group):
                total = biases[base + g * lanes]
                for step in range(steps):
                    total = total + sums[step * group + g]
                sums[g] = total + added[base + g * lanes] if self.add else total
            sums.apply(lambda value: activate(value, self.activation), *range(group))
            for g in range(group):
                result[base + g * lanes] = sums[g]


@dataclass(frozen=True)
class Dense(Kernel):
    """Product of a matrix and a vector of any length, vectorized along the outputs.

    Attributes:
        rest: blocks of the last tile; the others have ``GROUP``.
        whole: whether there are others.
        add: whether a residual is added.
        activation: applied last.
        shared: whether threads share the tiles; an argument then says who does the last one.
    """

    rest: int
    whole: bool
    add: bool
    activation: str
    shared: bool = False

    @property
    def parts(self) -> tuple[Kernel, ...]:
        """The kernels of whole tiles and of the last one."""
        groups = ([GROUP] if self.whole else []) + ([self.rest] if self.rest else [])
        return tuple(DenseTile(self.lanes, group, self.add, self.activation) for group in groups)

    @property
    def glue(self) -> str:
        """A call for the whole tiles and one for the rest."""
        pointers = "const float *, const float *, const float *, const float *, float *"
        lines = [f"void {part.symbol}(int32_t, int32_t, {pointers}) HIDDEN;" for part in self.parts]
        residual, added = ("const float *r, ", "r") if self.add else ("", "out")
        lines += [
            f"HIDDEN void {self.symbol}(int32_t length, int32_t tiles, {'int32_t last, ' if self.shared else ''}"
            f"const float *x, {residual}const float *w, "
            "const float *b, float *out)",
            "{",
        ]
        names = [part.symbol for part in self.parts]
        if self.whole:
            lines.append(f"    {names[0]}(length, tiles, x, {added}, w, b, out);")
        if self.rest:
            place = f"tiles * {GROUP * self.lanes}"
            pointers = f"x, {added} + {place}, w + (int64_t)length * {place}, b + {place}, out + {place}"
            lines.append(f"    {names[-1]}(length, {'last' if self.shared else 1}, {pointers});")
        return "\n".join([*lines, "}"])

    def build(self) -> dict[str, Any]:
        """Nothing: the tiles are built on their own."""
        return {}


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of a fully connected layer."""
    lanes = target.lanes
    blocks = blocks_of(shape.out_channels, lanes)
    tiles, rest = divmod(blocks, GROUP)
    add, activation = split_epilogue(shape.epilogue)
    shared, length, outputs = target.threads > 1, shape.in_channels, GROUP * lanes

    def numbers(first: int, count: int) -> tuple[int, ...]:
        is_last = first <= tiles < first + count
        return length, count - is_last, int(is_last)

    usage = Usage(
        Dense(lanes, rest, tiles > 0, add, activation, shared),
        (length, tiles, *([int(rest > 0)] if shared else [])),
        inputs=(shape.in_channels, *([blocks * lanes] if add else [])),
        outputs=(blocks * lanes,),
        parameters=(blocks * lanes * length, blocks * lanes),
        in_place=1 if add else None,
    )
    steps = [0, *([outputs] if add else []), outputs * length, outputs, outputs]
    return divided(usage, target.threads, tiles + (rest > 0), numbers, steps)


def pack_weight(usage: Usage, weight: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    """``(out, in)`` -> for every tile (in, group, lanes), and the bias to whole blocks; float32."""
    kernel = usage.kernel
    assert isinstance(kernel, Dense)
    tiles, lanes = usage.numbers[1], kernel.lanes
    blocks = tiles * GROUP + kernel.rest
    out_features, in_features = weight.shape
    padded = np.zeros((blocks * lanes, in_features), np.float32)
    padded[:out_features] = weight
    columns = padded.reshape(blocks, lanes, in_features).transpose(2, 0, 1)
    parts = np.split(columns, range(GROUP, blocks, GROUP), axis=1)
    return [np.concatenate([part.ravel() for part in parts]), pad_vector(bias, blocks * lanes)]
