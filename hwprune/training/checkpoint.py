"""A training that was interrupted goes on after its last whole epoch, to the same weights."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwprune.errors import WeightsError
from hwprune.training.weights import weights_digest


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds how far a training has come. It stays when the training has ended, for its owner to `remove`.

    Attributes:
        path: the file.
        key: what the training depends on beside its settings and the weights it starts from: data, teacher.
    """

    path: Path
    key: str = ""

    def begin(self, module: nn.Module, settings: object) -> Begun:
        """The same file for a training of ``module`` from its present weights."""
        told = f"{self.key}\n{settings!r}\n{weights_digest(module)}"
        return Begun(self.path, hashlib.sha256(told.encode()).hexdigest())

    def remove(self) -> None:
        """Forget the training."""
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Begun:
    """The checkpoint of one certain training.

    Attributes:
        path: the file.
        training: SHA-256 of all that decides its outcome; a file of another training counts for nothing.
    """

    path: Path
    training: str

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
        """Put ``module``, ``optimizer`` and the random numbers of layers where they were; the epochs that are done."""
        try:
            kept: Mapping[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return []  # none there, or none that can be read: from the start
        if kept.get("training") != self.training:
            return []
        module.load_state_dict(kept["module"])
        optimizer.load_state_dict(kept["optimizer"])
        torch.set_rng_state(kept["random"])
        return list(kept["epochs"])

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, epochs: list[tuple[Any, ...]]) -> None:
        """Write how far it is: the whole file or none.

        Raises:
            WeightsError: the file cannot be written.
        """
        kept = {
            "training": self.training,
            "epochs": epochs,
            "module": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        temporary = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=f".{self.path.name}.", delete=False) as file:
                temporary = Path(file.name)
                torch.save(kept, file)
            os.replace(temporary, self.path)
        except (OSError, RuntimeError) as error:  # a full disk is the latter to torch
            if temporary:
                temporary.unlink(missing_ok=True)
            raise WeightsError(
                f"the training's checkpoint cannot be written to {str(self.path)!r} ({error}): free space"
            ) from error
