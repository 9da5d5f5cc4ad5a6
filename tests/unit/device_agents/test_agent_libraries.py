import array
import hashlib
import os
import shutil

import pytest

from device_agents import bundle
from device_agents.agent.children import ChildFailed
from device_agents.agent.libraries import Libraries, LibraryRefused, compare, file_digest


def pack(*values):
    return array.array("f", values).tobytes()


@pytest.fixture
def libraries(tmp_path):
    held = []

    def make(kept_bytes=1 << 30):
        held.append(Libraries(str(tmp_path), str(bundle.build(tmp_path)), kept_bytes))
        return held[-1]

    yield make
    for one in held:
        for handle in list(one.loaded):
            one.unload(handle)


def test_equal_outputs_pass():
    compare(pack(1.0, -2.0, 0.0), pack(1.0, -2.0001, 0.0001), rtol=1e-4)
    compare(b"", b"", rtol=0.0)


@pytest.mark.parametrize(
    ("output", "expected", "complaint"),
    [
        (pack(1.0, 2.1), pack(1.0, 2.0), r"2.1 where 2 was expected \(largest 2, tolerance 0.01\)"),
        (pack(float("nan")), pack(1.0), "nan where 1 was expected"),
        (pack(1.0), pack(float("nan")), "1 where nan was expected"),
        (pack(1e-9), pack(0.0), "1e-09 where 0 was expected"),
        (pack(1.0), pack(1.0, 1.0), "the output has 4 bytes, expected 8"),
    ],
)
def test_unequal_outputs_fail_with_the_first_difference(output, expected, complaint):
    with pytest.raises(ChildFailed, match=complaint):
        compare(output, expected, rtol=1e-2)


def test_the_digest_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 1_000_000)
    assert file_digest(str(tmp_path / "x")) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_a_library_that_is_not_there_is_refused(libraries):
    with pytest.raises(LibraryRefused, match=r"not on the device .* put it first"):
        libraries().load("0" * 64, [], None, 10.0)


def test_a_torn_file_is_refused_and_removed(libraries, tmp_path):
    torn = tmp_path / f"{'0' * 64}.so"
    torn.write_bytes(b"half a library")
    with pytest.raises(LibraryRefused, match="torn and is removed"):
        libraries().load("0" * 64, [], None, 10.0)
    assert not torn.exists()


def test_files_beyond_the_limit_are_dropped_but_none_that_is_loaded(libraries, build_library, tmp_path):
    loaded = build_library()
    shutil.copy(loaded, tmp_path)
    for age, name in enumerate(["old", "older"]):
        stale = tmp_path / f"{name}.so"
        stale.write_bytes(bytes(100))
        os.utime(stale, (1000 - age, 1000 - age))
    held = libraries(kept_bytes=loaded.stat().st_size + 150)
    answer = held.load(loaded.stem, [], None, 10.0)
    assert answer["dropped"] == ["older"]
    assert held.held() == sorted([loaded.stem, "old"])

    full = libraries(kept_bytes=0)
    assert full.load(loaded.stem, [], None, 10.0)["dropped"] == ["old"]
    assert (tmp_path / loaded.name).exists()
