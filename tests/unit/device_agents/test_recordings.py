"""Files of recorded devices: written whole, read by what they hold, refused by what is wrong with them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from device_agents import replay
from device_agents.errors import RecordingError
from device_agents.reach import transport_to
from device_agents.registry import Device, SshWay
from device_agents.replay import Recording

LINES = [{"kind": "kernel", "shape": {"op": "conv2d"}}, {"kind": "network"}, {"kind": "kernel", "shape": {"op": "add"}}]


@pytest.fixture
def board() -> Device:
    way = SshWay(address="pi@10.0.0.7", host_keys={"10.0.0.7": "ssh-ed25519 AAAA"}, identity="/home/me/.ssh/lab")
    description = {"cpu_model": "Cortex-A72", "cores": [0, 1, 2, 3]}
    target = {"kind": "llvm", "mcpu": "cortex-a72", "mtriple": "aarch64-linux-gnu"}
    return Device(
        name="pi4", transport="ssh", platform="arm", target=target, cores=(3,), ssh=way, description=description
    )


@pytest.mark.parametrize("name", ["pi4.jsonl", "pi4.jsonl.gz"])
def test_what_was_written_is_read_again(tmp_path: Path, board: Device, name: str) -> None:
    path = tmp_path / name
    replay.write(path, board, {"recorded_at": "2026-01-01"}, LINES)
    found = Recording.read(path)
    assert found.of_kind("kernel") == [LINES[0], LINES[2]]
    assert found.header["recorded_at"] == "2026-01-01"
    assert path.read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")


def test_the_recorded_device_is_the_same_but_for_its_name_and_the_way_to_it(tmp_path: Path, board: Device) -> None:
    path = tmp_path / "pi4.jsonl"
    replay.write(path, board, {}, LINES)
    found = Recording.read(path).device(path)
    assert (found.name, found.transport, found.ssh) == ("replay-pi4", "replay", None)
    assert found.address == f"replay:{path}"
    assert found.fingerprint == board.fingerprint
    assert (found.target, found.cores, found.threads) == (board.target, board.cores, board.threads)


def test_nothing_of_the_way_to_the_device_is_in_the_file(tmp_path: Path, board: Device) -> None:
    replay.write(tmp_path / "pi4.jsonl", board, {}, LINES)
    text = (tmp_path / "pi4.jsonl").read_text()
    assert not any(secret in text for secret in ("10.0.0.7", "AAAA", "/home/me"))


def test_a_recorded_device_has_no_agent(tmp_path: Path, board: Device) -> None:
    path = tmp_path / "pi4.jsonl"
    replay.write(path, board, {}, LINES)
    with pytest.raises(RecordingError, match="replay-pi4 is a recording"):
        transport_to(Recording.read(path).device(path), tmp_path)


def test_equal_recordings_are_equal_files(tmp_path: Path, board: Device) -> None:
    paths = [tmp_path / name for name in ("one.jsonl.gz", "two.jsonl.gz")]
    for path in paths:
        replay.write(path, board, {}, LINES)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_kinds_of_lines_that_a_reader_does_not_know_are_passed_over(tmp_path: Path, board: Device) -> None:
    replay.write(tmp_path / "pi4.jsonl", board, {}, [*LINES, {"kind": "hologram"}])
    assert len(Recording.read(tmp_path / "pi4.jsonl").of_kind("network")) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no recording, or a damaged one"),
        (b"not json\n", "no recording, or a damaged one"),
        (b"[1]\n", "no recording, or a damaged one"),
        (b'{"format": "something else"}\n', "is no recording: make one"),
        (b'{"format": "hwprune recording", "version": 2}\n', "has version 2 of the format, this program reads 1"),
        (b'{"format": "hwprune recording", "version": 1}\n{"kind"\n', "no recording, or a damaged one"),
        (gzip.compress(b"x" * 1000, mtime=0)[:20], "no recording, or a damaged one"),
        (b"\x1f\x8bno gzip at all", "cannot be read|no recording"),
        (b"\xff\xfe\n", "no recording, or a damaged one"),
    ],
)
def test_what_is_no_recording_is_refused_with_the_reason(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=said):
        Recording.read(path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be read"):
        Recording.read(tmp_path / "nowhere")


def test_a_recording_of_no_device_is_said(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(json.dumps({"format": replay.FORMAT, "version": replay.VERSION, "device": {"name": "x y"}}) + "\n")
    with pytest.raises(RecordingError, match="describes no device"):
        Recording.read(path).device(path)


def test_a_file_that_cannot_be_written_is_said_and_nothing_is_left(tmp_path: Path, board: Device) -> None:
    with pytest.raises(RecordingError, match="cannot be written"):
        replay.write(tmp_path / "no folder" / "pi4.jsonl", board, {}, LINES)
    assert list(tmp_path.iterdir()) == []
