"""The GPU's engine in the real agent, with stand-ins for NVIDIA's libraries; the real ones: `make test-gpu`."""

import array
import hashlib
import subprocess
from pathlib import Path

import pytest

from device_agents.client import AgentClient, SelfTest, TimingRequest
from device_agents.errors import LoadFailed, RunFailed
from device_agents.transport import LoopbackTransport

HERE = Path(__file__).parent
INPUT = array.array("f", range(10)).tobytes()
SELF_TEST = SelfTest(INPUT, array.array("f", [2.0 * number for number in range(10)]).tobytes())


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """Function that builds the stand-ins with macros; gives path and digest of a library for them."""

    def build(*macros):
        flags = ["-O1", "-shared", "-fPIC", *(f"-D{macro}" for macro in macros)]
        runtime, library = tmp_path / "libcudart.so", tmp_path / "library.so"
        subprocess.run(["cc", *flags, HERE / "cuda_stand_in.c", "-Wl,-soname,libcudart.so", "-o", runtime], check=True)
        # NVML's functions lie in the same file, so that they see the same device.
        (tmp_path / "libnvidia-ml.so.1").symlink_to(runtime)
        subprocess.run(
            ["cc", *flags, HERE / "cuda_library.c", "-o", library, f"-L{tmp_path}", "-lcudart"],
            check=True,
        )
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
        return library, hashlib.sha256(library.read_bytes()).hexdigest()

    return build


@pytest.fixture
def start(tmp_path):
    """Function that starts an agent, once the environment is as it should be."""
    clients = []

    def start():
        clients.append(AgentClient(LoopbackTransport(tmp_path / "agent")))
        return clients[-1]

    yield start
    for client in clients:
        client.close()


def test_a_network_for_the_gpu_is_run_in_its_memory_and_timed_by_its_events(gpu, start):
    path, digest = gpu()
    client = start()
    client.put(path, digest)
    loaded = client.load(digest, self_test=SELF_TEST)
    assert loaded.device_bytes == 80
    assert client.run(loaded.handle, INPUT) == SELF_TEST.expected_bytes
    (result,) = client.measure([TimingRequest(loaded.handle)], blocks=3, calls_min=7, block_ms_min=1.0)
    assert result.error is None
    for block in result.blocks:
        assert set(block.values_ms) == {1.0}
        assert len(block.values_ms) >= 7
        assert block.reference_before_ms == block.reference_after_ms == 1.0
    assert result.energy_mj == pytest.approx(2.0)
    with pytest.raises(RunFailed, match="the input has 4 bytes"):
        client.run(loaded.handle, INPUT[:4])


def test_a_gpu_that_tells_no_energy_is_timed_without(gpu, start):
    path, digest = gpu("NO_ENERGY")
    client = start()
    client.put(path, digest)
    (result,) = client.measure([TimingRequest(client.load(digest).handle)], blocks=2, block_ms_min=1.0)
    assert (result.energy_mj, result.energy_missing) == (None, "nvmlDeviceGetTotalEnergyConsumption: status 3")


def test_a_computer_without_a_gpu_says_so(gpu, start):
    path, digest = gpu("NO_DEVICE")
    client = start()
    client.put(path, digest)
    with pytest.raises(LoadFailed, match="cudaSetDevice: no CUDA-capable device is detected"):
        client.load(digest)


def test_a_library_for_an_unknown_device_is_refused(tmp_path, start):
    text = (HERE / "cuda_library.c").read_text().replace("cuda\\", "quantum\\").replace("extern", "").replace(
        "kernel(void);", "kernel(void) {}", 1
    )  # fmt: skip
    path = tmp_path / "library.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", path], input=text.encode(), check=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    client = start()
    client.put(path, digest)
    with pytest.raises(LoadFailed, match="it is for a device of type 'quantum': known are cpu and cuda"):
        client.load(digest)
