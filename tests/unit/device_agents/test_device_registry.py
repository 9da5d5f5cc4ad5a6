import pydantic
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from device_agents.errors import DeviceError, DeviceFileError, UnknownDeviceError
from device_agents.registry import Device, Registry, SshWay

TARGET = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "skylake-avx512", "mattr": ["+avx512f"]}
FACTS = {
    "cpu_model": "Imaginary CPU",
    "cpu_features": ["avx2", "fma"],
    "cores": [0, 1],
    "kernel": "6.1",
    "governor": "performance",
    "clock_limits_mhz": [[800.0, 3000.0]],
    "python": "CPython 3.11.7",
}
LOCAL = Device(name="local", transport="local", platform="cpu", target=TARGET, cores=(1,), description=FACTS)

WAY = {"address": "pi@board:2222", "host_keys": {"[board]:2222": "ssh-ed25519 AAAA"}}


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "devices")


def test_a_device_comes_back_equal(registry):
    registry.add(LOCAL)
    assert registry.get("local") == LOCAL
    assert registry.names() == ["local"]


@given(cores=st.lists(st.integers(0, 300), max_size=4), threads=st.integers(1, 64), step=st.none() | st.integers(1, 64))
def test_every_field_comes_back_equal(tmp_path_factory, cores, threads, step):
    threads = min(threads, len(set(cores))) if cores else threads
    registry = Registry(tmp_path_factory.mktemp("devices"))
    device = LOCAL.model_copy(update={"cores": tuple(cores), "threads": threads, "channel_step": step})
    registry.add(device)
    assert registry.get("local") == device


def test_the_way_to_a_board_comes_back_equal(registry):
    board = LOCAL.model_copy(update={"transport": "ssh", "ssh": SshWay(**WAY, identity="~/key")})
    registry.add(board)
    assert registry.get("local") == board


def test_a_folder_that_is_not_there_holds_no_devices(registry):
    assert registry.names() == []


def test_adding_again_replaces_and_leaves_nothing_else_behind(registry, tmp_path):
    registry.add(LOCAL)
    registry.add(LOCAL.model_copy(update={"cores": (0,)}))
    assert registry.get("local").cores == (0,)
    assert [path.name for path in (tmp_path / "devices").iterdir()] == ["local.yaml"]


def test_a_removed_device_is_gone(registry):
    registry.add(LOCAL)
    registry.remove("local")
    assert registry.names() == []
    with pytest.raises(UnknownDeviceError):
        registry.remove("local")


def test_an_unknown_device_is_answered_with_the_nearest(registry):
    registry.add(LOCAL)
    with pytest.raises(UnknownDeviceError, match="did you mean 'local'"):
        registry.get("lokal")


def write(registry, tmp_path, fields):
    registry.add(LOCAL)
    text = fields if isinstance(fields, str) else yaml.safe_dump(fields)
    (tmp_path / "devices/local.yaml").write_text(text)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (
            {"transport": "local", "platform": "cpu", "target": {}, "core": [0]},
            "unknown key 'core': did you mean 'cores'?",
        ),
        ({"transport": "local", "platform": "cpu"}, "target: Field required"),
        (
            {"transport": "local", "platform": "tpu", "target": {}},
            "platform: must be one of arm, cpu, cuda, found 'tpu'",
        ),
        ({"transport": "local", "platform": "cpu", "target": {}, "cores": [-1]}, "cores.0: .* found -1"),
        ({"transport": "local", "platform": "cpu", "target": {}, "threads": "two"}, "threads: .* found 'two'"),
        ({"transport": "telnet", "platform": "cpu", "target": {}}, "transport: .* found 'telnet'"),
        (
            {"transport": "ssh", "platform": "arm", "target": {}},
            "transport 'ssh' and the key 'ssh' belong together",
        ),
        (
            {"transport": "local", "platform": "arm", "target": {}, "ssh": WAY},
            "transport 'ssh' and the key 'ssh' belong together",
        ),
        (
            {"transport": "ssh", "platform": "arm", "target": {}, "ssh": {**WAY, "password": "x"}},
            "unknown key 'ssh.password'",
        ),
        (
            {"transport": "ssh", "platform": "arm", "target": {}, "ssh": {**WAY, "host_keys": {"board": "key"}}},
            "ssh.host_keys: board: a host key is its type and its base64",
        ),
        (
            {"transport": "ssh", "platform": "arm", "target": {}, "ssh": {**WAY, "address": "-oProxyCommand=x"}},
            r"ssh.address: must be \[user@\]host\[:port\]",
        ),
        (
            {"transport": "ssh", "platform": "arm", "target": {}, "ssh": {**WAY, "folder": "../.."}},
            "ssh.folder: must name a folder of the agent's own",
        ),
        ("- a\n- list\n", "must hold a mapping with the keys transport, platform"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_one_line(registry, tmp_path, fields, complaint):
    write(registry, tmp_path, fields)
    with pytest.raises(DeviceFileError, match=complaint) as refusal:
        registry.get("local")
    assert "local.yaml" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "devices").write_text("a file in the way")
    with pytest.raises(DeviceFileError, match="cannot be written"):
        Registry(tmp_path / "devices").add(LOCAL)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_file_name_is_refused(name):
    with pytest.raises(pydantic.ValidationError, match="must begin with a letter or digit"):
        Device(name=name, transport="local", platform="cpu", target=TARGET)


def test_threads_need_a_core_each(tmp_path):
    registry = Registry(tmp_path)
    registry.add(LOCAL.model_copy(update={"threads": 2}))
    with pytest.raises(DeviceFileError, match="2 threads need as many cores"):
        registry.get("local")
    for cores in ((0, 1), ()):
        registry.add(LOCAL.model_copy(update={"threads": 2, "cores": cores}))
        assert registry.get("local").threads == 2


def test_a_device_cannot_be_changed():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        LOCAL.threads = 3


@pytest.mark.parametrize("fact", ["cpu_model", "cpu_features", "cores", "kernel", "governor", "clock_limits_mhz"])
def test_the_fingerprint_changes_with_what_the_device_is(fact):
    changed = LOCAL.model_copy(update={"description": {**FACTS, fact: None}})
    assert changed.fingerprint != LOCAL.fingerprint


def test_the_fingerprint_changes_with_the_pinned_cores_only_beside_that():
    assert LOCAL.model_copy(update={"cores": (0,)}).fingerprint != LOCAL.fingerprint
    assert LOCAL.model_copy(update={"name": "other"}).fingerprint == LOCAL.fingerprint
    assert LOCAL.model_copy(update={"description": {**FACTS, "python": "3.8"}}).fingerprint == LOCAL.fingerprint


def test_the_fingerprint_survives_the_file(registry):
    registry.add(LOCAL)
    assert registry.get("local").fingerprint == LOCAL.fingerprint


def test_a_device_that_was_never_described_has_no_fingerprint():
    with pytest.raises(DeviceError, match="hwprune device check local"):
        _ = LOCAL.model_copy(update={"description": {}}).fingerprint
