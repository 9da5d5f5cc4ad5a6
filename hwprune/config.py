"""A problem as one YAML file: what is pruned, on what data, for which objectives, with which budget.

    network: {name: resnet_cifar, depth: 56}
    weights: weights.safetensors
    data: {name: image_folder, path: path/to/cifar10, val_images: 1000}
    objectives: [error, latency, peak_memory]
    constraints: {latency_ms: "<= 1.2"}
    budget: {evaluations: 200}

Paths in a config are relative to the working folder, as on the command line.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from hwprune.errors import ConfigError, UnknownNameError
from hwprune.strict_yaml import Document, assign, dump, keys, split_override


@dataclass(frozen=True)
class Bound:
    """An upper bound on an objective, in the objective's unit; written ``"<= 1.2"``."""

    value: float

    @classmethod
    def parse(cls, text: object) -> Bound:
        """Bound that ``text`` states.

        Raises:
            ValueError: it is not ``<=`` and a number.
        """
        match = re.fullmatch(r"\s*<=\s*(\S+)\s*", text) if isinstance(text, str) else None
        try:
            value = float(match.group(1)) if match else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f'"<= NUMBER" (every objective is minimized), found {text!r}')
        return cls(value)

    def __str__(self) -> str:
        return f"<= {self.value!r}"


