import ast
import hashlib
import importlib.util
import resource
import subprocess
import sys
import zipfile

import pytest

from device_agents import bundle

SOURCES = bundle.sources()


def test_the_same_sources_give_the_same_bytes(tmp_path):
    assert bundle.contents() == bundle.contents()
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    assert bundle.build(first).read_bytes() == bundle.build(second).read_bytes()
    assert bundle.build(first).name == bundle.build(second).name


def test_the_name_is_the_digest_of_the_sources():
    expected = hashlib.sha256()
    for name in sorted(SOURCES):
        expected.update(name.encode() + b"\0" + str(len(SOURCES[name])).encode() + b"\0" + SOURCES[name])
    assert bundle.name() == f"agent-{expected.hexdigest()[:12]}.pyz"


def test_entries_are_stored_with_a_fixed_date(tmp_path):
    with zipfile.ZipFile(bundle.build(tmp_path)) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == sorted(SOURCES)
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


def test_only_the_agent_and_the_protocol_are_shipped():
    allowed = {"__main__.py", "device_agents/__init__.py", "device_agents/protocol.py"}
    assert {name for name in SOURCES if not name.startswith("device_agents/agent/")} == allowed
    assert "device_agents/agent/platforms/cpu.py" in SOURCES


@pytest.mark.parametrize("name", SOURCES)
def test_a_shipped_file_is_python_3_8_and_imports_only_the_standard_library(name):
    tree = ast.parse(SOURCES[name], feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
            if node.module == "device_agents":
                imported |= {f"device_agents.{alias.name}" for alias in node.names}
    for module in imported:
        own = f"{module.replace('.', '/')}.py" in SOURCES or f"{module.replace('.', '/')}/__init__.py" in SOURCES
        assert own or module.split(".")[0] in sys.stdlib_module_names, module


def test_the_bundle_runs_without_anything_installed_and_ends_with_its_input(tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(bundle.build(tmp_path))],
        input=b"this is no request\n",
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert done.stderr == b""


def start(bundled, **options):
    """Start the agent and end it at once; what is beside the shipped file then, the lock apart."""
    command = [sys.executable, "-I", "-S", str(bundled)]
    done = subprocess.run(command, input=b"no request\n", capture_output=True, timeout=20, check=True, **options)
    assert done.stderr == b""
    return {path.name: path.read_bytes() for path in bundled.parent.glob("agent-*") if path != bundled}


def test_the_modules_are_compiled_once_and_taken_from_there(tmp_path):
    bundled = bundle.build(tmp_path)
    ((name, contents),) = start(bundled).items()
    assert start(bundled) == {name: contents}
    assert name.startswith(f"{bundled.stem}.{importlib.util.MAGIC_NUMBER.hex()}.")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from device_agents.agent import child; print(child.__file__)"
    command = [sys.executable, "-I", "-S", "-c", code, str(tmp_path / name)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.endswith("child.pyc\n")


def test_bytecode_that_was_torn_is_made_anew(tmp_path):
    bundled = bundle.build(tmp_path)
    ((name, contents),) = start(bundled).items()
    (tmp_path / name).write_bytes(contents[:-1000] + bytes(1000))
    ((again, whole),) = start(bundled).items()
    assert len(whole) == len(contents)
    assert again.split(".")[-2] == hashlib.sha256(whole).hexdigest()[:12]


def test_an_agent_whose_bytecode_cannot_be_written_starts_without(tmp_path):
    def write_nothing():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    assert start(bundle.build(tmp_path), preexec_fn=write_nothing) == {}


def test_building_again_leaves_a_file_that_is_there_alone(tmp_path):
    built = bundle.build(tmp_path)
    written = built.stat().st_mtime_ns
    assert bundle.build(tmp_path).stat().st_mtime_ns == written
    assert list(tmp_path.iterdir()) == [built]
