import array

import pytest

from device_agents.agent.engine_library import ALIGNMENT_BYTES, Buffer, Library, LibraryError


def floats(view):
    return array.array("f", bytes(view)).tolist()


def test_a_network_computes_from_its_input_to_its_output(build_library):
    library = Library(str(build_library()))
    library.input.view[:] = array.array("f", range(10)).tobytes()
    assert library.network()() == 0
    assert floats(library.output.view) == [2.0 * i for i in range(10)]


def test_an_input_that_was_not_given_is_neither_zero_nor_denormal(build_library):
    values = floats(Library(str(build_library())).input.view)
    assert len(values) == 10
    assert all(0.1 <= abs(value) <= 1.0 for value in values)


@pytest.mark.parametrize("size", [0, 4, 40, 4096, 100_004])
def test_buffers_are_aligned_and_of_the_size_asked_for(size):
    buffer = Buffer(size)
    buffer.fill()
    assert len(buffer.view) == size
    assert buffer.pointer.value % ALIGNMENT_BYTES == 0
    assert size == 0 or 0.0 not in floats(buffer.view)


def test_a_kernel_runs_with_its_numbers(build_library):
    library = Library(str(build_library("KERNELS")))
    assert library.kernel(0, [3])() == 0
    assert library.kernel(1, [3, 4])() == 0
    assert library.kernel(3, [])() == 7


@pytest.mark.parametrize(
    ("index", "numbers", "complaint"),
    [(6, [], "there is no kernel 6: the library has 6"), (-1, [], "no kernel -1"), (1, [3], "takes 2 numbers, got 1")],
)
def test_a_kernel_that_cannot_be_called_is_refused(build_library, index, numbers, complaint):
    library = Library(str(build_library("KERNELS")))
    with pytest.raises(LibraryError, match=complaint):
        library.kernel(index, numbers)


def test_a_resident_network_runs_with_numbers_and_without(build_library):
    library = Library(str(build_library("RESIDENT")))
    library.input.view[:] = array.array("f", range(10)).tobytes()
    for call, factor, offset in (
        (library.network([3, 4]), 3, 4),
        (library.network([5, 1]), 5, 1),
        (library.network(), 2, 0),
    ):
        assert call() == 0
        assert floats(library.output.view) == [float(factor * i + offset) for i in range(10)]
    assert library.network([-1, 0])() == 1


def test_numbers_that_a_network_does_not_take_are_refused(build_library):
    with pytest.raises(LibraryError, match="takes 2 numbers, got 3"):
        Library(str(build_library("RESIDENT"))).network([1, 2, 3])
    with pytest.raises(LibraryError, match="takes 0 numbers, got 1"):
        Library(str(build_library())).network([1])


def test_the_reference_and_the_empty_call_report_nothing(build_library):
    library = Library(str(build_library()))
    assert library.reference() is None
    assert library.nothing()() is None


def test_a_file_that_is_no_library_is_refused(tmp_path):
    (tmp_path / "x.so").write_text("not a library")
    with pytest.raises(LibraryError, match="cannot be opened"):
        Library(str(tmp_path / "x.so"))


def test_a_library_of_another_abi_is_refused(build_library):
    with pytest.raises(LibraryError, match=r"expected ABI 1 .* found ABI 2"):
        Library(str(build_library("ABI=2")))


def test_a_library_without_a_reference_kernel_is_refused(build_library):
    with pytest.raises(LibraryError, match="does not export reference_run"):
        Library(str(build_library("NO_REFERENCE")))


def test_a_description_that_is_no_json_is_refused(build_library):
    with pytest.raises(LibraryError, match="description cannot be read"):
        Library(str(build_library("ABI=one")))
