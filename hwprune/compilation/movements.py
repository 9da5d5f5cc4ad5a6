"""Fused layers that move values: views where memory allows, else calls that copy."""

from __future__ import annotations

import math
from dataclasses import replace

from hwprune.compilation.builder import PlanBuilder, image_size
from hwprune.compilation.kernels import layout, moving
from hwprune.compilation.layers import Layer
from hwprune.compilation.regions import BakedSizesError
from latency_models.shapes import LayerShape


def pad_shortcut(build: PlanBuilder, layer: Layer) -> None:
    """Zero channels in front and behind, as the module now has them."""
    value = build.blocked(layer.inputs[0])
    channels, height, width = image_size(value)
    shortcut = build.module.get_submodule(layer.name)
    stride, front, back = (int(getattr(shortcut, name)) for name in ("stride", "front", "back"))
    if (stride, front, back) == (1, 0, 0):
        build.values[layer.output] = value
        return
    out_channels = channels + front + back
    shape = LayerShape("pad_shortcut", channels, out_channels, height, width, stride=(stride, stride))
    out = (value.shape[0], out_channels, -(-height // stride), -(-width // stride))
    build.values[layer.output] = build.new_value(layer.output, out, blocked=True)
    build.call(shape, [value], build.values[layer.output], usage=layout.specify(shape, build.target, front))


def concat(build: PlanBuilder, layer: Layer) -> None:
    """Parts behind each other in one storage; a call for each part that is not yet there.

    The storage is that of the first part, which grows, or of a concatenation that had the same first parts: so the
    first part is never copied, and every other one once, however many concatenations begin with it. That holds for all
    widths alike, so that all of them make the same calls.
    """
    names = build.parts_of(layer.inputs)
    values = [build.blocked(name) for name in names]
    _, height, width = image_size(values[0])
    total = sum(value.channels for value in values)
    shape = (values[0].shape[0], total, *values[0].shape[2:])
    out, copied = build.joined(layer.output, names, shape)
    lanes, front = build.target.lanes, 0
    for index, value in enumerate(values):
        if index >= copied:
            part = LayerShape("concat", value.channels, total, height, width)
            offset = front // lanes * lanes * height * width
            usage = layout.specify(part, build.target, front)
            build.call(part, [value], out, usage=usage, offset_floats=offset)
        front += value.channels


def slice_(build: PlanBuilder, layer: Layer) -> None:
    """A run of channels; the first ones are where they are.

    Raises:
        BakedSizesError: the run is that of the dense network, whose channels these are not.
    """
    value, settings = build.blocked(layer.inputs[0]), layer.settings
    channels, height, width = image_size(value)
    begin, end = settings["begin"], settings["end"]
    if "part" in settings:
        index, parts = settings["part"]
        size = -(-channels // parts)
        begin, end = index * size, min((index + 1) * size, channels)
    elif channels != settings["channels"]:
        raise BakedSizesError("slice")
    out = (value.shape[0], end - begin, *value.shape[2:])
    if layer.settings["begin"] == 0:
        build.values[layer.output] = replace(value, shape=out)
        return
    shape = LayerShape("slice", channels, end - begin, height, width)
    usage = moving.specify(shape, build.target, begin)
    build.values[layer.output] = build.new_value(layer.output, out, blocked=True)
    build.call(shape, [value], build.values[layer.output], usage=usage)


def shuffle(build: PlanBuilder, layer: Layer) -> None:
    """Channels of several groups, interleaved.

    Raises:
        BakedSizesError: the groups were computed, and the channels are not the dense network's.
    """
    value, groups = build.blocked(layer.inputs[0]), layer.settings["groups"]
    channels, height, width = image_size(value)
    if layer.settings.get("channels", channels) != channels:
        raise BakedSizesError("shuffle")
    shape = LayerShape("shuffle", channels, channels, height, width, kernel=(groups, 1))
    build.emit(layer, shape, [value], value.shape)


def border(build: PlanBuilder, layer: Layer) -> None:
    """Zeros around an image; rows and columns are cut off where they are negative."""
    value = build.blocked(layer.inputs[0])
    channels, height, width = image_size(value)
    top, bottom, left, right = layer.settings["edges"]
    out = (height + top + bottom, width + left + right)
    shape = LayerShape("border", channels, channels, height, width, padding=(top, left), out_size=out)
    build.emit(layer, shape, [value], (value.shape[0], channels, *out))


def flatten(build: PlanBuilder, layer: Layer) -> None:
    """A view: nothing is called, unless channels have to leave their blocks first."""
    value = build.values[layer.inputs[0]]
    first, last, kept = (layer.settings[name] for name in ("first", "last", "kept"))
    is_vector = first == 1 and math.prod(value.shape[1:]) == value.shape[1]
    if value.blocked and not is_vector:
        value = build.plain(layer.inputs[0])
    joined = math.prod(value.shape[first : last + 1])
    shape = (*value.shape[:first], joined, *value.shape[last + 1 :], *[1] * kept)
    build.values[layer.output] = replace(value, shape=shape, channels_last=len(shape) == 3)


def to_rows(build: PlanBuilder, layer: Layer) -> None:
    """Images as rows of features: in blocks of channels both lie in memory alike."""
    value = build.blocked(layer.inputs[0])
    batch, channels, height, width = value.shape
    pixels = (height, width) if layer.settings["rank"] == 4 else (height * width,)
    build.values[layer.output] = replace(value, shape=(batch, *pixels, channels), channels_last=True)


def to_images(build: PlanBuilder, layer: Layer) -> None:
    """Rows of features as images: in blocks of channels both lie in memory alike."""
    value = build.blocked(layer.inputs[0])
    shape = (value.shape[0], value.channels, *layer.settings["size"])
    build.values[layer.output] = replace(value, shape=shape, channels_last=False)


def identity(build: PlanBuilder, layer: Layer) -> None:
    """Another name."""
    build.values[layer.output] = build.values[layer.inputs[0]]
