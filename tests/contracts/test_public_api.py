"""What a package says it exports is there, and looking at it costs nothing."""

import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

import device_agents
import hwprune
import latency_models

HEAVY = ("torch", "torchvision", "tvm", "sklearn", "sqlalchemy", "matplotlib")


def packages() -> Iterator[str]:
    """Names of every package of the distribution."""
    for root in (hwprune, device_agents, latency_models):
        yield root.__name__
        for module in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
            if module.ispkg and "migrations" not in module.name:
                yield module.name


@pytest.mark.parametrize("name", packages())
def test_every_exported_name_exists_and_is_documented(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__doc__
    exported = getattr(package, "__all__", [])
    assert len(set(exported)) == len(exported)
    for each in exported:
        assert hasattr(package, each), each


def test_importing_the_library_imports_nothing_heavy() -> None:
    code = (
        "import json, sys, hwprune, device_agents, latency_models, hwprune.errors, hwprune.cli\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert hwprune.__version__ == version("hwprune")


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("latency_models", ("hwprune", "device_agents", "torch", "tvm")),
        ("device_agents", ("hwprune", "latency_models", "torch", "sklearn", "tvm", "numpy")),
    ],
)
def test_package_stands_alone(package: str, forbidden: tuple[str, ...]) -> None:
    modules = [name for name in packages() if name.split(".")[0] == package]
    code = (
        f"import importlib, json, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print(json.dumps([name for name in {forbidden!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
