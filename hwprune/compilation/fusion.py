"""Which layers become one call: epilogues into convolutions, neighbouring fallbacks into regions."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from hwprune.compilation.layers import Layer
from hwprune.compilation.regions import Region

#: Layers that take BatchNorm, sums and activations into their kernels.
MATRICES = ("conv2d", "conv2d_grouped", "conv2d_transposed", "depthwise", "dense", "dense_rows")

#: Other layers that take activations.
ARITHMETIC = ("batch_norm", "affine", "layer_norm", "add", "sub", "mul", "scale", "shift")

#: Layers that pad with zeros themselves.
PADDING = ("conv2d", "conv2d_grouped", "depthwise", "avg_pool")


def fuse(layers: list[Layer], outputs: Sequence[str]) -> list[Layer]:
    """Borders into the layer behind them; BatchNorm into the layer before it, then sums, then activations.

    Each wherever nobody else reads the value between.
    """
    layers = _without_dead(_without_identities(layers, outputs), outputs)
    for join in (_join_border, _join_batch_norm, _join_add, _join_activation):
        layers = _fuse_pairs(layers, outputs, join)
    return _with_plain_outputs(layers, outputs)


def _without_identities(layers: list[Layer], outputs: Sequence[str]) -> list[Layer]:
    """Layers that read through identities; one that gives an output stays."""
    source: dict[str, str] = {}
    kept = []
    for layer in layers:
        layer = replace(layer, inputs=tuple(source.get(name, name) for name in layer.inputs))
        if layer.op == "identity" and layer.output not in outputs:
            source[layer.output] = layer.inputs[0]
        else:
            kept.append(layer)
    return kept


def _without_dead(layers: Sequence[Layer], outputs: Sequence[str]) -> list[Layer]:
    """Layers whose values somebody reads; assertions of the tracer, for one, go."""
    needed, live = set(outputs), []
    for layer in reversed(layers):
        if needed.intersection(layer.outputs):
            needed.update(layer.reads)
            live.append(layer)
    return live[::-1]


def _with_plain_outputs(layers: Sequence[Layer], outputs: Sequence[str]) -> list[Layer]:
    """Layers that can, write for the network's caller what nobody else reads."""
    readers = Counter([*outputs, *(name for layer in layers for name in layer.reads)])
    return [
        replace(layer, settings={**layer.settings, "plain": True})
        if layer.op == "resample" and layer.output in outputs and readers[layer.output] == 1
        else layer
        for layer in layers
    ]


Join = Callable[[Layer, Layer], Layer | None]


def _fuse_pairs(layers: list[Layer], outputs: Sequence[str], join: Join) -> list[Layer]:
    """Every pair (a layer, the only reader of its value) that ``join`` accepts as one layer, at the reader's place."""
    readers = Counter([*outputs, *(name for layer in layers for name in layer.reads)])
    done: dict[str, Layer] = {}
    position: dict[str, int] = {}
    for number, layer in enumerate(layers):
        # The latest first: it is nearest, so the least is moved.
        for name in sorted(layer.reads, key=lambda name: position.get(name, -1), reverse=True):
            joined = join(done[name], layer) if name in done and readers[name] == 1 else None
            if joined:
                del done[name]
                layer = joined
                break
        done[layer.outputs[0]] = layer
        position[layer.outputs[0]] = number
    return list(done.values())


def _join_border(first: Layer, second: Layer) -> Layer | None:
    if first.op != "border":
        return None
    top, bottom, left, right = edges = first.settings["edges"]
    if second.op == "border":
        inner = second.settings["edges"]
        if max(*edges, *inner) > 0 > min(*edges, *inner):  # what is cut off does not come back as zeros
            return None
        return replace(second, inputs=first.inputs, settings={"edges": tuple(map(sum, zip(edges, inner, strict=True)))})
    if second.op not in PADDING or "out" in second.settings:
        return None
    if (top, left) != (bottom, right) or min(top, left) < 0:
        return None
    height, width = second.settings["padding"]
    padding = (height + top, width + left)
    return replace(second, inputs=first.inputs, settings={**second.settings, "padding": padding})


def _join_batch_norm(first: Layer, second: Layer) -> Layer | None:
    if first.op not in MATRICES or second.op != "batch_norm" or "bn_var" in first.parameters:
        return None
    return replace(
        first,
        outputs=second.outputs,
        parameters={**first.parameters, **second.parameters},
        settings={**first.settings, **second.settings},
    )


def _join_add(first: Layer, second: Layer) -> Layer | None:
    if first.op not in MATRICES or second.op != "add" or first.epilogue or len(set(second.inputs)) == 1:
        return None
    (other,) = (name for name in second.inputs if name != first.output)
    return replace(first, outputs=second.outputs, residual=other)


def _join_activation(first: Layer, second: Layer) -> Layer | None:
    fusable = first.op in (*MATRICES, *ARITHMETIC)
    if not fusable or first.activation or second.op != "activation":
        return None
    return replace(first, outputs=second.outputs, activation=second.activation)


def join_fallbacks(
    layers: Sequence[Layer], outputs: Sequence[str], tensors: Mapping[str, str], constants: Mapping[str, Tensor]
) -> list[Layer]:
    """Every run of neighbouring fallbacks as one region."""
    joined: list[Layer] = []
    for is_fallback, run in itertools.groupby(layers, lambda layer: layer.op == "fallback"):
        members = list(run)
        if not is_fallback:
            joined += members
            continue
        inside = {id(member) for member in members}
        wanted = {*outputs, *(name for layer in layers if id(layer) not in inside for name in layer.reads)}
        joined.append(_region(members, wanted, tensors, constants))
    return joined


def _region(
    members: Sequence[Layer], wanted: set[str], tensors: Mapping[str, str], constants: Mapping[str, Tensor]
) -> Layer:
    """One layer of several fallbacks, of which others read the ``wanted`` values."""
    nodes = tuple(node for member in members for node in member.settings["nodes"])
    written = [name for member in members for name in member.outputs]
    inputs = tuple(dict.fromkeys(name for member in members for name in member.inputs if name not in written))
    read = dict.fromkeys(value.name for node in nodes for value in node.all_input_nodes if value.name in tensors)
    region = Region(
        nodes,
        inputs,
        tuple(name for name in written if name in wanted),
        {name: tensors[name] for name in read if name not in constants},
        {name: constants[name] for name in read if name in constants},
    )
    return Layer("fallback", members[0].name, inputs, region.outputs, settings={"region": region})
