import hashlib
import os
import time
from pathlib import Path

import pytest

from hwprune.errors import StoreError
from hwprune.store import ArtifactStore


def library(folder: Path, content: bytes) -> tuple[Path, str]:
    path = folder / "library.so"
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def aged(artifacts: ArtifactStore, folder: Path, count: int, size: int = 100) -> list[str]:
    """``count`` libraries, the first unused for longest."""
    names = []
    for index in range(count):
        path = artifacts.add(library(folder, bytes([index]) * size)[0])
        os.utime(path, (1_000_000 + index, 1_000_000 + index))
        names.append(path.stem)
    return names


def test_a_library_is_copied_under_its_digest(tmp_path: Path) -> None:
    source, sha256 = library(tmp_path, b"code")
    kept = ArtifactStore(tmp_path / "artifacts").add(source)
    assert kept == tmp_path / "artifacts" / f"{sha256}.so"
    assert kept.read_bytes() == b"code"
    assert ArtifactStore(tmp_path / "artifacts").find(sha256) == kept


def test_adding_twice_keeps_one(tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path / "artifacts")
    source, _ = library(tmp_path, b"code")
    assert artifacts.add(source) == artifacts.add(source)
    assert artifacts.total_bytes() == 4


def test_an_unknown_digest_is_not_found(tmp_path: Path) -> None:
    assert ArtifactStore(tmp_path).find("0" * 64) is None


def test_collecting_removes_the_longest_unused_until_the_cap(tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path / "artifacts", cap_bytes=250)
    names = aged(artifacts, tmp_path, 4)
    artifacts.find(names[0])
    collected = artifacts.gc()
    assert collected.removed == (names[1], names[2])
    assert (collected.removed_bytes, collected.left_bytes) == (200, 200)
    assert artifacts.total_bytes() == 200


def test_what_is_named_stays_even_above_the_cap(tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path / "artifacts", cap_bytes=0)
    names = aged(artifacts, tmp_path, 3)
    assert artifacts.gc(keep={names[0]}).removed == (names[1], names[2])
    assert artifacts.find(names[0])


def test_a_dry_run_tells_and_removes_nothing(tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path / "artifacts")
    names = aged(artifacts, tmp_path, 2)
    assert artifacts.gc(cap_bytes=100, dry_run=True).removed == (names[0],)
    assert artifacts.total_bytes() == 200


def test_other_files_are_left_and_abandoned_drafts_swept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    old, new = tmp_path / "old.part", tmp_path / "new.part"
    old.write_bytes(b"half")
    new.write_bytes(b"being written")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    assert ArtifactStore(tmp_path, cap_bytes=0).gc().removed == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.part", "notes.txt"]


def test_collecting_in_a_folder_that_is_not_there_yet_removes_nothing(tmp_path: Path) -> None:
    assert ArtifactStore(tmp_path / "absent").gc().removed == ()


def test_a_library_that_cannot_be_copied_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="free space or make the folder writable"):
        ArtifactStore(tmp_path / "artifacts").add(library(tmp_path, b"code")[0])
    with pytest.raises(StoreError, match=r"No such file"):
        ArtifactStore(tmp_path / "other").add(tmp_path / "absent.so")
    assert not (tmp_path / "other").exists()
