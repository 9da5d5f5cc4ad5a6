import array
import shutil

import pytest

from device_agents import bundle
from device_agents.agent.children import ChildFailed
from device_agents.agent.folder import Folder, LibraryRefused
from device_agents.agent.libraries import Libraries, compare


def pack(*values):
    return array.array("f", values).tobytes()


@pytest.fixture
def libraries(tmp_path):
    held = []

    def make():
        shipped = str(bundle.build(tmp_path))
        held.append(Libraries(Folder(str(tmp_path), shipped), shipped))
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


def test_a_library_that_is_not_there_is_refused(libraries):
    with pytest.raises(LibraryRefused, match=r"not on the device .* put it first"):
        libraries().load("0" * 64, [], None, 10.0)


def test_a_loaded_library_is_used_until_it_is_unloaded(libraries, build_library, tmp_path):
    loaded = build_library()
    shutil.copy(loaded, tmp_path)
    held = libraries()
    handles = [held.load(loaded.stem, [], None, 10.0)["handle"] for _ in range(2)]
    held.unload(handles[0])
    assert held.used == {loaded.stem}
    held.unload(handles[1])
    assert held.used == set()
