"""Weights in files: safetensors, or PyTorch's own state dictionaries."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from hwprune.errors import WeightsError

#: Keys that a message names before it says "and so on".
NAMED_KEYS = 3


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Copy the weights of a ``.safetensors`` file, or of a state dictionary in any other, into ``module``.

    Number formats are converted. A dictionary under ``state_dict``, and names that ``DataParallel`` has prefixed with
    ``module.``, are understood.

    Raises:
        WeightsError: the file is missing or unreadable, or its keys or shapes are not those of ``module``.
    """
    path = Path(path)
    found, expected = _read(path), module.state_dict()
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


def save_weights(module: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the weights of ``module`` as safetensors: the whole file or none.

    Raises:
        WeightsError: the file cannot be written.
    """
    path = Path(path)
    tensors = {key: value.detach().clone().contiguous() for key, value in module.state_dict().items()}
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
