import inspect

from device_agents import errors
from device_agents.errors import DeviceError, UnknownDeviceError


def test_every_error_ends_the_program_with_code_3():
    leaves = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
    assert len(leaves) > 5
    assert {leaf.exit_code for leaf in leaves} == {3}
    assert all(issubclass(leaf, DeviceError) for leaf in leaves)


def test_the_tree_in_the_docstring_names_every_error():
    drawn = {
        line.split()[0]
        for line in errors.__doc__.replace("│", " ").replace("├──", " ").replace("└──", " ").splitlines()
        if line.split()
    }
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, Exception):
            assert name in drawn


def test_an_unknown_device_is_answered_with_the_nearest_known_one():
    assert str(UnknownDeviceError("locl", ["pi4", "local"])) == "unknown device 'locl': did you mean 'local'?"


def test_an_unknown_device_without_a_near_one_is_answered_with_all_known_ones():
    assert str(UnknownDeviceError("zzz", ["pi4", "local"])) == "unknown device 'zzz': known: local, pi4"
    assert str(UnknownDeviceError("zzz", [])).endswith("none, add one first")
