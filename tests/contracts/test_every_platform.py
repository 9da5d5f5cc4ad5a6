"""What holds for every device type: each file in device_agents/agent/platforms is tested here."""

import importlib
import json
import pkgutil

import pytest
import yaml

from device_agents import bundle
from device_agents.agent import host_facts, platforms
from device_agents.registry import Device

NAMES = sorted(module.name for module in pkgutil.iter_modules(platforms.__path__))


@pytest.fixture(params=NAMES)
def platform(request):
    return importlib.import_module(f"{platforms.__name__}.{request.param}")


def name_of(platform):
    return platform.__name__.rsplit(".", 1)[-1]


def test_the_types_of_the_design_are_there():
    assert {"arm", "cpu", "cuda"} <= set(NAMES)


def test_it_is_shipped(platform):
    assert f"device_agents/agent/platforms/{name_of(platform)}.py" in bundle.sources()


def test_its_docstring_shows_the_yaml_of_a_device(platform):
    example = yaml.safe_load(platform.__doc__.split("::", 1)[1])
    device = Device(name="example", transport="local", **example)
    assert device.platform == name_of(platform)


def test_this_computer_can_be_asked(platform):
    assert platform.present("/") in (True, False)
    assert platform.describe("/")["arch"]


def test_exactly_one_type_describes_the_processor_here():
    present = [name for name in ("cpu", "arm") if importlib.import_module(f"{platforms.__name__}.{name}").present("/")]
    assert len(present) == 1


def test_on_a_computer_that_tells_nothing_every_fact_is_none_with_a_reason(platform, tmp_path):
    facts = platform.describe(str(tmp_path))
    missing = facts.pop("missing")
    assert json.loads(json.dumps(facts)) == facts
    assert set(host_facts.READERS) <= set(facts)
    assert {name for name, value in facts.items() if value is None} == set(missing)
    assert all(missing.values())
    assert {"cpu_model", "cores", "governor", "memory_bytes"} <= set(missing)


def test_on_a_computer_that_tells_nothing_its_state_is_none_with_reasons(platform, tmp_path):
    state = platform.state(str(tmp_path))
    missing = state.pop("missing")
    assert state
    assert set(state.values()) == {None}
    assert set(missing) == set(state)
    assert all(missing.values())
