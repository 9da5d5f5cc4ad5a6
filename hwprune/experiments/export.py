"""A point of a front as files to take away: ONNX, weights and plan, the measured library; and the way back."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hwprune import networks, training
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.targets import CpuTarget
from hwprune.config import RunConfig
from hwprune.errors import CompileError, ConfigError, RunError, UnknownNameError
from hwprune.experiments.home import Home
from hwprune.experiments.members import members_of
from hwprune.experiments.points import PointFiles
from hwprune.experiments.provenance import RunFolder, write_text
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.groups import build_groups
from hwprune.pruning.plan import PruningPlan
from hwprune.pruning.structured import Slicer

#: Largest difference between the ONNX file's outputs and torch's, relative to the largest output.
TOLERANCE = 1e-4

#: 1: network, pruning and kept units; weights beside it.
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        folder: the folder; ``hwprune.load`` reads it.
        onnx: the ONNX file.
        weights: the weights as safetensors.
        plan: what was kept, as JSON.
        library: the network compiled for the run's device, with the weights that are handed out.
        onnx_difference: largest difference of the ONNX file's outputs from torch's, relative to the largest output.
        checked_with: what ran the ONNX file.
    """

    folder: Path
    onnx: Path
    weights: Path
    plan: Path
    library: Path
    onnx_difference: float
    checked_with: str


def export(run_folder: Path, point: str, out_folder: Path, home: Home) -> ExportReport:
    """Write one point of a run's front.

    Args:
        run_folder: the run.
        point: an id of its front, ``dense`` included.
        out_folder: where the files go; made if absent.
        home: where the device's entry and compiled kernels are.

    Raises:
        RunError: the folder is no run.
        UnknownNameError: the front has no such point.
        CompileError: the ONNX file does not compute what torch does.
    """
    run = RunFolder.open(run_folder)
    files = PointFiles(run)
    if point not in files.ids():
        raise UnknownNameError("point", point, files.ids())
    config = RunConfig.load(run.path / "config.yaml")
    device = members_of(home, config.device)[0]
    bench = Workbench.open(config.problem, CpuTarget.from_dict(device.target, device.threads))
    plan = files.plan(point)
    module = bench.slicer.cut(plan)
    training.load_weights(module, files.weights(point))
    module.eval()
    # All files appear together or none does: an export that fails its check leaves nothing behind.
    with tempfile.TemporaryDirectory() as draft_name:
        draft = Path(draft_name)
        difference, runner = _write_onnx(module, bench.example_input, draft / f"{point}.onnx")
        training.save_weights(module, draft / "weights.safetensors", sparse=plan.mask is not None)
        write_text(draft / "plan.json", json.dumps(_description(bench, plan), indent=1))
        library = Compiler(CpuTarget.from_dict(device.target, device.threads), home.path).network(bench.graph, module)
        shutil.copyfile(library.path, draft / f"{point}.so")
        out_folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(draft.iterdir()):
            shutil.copyfile(file, out_folder / file.name)
    return ExportReport(
        out_folder,
        out_folder / f"{point}.onnx",
        out_folder / "weights.safetensors",
        out_folder / "plan.json",
        out_folder / f"{point}.so",
        difference,
        runner,
    )


@torch.inference_mode(mode=False)  # groups are found by gradients, whatever the caller computes under
def load(path: str | Path) -> nn.Module:
    """The pruned network of an exported folder, in evaluation mode.

    Raises:
        RunError: the folder holds no export.
        WeightsError: the weights do not fit.
    """
    folder = Path(path)
    try:
        description = json.loads((folder / "plan.json").read_text())
        version = description["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{folder} holds no exported network ({error}): name a folder that 'hwprune export' wrote"
        ) from error
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{folder} was exported by another version of hwprune (schema {version}): export it again")
    network = description["network"]
    dense = networks.build(network["spec"], network["num_classes"], network["in_channels"]).eval()
    example = torch.zeros(description["input_shape"])
    groups = build_groups(dense, example, prune_residual=description["prune_residual"], protect=description["protect"])
    module = Slicer(dense, groups).cut(PruningPlan.from_dict(description["plan"]))
    training.load_weights(module, folder / "weights.safetensors")
    return module.eval()


def _description(bench: Workbench, plan: PruningPlan) -> dict[str, Any]:
    problem, data = bench.problem, bench.data
    normalization = data.normalization
    return {
        "schema_version": SCHEMA_VERSION,
        "network": {"spec": problem.network, "num_classes": data.num_classes, "in_channels": data.input_shape[0]},
        "input_shape": list(bench.example_input.shape),
        "prune_residual": problem.pruning.prune_residual,
        "protect": list(problem.pruning.protect),
        "plan": plan.as_dict(),
        "widths": {group.name: width for group, width in zip(bench.groups, plan.widths, strict=True)},
        "normalization": None
        if normalization is None
        else {"mean": list(normalization.mean), "std": list(normalization.std)},
    }


def _write_onnx(module: nn.Module, example_input: torch.Tensor, path: Path) -> tuple[float, str]:
    """Write and check the ONNX file; returns the difference and what computed it."""
    with _quiet(), torch.no_grad():
        torch.onnx.export(module, (example_input,), path, dynamo=True, external_data=False, verbose=False)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(example_input.shape, generator=generator)
    with torch.no_grad():
        outputs = module(x)
    wanted = [output.numpy() for output in (outputs if isinstance(outputs, (tuple, list)) else [outputs])]
    found, runner = _run_onnx(path, x.numpy())
    difference = max(
        float(np.abs(ours - theirs).max() / max(float(np.abs(theirs).max()), 1e-12))
        for ours, theirs in zip(found, wanted, strict=True)
    )
    if not difference <= TOLERANCE:
        raise CompileError(
            f"the ONNX file's outputs differ from torch's by {difference:.1e} (at most {TOLERANCE:g} is allowed): "
            "nothing was exported; report the network"
        )
    return difference, runner


def _run_onnx(path: Path, x: np.ndarray[Any, Any]) -> tuple[list[Any], str]:
    """Outputs of an ONNX file: by ONNX Runtime where it is installed, else by ONNX's own reference."""
    try:
        import onnxruntime
    except ImportError:
        import onnx.reference

        evaluator = onnx.reference.ReferenceEvaluator(str(path))
        return list(evaluator.run(None, {evaluator.input_names[0]: x})), f"onnx reference {onnx.__version__}"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x})), f"onnxruntime {onnxruntime.__version__}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own chatter off the terminal; what it finds wrong raises."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
