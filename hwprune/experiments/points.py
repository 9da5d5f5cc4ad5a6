"""The networks of a run's front as files: plan and weights of each, under ``points/``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from hwprune import training
from hwprune.experiments.provenance import RunFolder
from hwprune.pruning.plan import PruningPlan


@dataclass(frozen=True)
class PointFiles:
    """Files of a run's points.

    Attributes:
        run: the run they belong to.
    """

    run: RunFolder

    def ids(self) -> list[str]:
        """Ids of the front's networks, ``dense`` first."""
        return [str(row["id"]) for row in self._rows()]

    def plan(self, point: str) -> PruningPlan:
        """What the point keeps."""
        return PruningPlan.from_dict(self.run.read_json(f"points/{point}.json"))

    def weights(self, point: str) -> Path:
        """File of the point's weights as they are handed out."""
        return self.run.path / "points" / f"{point}.safetensors"

    def checkpoint(self, point: str) -> Path:
        """File of how far the point's fine-tuning is, while it lasts."""
        return self.run.path / "points" / f"{point}.checkpoint"

    def write(self, point: str, plan: PruningPlan, module: nn.Module) -> None:
        """Keep a point: its plan and its weights."""
        (self.run.path / "points").mkdir(exist_ok=True)
        training.save_weights(module, self.weights(point), sparse=plan.mask is not None)
        self.run.write_json(f"points/{point}.json", plan.as_dict())

    def _rows(self) -> list[dict[str, Any]]:
        front = self.run.read_json("front.json")
        return [*front["rows"], *front["untrusted"]]
