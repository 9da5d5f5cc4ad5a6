import pytest

from device_agents.agent import host_state
from device_agents.agent.host_state import READERS, Absent, gather, merge

BOARD = {
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "ondemand\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "600000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "600000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1500000\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "2400000\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_min_freq": "2400000\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "2400000\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "2\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "3\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48250\n",
    "sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "-1500\n",
    "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0\n",
    "sys/class/thermal/cooling_device0/cur_state": "1\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "proc/loadavg": "1.25 0.80 0.50 2/300 4242\n",
    "proc/pressure/cpu": "some avg10=12.50 avg60=3.00 total=123\nfull avg10=0.00 avg60=0.00 total=0\n",
    "proc/self/stat": "77 (python (3)) S 1 2 3 4 5 6 7 8 9 10 125 50 0 0\n",
    "proc/stat": "cpu  100 100 200 1000 500 50 50 300 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n",
}


@pytest.fixture
def board(tmp_path):
    for path, text in BOARD.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_every_reader_reads_a_board(board, monkeypatch):
    monkeypatch.setattr(host_state.os, "sysconf", lambda name: 100)
    assert gather(READERS, str(board)) == {
        "governor": "ondemand+performance",
        "clock_limits_mhz": [[600.0, 1500.0], [2400.0, 2400.0]],
        "clocks_mhz": [600.0, 2400.0],
        "temperatures_celsius": {"cpu-thermal": 48.25, "thermal_zone1": -1.5},
        "load_average": 1.25,
        "cpu_pressure_percent": 12.5,
        "cpu_times_s": {"busy": 5.0, "idle": 15.0, "stolen": 3.0},
        "agent_time_s": 1.75,
        "throttle_count": 5,
        "throttle_flags": 0x50005,
        "cooling_states": {"cooling_device0 cpufreq-cpu0": 1},
        "missing": {},
    }


def test_what_is_absent_is_none_with_a_reason_and_never_zero(tmp_path):
    state = gather(READERS, str(tmp_path))
    missing = state.pop("missing")
    assert set(state.values()) == {None}
    assert set(missing) == set(state) == set(host_state.READERS)
    assert missing["load_average"] == "/proc/loadavg: No such file or directory"
    assert missing["governor"].startswith("no readable /sys/devices/system/cpu/cpufreq")


def test_what_cannot_be_understood_is_none_with_a_reason(board):
    (board / "proc/loadavg").write_text("")
    (board / "proc/pressure/cpu").write_text("full avg10=0.00\n")
    (board / "sys/class/thermal/thermal_zone0/temp").write_text("hot")
    state = gather(READERS, str(board))
    assert [state[name] for name in ("load_average", "cpu_pressure_percent", "temperatures_celsius")] == [None] * 3
    assert "'hot'" in state["missing"]["temperatures_celsius"]
    assert state["missing"]["cpu_pressure_percent"] == "/proc/pressure/cpu has no line 'some'"
    assert state["throttle_count"] == 5


def test_many_zones_come_in_their_natural_order(tmp_path):
    for number in (10, 2, 0):
        folder = tmp_path / f"sys/class/thermal/thermal_zone{number}"
        folder.mkdir(parents=True)
        (folder / "type").write_text(f"zone-{number}")
        (folder / "temp").write_text("1000")
    assert list(host_state.temperatures_celsius(str(tmp_path))) == ["zone-0", "zone-2", "zone-10"]


def test_a_zone_that_cannot_be_read_does_not_hide_the_others(board):
    temperature = board / "sys/class/thermal/thermal_zone0/temp"
    temperature.unlink()
    temperature.mkdir()  # reading a folder fails, as reading a zone that is switched off does
    assert host_state.temperatures_celsius(str(board)) == {"cpu-thermal": -1.5}


def test_a_reader_alone_raises_the_reason(tmp_path):
    with pytest.raises(Absent, match="get_throttled"):
        host_state.throttle_flags(str(tmp_path))


def test_this_computer_has_a_load_average():
    state = gather(READERS, "/")
    assert state["load_average"] >= 0
    assert state["cpu_times_s"]["busy"] > 0


def test_of_two_sources_the_first_that_knows_a_fact_counts():
    processor = {"governor": "powersave", "power_w": None, "heat": None, "missing": {"power_w": "no chip", "heat": "?"}}
    gpu = {"governor": "another", "power_w": 3.0, "heat": None, "missing": {"heat": "no driver"}}
    assert merge([processor, gpu]) == {
        "governor": "powersave",
        "power_w": 3.0,
        "heat": None,
        "missing": {"heat": "no driver"},
    }
