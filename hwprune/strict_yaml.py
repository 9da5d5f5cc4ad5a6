"""YAML read strictly: every mistake becomes one line with file, line number and remedy.

On top of PyYAML's safe loader: ``1e-3`` is a number, a key that stands twice is an error, ``key=value`` texts override
what the file says, and a pydantic model's complaints are told in the file's own terms.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from hwprune.errors import ConfigError, UnknownNameError

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Reads ``1e-3`` as YAML 1.2 does: as a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass
class Document:
    """A mapping read from a file, with what it takes to name a place in it.

    Attributes:
        path: the file.
        data: its content, overrides applied.
        overridden: dotted keys that an override has set.
    """

    path: Path
    data: dict[str, Any]
    _node: yaml.Node
    overridden: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: str | Path) -> Document:
        """Read a file.

        Raises:
            ConfigError: it is missing, unreadable, empty, malformed, names a key twice or holds no mapping.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read {path} ({error.strerror}): check the path") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"cannot read {path} (not UTF-8 text): name a YAML file") from error
        try:
            node = yaml.compose(text, _Loader)
            data = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}{_where(error)}: not valid YAML ({_problem(error)}): mend it there") from error
        if node is None:
            raise ConfigError(f"{path} is empty: start from a copy of one in configs/")
        if not isinstance(data, dict):
            raise ConfigError(f"{path}, line 1: expected 'key: value' lines, found a {type(data).__name__}")
        _refuse_repeated_keys(path, node)
        return cls(path, data, node)

    def section(self, key: str) -> Document:
        """A mapping inside the file as a document of its own, whose mistakes are told with the file's lines.

        Raises:
            ConfigError: there is no mapping under this key.
        """
        data = self.data[key]
        if not isinstance(data, dict):
            raise ConfigError(f"{self._source([key])}: {key!r} should be a mapping of keys to values, found {data!r}")
        pairs = self._node.value
        return Document(self.path, data, next(node for name, node in pairs if name.value == str(key)))

    def override(self, key: str, value: Any) -> None:
        """Set a dotted key.

        Raises:
            ConfigError: it leads into something that has no keys.
        """
        assign(self.data, key, value)
        self.overridden.add(key)

    def validate(self, model: type[Model]) -> Model:
        """The content as ``model``.

        Raises:
            ConfigError: a key is unknown or missing, or a value is not allowed.
        """
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            errors = [(self._place(details["loc"]), details) for details in error.errors()]
        place = errors[0][0]
        here = [details for other, details in errors if other == place]
        more = len({other for other, _ in errors}) - 1
        rest = f" (and {more} more)" if more else ""
        raise ConfigError(f"{self._source(place)}: {_explain(model, place, here)}{rest}")

    def _place(self, location: Sequence[int | str]) -> tuple[int | str, ...]:
        """``location`` without what pydantic adds behind it for the alternatives of a union."""
        place: list[int | str] = []
        value: Any = self.data
        for part in location:
            if not isinstance(value, dict | list):
                break
            place.append(part)
            value = value.get(part) if isinstance(value, dict) else value[int(part)]
        return tuple(place)

    def _source(self, place: Sequence[int | str]) -> str:
        """Where ``place`` was written: file and line, or the override."""
        key = ".".join(map(str, place))
        for override in sorted(self.overridden):
            if f"{key}.".startswith(f"{override}.") or override.startswith(f"{key}."):
                return f"--set {override}"
        node, line = self._node, None
        for part in place:
            pairs = node.value if isinstance(node, yaml.MappingNode) else list(enumerate(node.value))
            found = [(key, value) for key, value in pairs if part in (key, getattr(key, "value", None))]
            if not found:
                break
            name, node = found[0]
            line = (name if isinstance(name, yaml.Node) else node).start_mark.line + 1
        return f"{self.path}, line {line}" if line else str(self.path)


def split_override(text: str) -> tuple[str, Any]:
    """Dotted key and value of ``a.b=value``; the value is read as YAML.

    Raises:
        ConfigError: there is no ``=``, no key, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or "" in key.split("."):
        raise ConfigError(f"--set {text}: write key=value, like --set budget.evaluations=50")
    try:
        return key, yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {value!r} is not a YAML value ({_problem(error)}): quote it") from error


def assign(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of nested mappings; what lies between is made, and a bare name becomes ``{name: ...}``.

    Raises:
        ConfigError: the key leads into something that has no keys.
    """
    *folders, last = key.split(".")
    for depth, folder in enumerate(folders, 1):
        inner = data.get(folder)
        if inner is None or isinstance(inner, str):
            inner = {} if inner is None else {"name": inner}
            data[folder] = inner
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {key}: {'.'.join(folders[:depth])} is {inner!r} and has no keys: set it whole")
        data = inner
    data[last] = value


def dump(data: dict[str, Any]) -> str:
    """YAML of ``data``, keys in their given order."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def keys(model: type[BaseModel]) -> list[str]:
    """Every key of ``model``, those of its sections dotted."""
    found = []
    for name, info in model.model_fields.items():
        found.append(name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found += [f"{name}.{key}" for key in keys(info.annotation)]
    return found


def _explain(model: type[BaseModel], place: Sequence[int | str], errors: Sequence[Any]) -> str:
    """What is wrong at ``place`` and what to write instead."""
    key = ".".join(map(str, place))
    first = errors[0]
    if first["type"] == "extra_forbidden":
        return str(UnknownNameError("key", key, _candidates(key, keys(model))))
    if first["type"] == "missing":
        return f"{key!r} is missing: add it (configs/ has examples)"
    if first["type"] in ("model_type", "dict_type"):
        return f"{key!r} should be a mapping of keys to values, found {first['input']!r}"
    reasons = " or ".join(
        error["msg"].removeprefix("Value error, ").removeprefix("Input should be ") for error in errors
    )
    found = "" if first["type"] == "value_error" else f", found {first['input']!r}"
    return f"{key!r} should be {reasons}{found}"


def _candidates(key: str, known: Sequence[str]) -> list[str]:
    """Known keys that an unknown one may have meant: a sibling spelled alike, the same name elsewhere, or any."""
    folder, _, name = key.rpartition(".")
    siblings = [other for other in known if folder and other.rpartition(".")[0] == folder]
    elsewhere = [other for other in known if other.rpartition(".")[2] == name]
    return siblings if difflib.get_close_matches(key, siblings) else elsewhere or siblings or list(known)


def _refuse_repeated_keys(path: Path, node: yaml.Node) -> None:
    """PyYAML lets the last of two equal keys win in silence."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise ConfigError(
                    f"{path}, line {key.start_mark.line + 1}: {key.value!r} stands twice: keep one of them"
                )
            seen.add(key.value)
            _refuse_repeated_keys(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(path, item)


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or str(error).splitlines()[0])
