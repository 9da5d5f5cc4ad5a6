"""A network of CUDA text in the real agent on a real GPU (`make test-gpu`); skipped elsewhere."""

from __future__ import annotations

import array
import hashlib
import shutil
import subprocess

import pytest

from device_agents.agent.platforms import cuda
from device_agents.client import AgentClient, SelfTest, TimingRequest
from device_agents.transport import LoopbackTransport

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not cuda.present("/"), reason="no GPU of NVIDIA's on this machine"),
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine"),
]

COUNT = 1 << 20
SOURCE = """
__global__ void twice(const float *input, float *output, int rounds) {
    int place = blockIdx.x * blockDim.x + threadIdx.x;
    float value = input[place];
    for (int round = 0; round < rounds; round++) value = value * 1.000001f;
    output[place] = rounds ? value : 2 * input[place];
}
__device__ float scratch[1 << 20];
extern "C" const char *library_description() {
    return "{\\"abi\\":1,\\"kind\\":\\"network\\",\\"device\\":\\"cuda\\","
           "\\"input_bytes\\":4194304,\\"output_bytes\\":4194304}";
}
extern "C" int network_run(const float *input, float *output) {
    twice<<<4096, 256>>>(input, output, 0);
    return cudaGetLastError();
}
extern "C" void reference_run() {
    float *place;
    cudaGetSymbolAddress((void **)&place, scratch);
    twice<<<4096, 256>>>(place, place, 100);
}
"""


def test_a_network_is_run_and_timed_on_the_gpu(tmp_path):
    source, path = tmp_path / "network.cu", tmp_path / "network.so"
    source.write_text(SOURCE)
    subprocess.run(["nvcc", "-O2", "-shared", "-Xcompiler", "-fPIC", source, "-o", path], check=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    values = array.array("f", (number % 1000 for number in range(COUNT)))
    doubled = array.array("f", (2 * value for value in values))
    with AgentClient(LoopbackTransport(tmp_path / "agent")) as client:
        assert "cuda" in client.describe()["platforms"]
        client.put(path, digest)
        loaded = client.load(digest, self_test=SelfTest(values.tobytes(), doubled.tobytes()))
        assert loaded.device_bytes is not None
        (result,) = client.measure([TimingRequest(loaded.handle)], blocks=3)
        state = client.state()
    assert result.error is None
    # 8 MB to read and write: no GPU does that in less than a microsecond or needs a second.
    assert all(0.001 < value < 1000 for block in result.blocks for value in block.values_ms)
    assert (result.energy_mj is None) == bool(result.energy_missing)
    assert state["gpu_state"] or state["missing"]["gpu_state"]
