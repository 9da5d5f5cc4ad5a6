"""What cannot work ends with one line that names cause and remedy, with its exit code, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess

import pytest
import yaml
from click.testing import CliRunner
from user_code import branching

from hwprune.cli.app import root
from hwprune.training import save_weights

pytestmark = pytest.mark.timeout(900)  # on a busy machine every measurement waits for its turn

GOOD = """\
network: {name: resnet_cifar, depth: 8}
weights: digits.safetensors
data: {name: digits, size: 16, channels: 3}
budget: {evaluations: 8}
evaluation: {threads: 1, bn_images: 0}
"""

#: A search, what is changed about it, its exit code, and what its message must name: the cause and the remedy.
SEARCHES = {
    "unknown key": (["--set", "budgett.evaluations=3"], 2, ["unknown key 'budgett'", "did you mean 'budget'?"]),
    "unknown nested key": (["--set", "pruning.round=3"], 2, ["'pruning.round'", "did you mean 'pruning.round_to'?"]),
    "wrong value": (["--set", "seed=first"], 2, ["'seed'", "integer"]),
    "unknown device": (["--device", "locla"], 3, ["unknown device 'locla'", "'local'"]),
    "unknown method": (["--method", "hmap"], 2, ["unknown method 'hmap'", "'hamp'"]),
    "unknown setting": (["--set", "selction=hsr"], 2, ["'selction'", "did you mean 'selection'?"]),
    "unknown network": (["--set", "network=resnet_cifer"], 2, ["'resnet_cifer'", "did you mean 'resnet_cifar'?"]),
    "unknown option": (["--set", "network.dept=8"], 2, ["'dept'", "did you mean 'depth'?"]),
    "unknown task": (["--set", "task=clasification"], 2, ["'clasification'", "did you mean 'classification'?"]),
    "unknown criterion": (["--set", "pruning.criterion=l3_norm"], 2, ["'l3_norm'", "did you mean 'l"]),
    "unknown objective": (["--set", "objectives=[error, latncy]"], 2, ["'latncy'", "did you mean 'latency'?"]),
    "no meter": (["--set", "objectives=[error, energy]"], 2, ["energy", "remove it from 'objectives'"]),
    "no such module": (["--set", "network=user_cod:build"], 2, ["'user_cod:build'", "PYTHONPATH"]),
    "missing data": (["--set", "data={name: image_folder, path: nowhere}"], 2, ["nowhere"]),
    "missing weights": (["--set", "weights=nowhere.safetensors"], 2, ["nowhere.safetensors", "hwprune train"]),
    "no weights": (["--set", "weights=null"], 2, ["no weights", "hwprune train"]),
    "weights of another network": (["--set", "network.depth=14"], 2, ["digits.safetensors", "layer"]),
    "other channels": (["--set", "data.channels=1"], 2, ["shape"]),
    "batches of another shape": (
        ["--set", "data={name: 'user_code:squares', classes: 10, broken: true}"],
        2,
        ["train has shape (1, 3, 32, 32)", "(3, 16, 16)", "correct the data's input_shape"],
    ),
    "targets of another task": (
        ["--set", "data={name: 'user_code:squares', classes: 10}"],
        2,
        ["targets have shape", "name another task"],
    ),
    "missing problem": (["nowhere.yaml"], 2, ["nowhere.yaml"]),
    "infeasible parameters": (["--set", 'constraints={params: "<= 10"}'], 5, ["params <= 10", "raise the bound"]),
    "constraint of nothing": (["--set", 'constraints={latency: "< 1"}'], 2, ["latency", "<= NUMBER"]),
}


@pytest.fixture
def folder(hwprune, tmp_path, monkeypatch):
    """Working folder with a good problem, trained weights and a home with a registered device."""
    shutil.copyfile(hwprune.folder / "digits.safetensors", tmp_path / "digits.safetensors")
    shutil.copytree(hwprune.folder / "home" / "devices", tmp_path / "home" / "devices")
    (tmp_path / "good.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWPRUNE_HOME", str(tmp_path / "home"))
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(root, [str(argument) for argument in arguments])


def assert_refused(result, exit_code, said):
    """One line of error on standard error, and an object of it on standard output."""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == exit_code, result.stderr
    assert len(errors) == 1
    assert errors == result.stderr.splitlines()[-1:]
    assert "Traceback" not in result.output
    assert "unexpected error" not in errors[0]
    assert not [part for part in said if part not in errors[0]], errors[0]
    told = json.loads(result.stdout)["error"]
    assert told["exit_code"] == exit_code
    assert f"error: {told['message']}" == errors[0]


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("changes", "exit_code", "said"), SEARCHES.values(), ids=SEARCHES)
def test_a_search_is_refused(folder, changes, exit_code, said):
    problem = [] if changes[0].endswith(".yaml") else ["good.yaml"]
    before = files_of(folder)
    for command in (["search"], ["search", "--dry-run"]):
        assert_refused(invoke(*command, *problem, *changes, "--json"), exit_code, said)
    assert not (folder / "runs").exists()
    assert not [path for path in files_of(folder) if path not in before and "models" in path.parts]
    assert not list(folder.rglob("*.part"))


def test_a_network_that_cannot_be_traced_is_refused(folder):
    save_weights(branching(), folder / "branching.safetensors")
    changes = ["--set", "network=user_code:branching", "--set", "weights=branching.safetensors"]
    for command in (["search"], ["search", "--dry-run"], ["device", "profile", "local"]):
        assert_refused(invoke(*command, "good.yaml", *changes, "--json"), 2, ["cannot be traced"])
    assert not (folder / "runs").exists()


def test_an_unknown_key_of_a_file_is_named_with_its_line(folder):
    (folder / "bad.yaml").write_text(GOOD.replace("budget", "bugdet"))
    for command in ("search", "train", "config"):
        arguments = ["check"] if command == "config" else []
        assert_refused(invoke(command, *arguments, "bad.yaml", "--json"), 2, ["bad.yaml", "'bugdet'", "'budget'"])
    assert not (folder / "bad.safetensors").exists()


@pytest.fixture
def profiled(hwprune, profile, monkeypatch):
    """The folder that all tests share, with a profiled device."""
    monkeypatch.chdir(hwprune.folder)
    monkeypatch.setenv("HWPRUNE_HOME", str(hwprune.folder / "home"))
    return hwprune.folder


def test_a_latency_that_no_network_reaches_is_refused(profiled):
    for command in (["search"], ["search", "--dry-run"]):
        bound = 'constraints={latency_ms: "<= 0.000001"}'
        result = invoke(*command, "digits.yaml", "--set", bound, "--runs", "runs-none", "--json")
        assert_refused(result, 5, ["constraint latency_ms <= 1e-06 cannot be met"])
        assert json.loads(result.stdout)["error"]["kind"] == "infeasible"
    assert not (profiled / "runs-none").exists()


def test_a_latency_bound_is_no_error_in_a_dry_run_before_the_device_is_profiled(folder):
    result = invoke("search", "good.yaml", "--dry-run", "--set", 'constraints={latency_ms: "<= 0.1"}', "--json")
    assert result.exit_code == 0, result.stderr
    assert not json.loads(result.stdout)["profiled"]


def test_training_refuses_what_it_cannot_use_and_writes_no_weights(folder):
    for changes, said in (
        (["--set", "data={name: image_folder, path: nowhere}"], ["nowhere"]),
        (["--set", "data.channels=1", "--set", "network=user_code:branching"], ["shape"]),
        (["--set", "data={name: 'user_code:squares', broken: true}"], ["(3, 16, 16)"]),
    ):
        assert_refused(invoke("train", "good.yaml", "--out", "new.safetensors", *changes, "--json"), 2, said)
    assert not list(folder.glob("new*"))


def test_a_store_that_is_none_is_refused(folder):
    (folder / "home" / "store.db").write_bytes(b"this is no database" * 100)
    for command in (["search", "good.yaml"], ["device", "profile", "local", "good.yaml"], ["store", "info"]):
        assert_refused(invoke(*command, "--json"), 1, ["store.db", "move it away"])
    assert not (folder / "runs").exists()
    assert (folder / "home" / "store.db").read_bytes().startswith(b"this is no database")


def test_a_device_that_is_no_longer_what_was_registered_is_refused(folder):
    entry = folder / "home" / "devices" / "local.yaml"
    fields = yaml.safe_load(entry.read_text())
    entry.write_text(yaml.safe_dump({**fields, "description": {**fields["description"], "kernel": "2.6.32"}}))
    for command in (["search", "good.yaml"], ["device", "profile", "local", "good.yaml"]):
        assert_refused(invoke(*command, "--json"), 3, ["(kernel)", "'hwprune device remove local'"])
    assert not (folder / "runs").exists()


def test_a_missing_compiler_is_told_before_anything_is_done(folder, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
    monkeypatch.delenv("CC", raising=False)
    for command in (["search", "good.yaml"], ["device", "profile", "local", "good.yaml"]):
        assert_refused(invoke(*command, "--json"), 1, ["no C compiler found", "apt install gcc"])
    assert not (folder / "runs").exists()
    checked = invoke("device", "check", "local", "--json")
    assert checked.exit_code == 3
    assert [row["what"] for row in json.loads(checked.stdout) if not row["ok"]].count("C compiler") == 1


def test_a_name_that_is_no_network_is_refused_with_the_nearest(folder):
    assert_refused(invoke("scan", "mobilnet_v2", "--json"), 2, ["did you mean 'mobilenet_v2'"])


@pytest.mark.parametrize("command", ["report", "finetune", "export", "resume"])
def test_a_folder_that_is_no_run_is_refused(folder, command):
    (folder / "empty").mkdir()
    for name in ("empty", "nowhere"):
        arguments = {"export": ["export", name, "--point", "p00"], "resume": ["search", "--resume", name]}
        assert_refused(invoke(*arguments.get(command, [command, name]), "--json"), 1, [name, "is not a run"])
    assert not list((folder / "empty").iterdir())


def test_an_unknown_point_is_refused(profiled, run):
    for command in ("export", "finetune"):
        result = invoke(command, run, "--point", "p99", "--json")
        assert_refused(result, 2, ["unknown point 'p99'"])
        assert json.loads(result.stdout)["error"]["kind"] == "unknown_name"
    assert not (profiled / run / "export").exists()


@pytest.fixture
def tiny_disk(tmp_path):
    """A folder on a disk of 256 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, text=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a full disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_told_and_leaves_no_half_written_run(hwprune, profile, tiny_disk):
    with contextlib.suppress(OSError), (tiny_disk / "filling").open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    ended = hwprune("search", "digits.yaml", "--runs", tiny_disk / "runs", "--json")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: no space left on the disk")
    assert [path.name for path in tiny_disk.iterdir()] in (["filling"], ["filling", "runs"], ["runs", "filling"])
    assert not (tiny_disk / "runs").exists() or not list((tiny_disk / "runs").iterdir())


def test_a_home_on_a_full_disk_is_told(hwprune, tiny_disk):
    shutil.copytree(hwprune.folder / "home" / "devices", tiny_disk / "devices")
    with contextlib.suppress(OSError), (tiny_disk / "filling").open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    ended = hwprune("--home", tiny_disk, "search", "digits.yaml", "--runs", "runs-full", "--json")
    assert ended.returncode == 1, ended.stderr
    assert "free" in ended.stderr.splitlines()[-1]
    assert "space" in ended.stderr.splitlines()[-1] or "disk" in ended.stderr.splitlines()[-1]
    assert not (hwprune.folder / "runs-full").exists()
    assert os.listdir(tiny_disk)
