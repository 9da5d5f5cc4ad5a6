import pytest

from hwprune.compilation.gpus import gpu_target_of


@pytest.mark.parametrize(
    ("gpus", "arch"),
    [
        ([{"gpu_model": "Imaginary 9000", "compute_capability": "8.9"}], "sm_89"),
        ([{"gpu_model": "Imaginary 9001", "compute_capability": "12.0"}], "sm_120"),
        ([{"gpu_model": "tegra234"}], "sm_87"),
        ([{"gpu_model": "Old 1"}, {"gpu_model": "Less old 1", "compute_capability": "7.5"}], "sm_75"),
    ],
)
def test_a_gpu_is_compiled_for_by_its_architecture(gpus, arch):
    assert gpu_target_of({"gpus": gpus}) == {"kind": "cuda", "arch": arch}


@pytest.mark.parametrize("description", [{}, {"gpus": None}, {"gpus": [{"gpu_model": "Old 1", "driver": "440"}]}])
def test_without_a_gpu_of_a_known_architecture_there_is_no_target(description):
    assert gpu_target_of(description) is None
