"""Where state lives: one folder with devices, store, artifacts and latency models."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from device_agents.registry import Device, Registry
from hwprune.errors import ConfigError
from hwprune.store import Store


@dataclass(frozen=True)
class Home:
    """The folder that ``HWPRUNE_HOME`` names, or the platform's user data folder.

    Attributes:
        path: the folder; made on first use.
        store_url: database URL; None for ``store.db`` in the folder.
    """

    path: Path
    store_url: str | None = None

    @classmethod
    def find(cls, path: str | Path | None = None, store_url: str | None = None) -> Home:
        """The home that options name, else the environment, else the platform."""
        folder = path or os.environ.get("HWPRUNE_HOME") or platformdirs.user_data_dir("hwprune")
        return cls(Path(folder).expanduser().absolute(), store_url or os.environ.get("HWPRUNE_STORE"))

    @property
    def devices(self) -> Registry:
        """Inventory of the registered devices."""
        return Registry(self.folder("devices"))

    @property
    def artifacts(self) -> Path:
        """Folder of compiled libraries, by SHA-256."""
        return self.folder("artifacts")

    @property
    def models(self) -> Path:
        """Folder of latency models (measured rows and recipe)."""
        return self.folder("models")

    def of(self, device: Device) -> Home:
        """The home that a device's state is kept in: this one, but a folder of its own for a recorded device.

        So nothing that was simulated is ever found beside what was measured.
        """
        if device.recording is None:
            return self
        name = hashlib.sha256(device.recording.encode()).hexdigest()[:16]
        return Home(self.path / "replays" / name)

    def folder(self, name: str) -> Path:
        """Sub-folder ``name``, made if absent.

        Raises:
            ConfigError: it cannot be made.
        """
        folder = self.path / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot make {folder} ({error.strerror}): set HWPRUNE_HOME to a writable folder"
            ) from error
        return folder

    def open_store(self) -> Store:
        """The store of measurements; the caller closes it."""
        self.folder("")
        return Store.open(self.store_url or str(self.path / "store.db"), self.artifacts)