def _as_spec(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


#: A plug-in and its settings: a mapping with ``name``, or the name alone.
Spec = Annotated[dict[str, Any], BeforeValidator(_as_spec)]

_Bound = Annotated[
    Bound,
    PlainValidator(Bound.parse),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": "^ *<= *[0-9.eE+-]+ *$"}),
]


class Section(BaseModel):
    """A mapping of a config: unknown keys and wrong types are errors, and nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


class Pruning(Section):
    """What may be removed.

    Attributes:
        prune_residual: prune the residual streams too, not only widths inside blocks.
        round_to: kept channels are multiples of this; ``auto`` takes the step that the device's profile found.
        criterion: importance criterion that ranks the channels of a group.
        protect: patterns of layers (``layer3.*``) that stay whole.
        pruning_ratio_max: largest share of a group that is removed, in [0, 1).
        sparse_kernels: which convolutions leave out single weights that are zero: those that were measured to get
            faster by it, all, or none.
    """

    prune_residual: bool = False
    round_to: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    criterion: str = "l2_norm"
    protect: list[str] = []
    pruning_ratio_max: float = Field(default=0.9, ge=0, lt=1)
    sparse_kernels: Literal["auto", "always", "never"] = "auto"


class Budget(Section):
    """When a search ends: whichever comes first.

    Attributes:
        evaluations: true evaluations (accuracy of distinct candidates on the validation split); none for no limit.
        minutes: wall time of the search; none for no limit.
        stop_when_settled: end a search whose hypervolume has grown by less than 0.1 % over the last 100 evaluations.
        dense_passes: multiply-adds spent on candidates, in passes of the dense network over the validation images; none
            for as many as ``evaluations`` of the dense network take.
    """

    evaluations: int | None = Field(default=200, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    stop_when_settled: bool = True
    dense_passes: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.evaluations is None and self.minutes is None and self.dense_passes is None:
            raise ValueError("a number of evaluations or of minutes, found neither")
        return self


class Training(Section):
    """How the dense network is trained by ``hwprune train``; the defaults suit CIFAR-sized images.

    Attributes:
        epochs: passes over the training split.
        lr: largest learning rate of SGD.
        batch_size: images a step.
        momentum: of SGD, in [0, 1).
        nesterov: Nesterov's momentum instead of the plain one.
        weight_decay: added to the gradient, times the weight.
        schedule: ``cosine`` falls to zero with every step; ``step`` multiplies by ``gamma`` at each milestone.
        milestones: shares of all epochs, in (0, 1).
        gamma: factor of ``step``.
        warmup_epochs: first epochs, at a tenth of ``lr``.
        augment: vary the images as their data set says.
        precision: ``auto`` computes in bfloat16 where the processor is faster with it.
    """

    epochs: int = Field(default=30, ge=1)
    lr: float = Field(default=0.1, gt=0)
    batch_size: int = Field(default=64, ge=2)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[float, ...] = Field(default=(0.3, 0.6, 0.8), strict=False)
    gamma: float = Field(default=0.2, gt=0)
    warmup_epochs: int = Field(default=1, ge=0)
    augment: bool = True
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class Finetune(Training):
    """How the points of a front are fine-tuned: a training from inherited weights, with the dense network's help.

    Attributes:
        epochs: passes over the training split for each point; 0 for none.
        lr: largest learning rate of SGD.
        warmup_epochs: first epochs, at a tenth of ``lr``; inherited weights need none.
        distillation: weight of the dense network's outputs in the loss, in [0, 1].
        temperature: both networks' outputs are divided by it.
    """

    epochs: int = Field(default=10, ge=0)
    lr: float = Field(default=0.02, gt=0)
    warmup_epochs: int = Field(default=0, ge=0)
    distillation: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)


def _threads() -> int:
    """Half the cores: threads that share a core with anything else slow each other down five times and more."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2)


class EvaluationSettings(Section):
    """How a candidate's accuracy is taken inside the search.

    Attributes:
        bn_images: training images that BatchNorm statistics of returned networks are re-estimated on; 0 for none.
        search_bn_images: how many of them candidates are re-estimated on inside a search.
        val_images: validation images a candidate is judged on; none for all.
        dtype: arithmetic of the accuracy pass; ``auto`` takes bfloat16 where the processor is faster with it.
        threads: threads of torch, in training too; half the cores of this process unless said.
        seed: draws the images of BatchNorm and the order of the split: apart from the seed of the search, so that
            searches with other seeds share accuracies.
    """

    bn_images: int = Field(default=1280, ge=0)
    search_bn_images: int = Field(default=256, ge=1)
    val_images: int | None = Field(default=None, ge=1)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int = Field(default_factory=_threads, ge=1)
    seed: int = Field(default=0, ge=0)


#: ``weights`` of a problem whose network comes with trained ones.
PRETRAINED = "pretrained"


class Problem(Section):
    """One pruning problem.

    Attributes:
        network: network family and its settings, or ``package.module:build``.
        weights: file of the dense network's weights; ``pretrained`` where the network brings them; none where they are
            yet to be trained.
        task: what the network does, or ``package.module:build``.
        data: data set and its settings, or ``package.module:build``.
        pruning: what may be removed.
        objectives: names of what is minimized.
        constraints: upper bounds by objective and unit, ``latency_ms: "<= 1.2"``.
        batch_size: images of one inference.
        budget: when a search ends.
        seed: of everything random.
        latency_source: whether a candidate's latency comes from the device's model or from measuring it whole.
        training: how the dense network is trained.
        finetune: how the points of a front are fine-tuned.
        evaluation: how a candidate's accuracy is taken.
    """

    network: Spec
    weights: str | None = None
    task: Spec = Field(default={"name": "classification"})
    data: Spec
    pruning: Pruning = Pruning()
    objectives: list[str] = Field(default=["error", "latency", "peak_memory"], min_length=1)
    constraints: dict[str, _Bound] = {}
    batch_size: int = Field(default=1, ge=1)
    budget: Budget = Budget()
    seed: int = Field(default=0, ge=0)
    latency_source: Literal["model", "device"] = "model"
    training: Training = Training()
    finetune: Finetune = Finetune()
    evaluation: EvaluationSettings = EvaluationSettings()

    @field_validator("network", "task", "data")
    @classmethod
    def _named(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(value.get("name"), str):
            raise ValueError(f"a name, or a mapping with one like {{name: resnet_cifar, depth: 56}}, found {value!r}")
        return value

    @field_validator("objectives")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError(f"a list that names each objective once, found {value!r}")
        return value

    def to_yaml(self) -> str:
        """The problem with every default written out; :func:`load_problem` reads it back."""
        return dump(self.model_dump(mode="json"))


class RunConfig(Section):
    """What a run was started with: the ``config.yaml`` of its folder.

    Attributes:
        problem: the resolved problem.
        device: name of the device.
        method: name of the search method.
        method_settings: the method's settings.
        channel_step: the device's channel step when the run began, which ``round_to: auto`` stands for.
        scenario: what the device is put through while the front is measured.
    """

    problem: Problem
    device: str
    method: str
    method_settings: dict[str, Any] = {}
    channel_step: int | None = None
    scenario: str = "burst"

    def to_yaml(self) -> str:
        """Text of the file."""
        return dump(self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: str | Path) -> RunConfig:
        """Read the file back.

        Raises:
            ConfigError: it is missing, or not what ``hwprune search`` wrote.
        """
        return Document.read(path).validate(cls)


def load_problem(
    path: str | Path, overrides: Sequence[str] = (), method_settings: Mapping[str, Any] | None = None
) -> tuple[Problem, dict[str, Any]]:
    """Read a problem and apply ``--set`` overrides.

    Args:
        path: the YAML file.
        overrides: ``a.b=value`` texts; where no problem has the key, it is a setting of the method.
        method_settings: the method's settings by name, as they stand before the overrides; none where no method
            takes part.

    Returns:
        The problem, and ``method_settings`` with the overrides that concern them.

    Raises:
        ConfigError: the file is missing, empty, malformed or has an unknown key or value, or an override has.
    """
    document = Document.read(path)
    settings = dict(method_settings or {})
    for key, value in map(split_override, overrides):
        root = key.split(".")[0]
        if root in Problem.model_fields:
            document.override(key, value)
        elif root in settings:
            assign(settings, key, value)
        else:
            raise ConfigError(f"--set {key}: {UnknownNameError('key', root, [*keys(Problem), *settings])}")
    return document.validate(Problem), settings


def parse_budget(text: str) -> list[str]:
    """Overrides that ``--budget`` stands for: ``200`` evaluations, ``30min``, ``1.5h``, or both: ``200,30min``.

    Raises:
        ConfigError: it is none of these.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(min|h)?\s*", part)
        if match is None or (match.group(2) is None and not match.group(1).isdigit()):
            raise ConfigError(f"--budget {text!r}: give evaluations (200), minutes (30min), hours (1.5h), or 200,30min")
        if float(match.group(1)) == 0:
            raise ConfigError(f"--budget {text!r}: a budget of nothing finds nothing")
        key = "evaluations" if match.group(2) is None else "minutes"
        value = float(match.group(1)) * (60 if match.group(2) == "h" else 1)
        found[key] = str(int(value)) if key == "evaluations" else repr(value)
    # What is not named is no limit: half an hour is not half an hour or the file's 200 evaluations.
    return [f"budget.{key}={found.get(key, 'null')}" for key in ("evaluations", "minutes")]


def load_method_settings(path: str | Path, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a method from its YAML file, on top of its defaults.

    Raises:
        ConfigError: the file cannot be read, or names a setting that the method does not have.
    """
    document = Document.read(path)
    for key in document.data:
        if key not in defaults:
            raise ConfigError(f"{document.path}: {UnknownNameError('setting', key, defaults)}")
    return {**defaults, **document.data}


def problem_schema() -> dict[str, Any]:
    """JSON Schema of a problem file, for editors."""
    name_or_mapping = {"anyOf": [{"type": "string"}, {"type": "object", "required": ["name"]}]}
    schema = Problem.model_json_schema()
    for key in ("network", "task", "data"):
        schema["properties"][key] |= name_or_mapping
        schema["properties"][key].pop("type")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
