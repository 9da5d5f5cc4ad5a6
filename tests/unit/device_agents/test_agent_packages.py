import sys

import pytest

from device_agents.agent import packages
from device_agents.agent.host_state import Absent


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Function that makes this Python one of a virtual environment with an entry of that name among its packages."""

    def make(entry, config="include-system-site-packages = false\n"):
        folder = tmp_path / "lib/python{}.{}/site-packages".format(*sys.version_info) / entry
        folder.mkdir(parents=True)
        (tmp_path / "pyvenv.cfg").write_text(config)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
        monkeypatch.setattr(packages.site, "getusersitepackages", lambda: str(tmp_path / "nobody"))
        return folder.parent

    return make


@pytest.mark.parametrize(
    ("entry", "version"),
    [
        ("onnxruntime-1.20.1.dist-info", "1.20.1"),
        ("onnxruntime_gpu-1.19.0.dist-info", "1.19.0"),
        ("onnxruntime-1.21.0-py3.11.egg-info", "1.21.0"),
        ("onnxruntime-qnn-1.18.0+cu12.dist-info", "1.18.0+cu12"),
    ],
)
def test_onnxruntime_is_found_under_whichever_name_it_was_packed(environment, entry, version):
    environment(entry)
    assert packages.onnxruntime("/") == version


@pytest.mark.parametrize("entry", ["onnxruntime", "onnxruntime_extensions-0.13.0.dist-info", "onnx-1.18.0.dist-info"])
def test_what_only_looks_like_it_is_passed_over(environment, entry):
    environment(entry)
    with pytest.raises(Absent, match=r"not installed for .*bin/python"):
        packages.onnxruntime("/")


def test_a_virtual_environment_sees_the_systems_packages_only_where_it_says_so(environment):
    own = environment("onnx-1.18.0.dist-info")
    assert str(own) == packages.folders()[0]
    assert not set(packages.site.getsitepackages()) & set(packages.folders())
    (own.parents[2] / "pyvenv.cfg").write_text("home = /usr/bin\nInclude-System-Site-Packages = TRUE\n")
    assert set(packages.site.getsitepackages()) < set(packages.folders())


def test_without_a_virtual_environment_the_systems_packages_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    assert set(packages.site.getsitepackages()) < set(packages.folders())
