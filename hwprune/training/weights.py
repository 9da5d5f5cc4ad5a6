"""Weights in files: safetensors, or PyTorch's own state dictionaries."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from hwprune.errors import WeightsError

#: Keys that a message names before it says "and so on".
NAMED_KEYS = 3

#: Endings of the two tensors that stand for one of many zeros: which values are not zero, one bit each, and these.
BITS, VALUES = ":bits", ":values"


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Copy the weights of a ``.safetensors`` file, or of a state dictionary in any other, into ``module``.

    Number formats are converted, and tensors that were stored sparse get their zeros back. A dictionary under
    ``state_dict``, and names that ``DataParallel`` has prefixed with ``module.``, are understood.

    Raises:
        WeightsError: the file is missing or unreadable, or its keys or shapes are not those of ``module``.
    """
    path = Path(path)
    expected = module.state_dict()
    found = _filled(_read(path), expected)
    # Old files lack these counters, which no output depends on.
    found = {**{key: value for key, value in expected.items() if key.endswith("num_batches_tracked")}, **found}
    reshaped = [
        f"{key} is {tuple(found[key].shape)}, not {tuple(expected[key].shape)}"
        for key in expected.keys() & found.keys()
        if found[key].shape != expected[key].shape
    ]
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": sorted(reshaped),
    }
    if any(problems.values()):
        text = "; ".join(f"{len(keys)} {problem}: {_some(keys)}" for problem, keys in problems.items() if keys)
        raise WeightsError(
            f"the weights in {str(path)!r} do not fit the network ({text}): give the file of this network"
        )
    module.load_state_dict(found)


def save_weights(
    module: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None, *, sparse: bool = False
) -> None:
    """Write the weights of ``module`` as safetensors: the whole file or none.

    Args:
        module: whose weights.
        path: the file.
        metadata: kept beside them.
        sparse: store what has many zeros as the values that are not, and a bit each for where they are.

    Raises:
        WeightsError: the file cannot be written.
    """
    path = Path(path)
    tensors = {key: value.detach().clone().contiguous() for key, value in module.state_dict().items()}
    if sparse:
        tensors = {key: part for name, tensor in tensors.items() for key, part in _thinned(name, tensor)}
    content = safetensors.torch.save(tensors, dict(metadata) if metadata else None)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        raise WeightsError(
            f"the weights cannot be written to {str(path)!r} ({error}): free space, or give another path"
        ) from error


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of names, formats, shapes and values of all weights and statistics, hexadecimal."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _thinned(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensor, or the two that stand for it where these are smaller."""
    values = tensor[tensor != 0]
    bits = np.packbits((tensor != 0).numpy())
    if tensor.dim() < 2 or values.nbytes + bits.nbytes >= tensor.nbytes:
        yield name, tensor
        return
    yield name + BITS, torch.from_numpy(bits)
    yield name + VALUES, values


def _filled(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stored tensors, the sparse ones with their zeros; those that fit no expected shape stay as they are."""
    filled = dict(found)
    for name in [key.removesuffix(BITS) for key in found if key.endswith(BITS)]:
        if name not in expected or name + VALUES not in found:
            continue
        bits, values = found[name + BITS].numpy(), found[name + VALUES]
        places = torch.from_numpy(np.unpackbits(bits).astype(np.bool_)[: expected[name].numel()])
        if int(places.sum()) == len(values) and len(places) == expected[name].numel():
            tensor = torch.zeros(expected[name].numel(), dtype=values.dtype)
            tensor[places] = values
            filled[name] = tensor.reshape(expected[name].shape)
            del filled[name + BITS], filled[name + VALUES]
    return filled


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f"there are no weights at {str(path)!r}: give a .safetensors or .pt file, or run `hwprune train` first"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"the weights in {str(path)!r} cannot be read ({reason}): save a state dictionary there"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(
            f"{str(path)!r} holds no state dictionary: save one by torch.save(network.state_dict(), path)"
        )
    prefixed = all(key.startswith("module.") for key in content)
    return {key.removeprefix("module.") if prefixed else key: value for key, value in content.items()}


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:NAMED_KEYS]) + (", ..." if len(keys) > NAMED_KEYS else "")
