import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agents.agent.energy import Counter, Meter, rapl_counters
from device_agents.agent.host_state import Absent

RAPL = "sys/class/powercap/"
#: Zones as a two-socket server has them: parts, the whole computer, and the same package by another register.
ZONES = {
    "intel-rapl:0": ("package-0", 1_000_000, 262_143_328_850),
    "intel-rapl:0:0": ("core", 400_000, 262_143_328_850),
    "intel-rapl:0:1": ("dram", 50_000, 65_712_999_613),
    "intel-rapl:1": ("package-1", 2_000_000, 262_143_328_850),
    "intel-rapl:2": ("psys", 9_000_000, 262_143_328_850),
    "intel-rapl-mmio:0": ("package-0", 1_000_000, 262_143_328_850),
}


def write(root, zone, name, energy_uj, range_uj):
    folder = root / RAPL / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")


@pytest.fixture
def server(tmp_path):
    for zone, facts in ZONES.items():
        write(tmp_path, zone, *facts)
    return tmp_path


def test_packages_and_their_memories_are_counted_once(server):
    assert [counter.path for counter in rapl_counters(str(server))] == [
        RAPL + "intel-rapl:0/energy_uj",
        RAPL + "intel-rapl:1/energy_uj",
        RAPL + "intel-rapl:0:1/energy_uj",
    ]


def test_what_was_spent_is_the_sum_over_the_domains(server):
    meter = Meter(str(server))
    before = meter.read()
    write(server, "intel-rapl:0", "package-0", 1_000_700, 262_143_328_850)
    write(server, "intel-rapl:0:1", "dram", 50_030, 65_712_999_613)
    write(server, "intel-rapl:2", "psys", 99_000_000, 262_143_328_850)
    assert meter.spent_uj(before, meter.read()) == 730
    assert meter.missing == ""


def test_a_counter_that_starts_again_is_counted_on(server):
    write(server, "intel-rapl:0", "package-0", 262_143_328_800, 262_143_328_850)
    meter = Meter(str(server))
    before = meter.read()
    write(server, "intel-rapl:0", "package-0", 149, 262_143_328_850)
    assert meter.spent_uj(before, meter.read()) == 200


@given(st.integers(1, 10**12), st.data())
def test_one_turn_of_a_counter_loses_nothing(highest, data):
    start, spent = data.draw(st.integers(0, highest)), data.draw(st.integers(0, highest))
    meter = Meter("/nowhere")
    meter._counters = [Counter("", highest + 1)]
    assert meter.spent_uj([start], [(start + spent) % (highest + 1)]) == spent


def test_without_a_meter_there_is_no_number_but_a_reason(tmp_path):
    meter = Meter(str(tmp_path))
    assert meter.read() is None
    assert meter.spent_uj(None, None) is None
    assert meter.missing == "no readable /sys/class/powercap/intel-rapl:*/name"
    write(tmp_path, "intel-rapl:0", "psys", 1, 2)
    with pytest.raises(Absent, match="no package among the zones"):
        rapl_counters(str(tmp_path))


def test_a_meter_for_root_only_says_so(server):
    energy = server / RAPL / "intel-rapl:0/energy_uj"
    energy.unlink()
    energy.mkdir()  # cannot be read, as the file of the system can by root only
    assert Meter(str(server)).missing == "/sys/class/powercap/intel-rapl:0/energy_uj: Is a directory"


def test_a_meter_that_is_lost_in_mid_measurement_tells_no_number(server):
    meter = Meter(str(server))
    before = meter.read()
    (server / RAPL / "intel-rapl:1/energy_uj").unlink()
    assert meter.spent_uj(before, meter.read()) is None
    assert "intel-rapl:1/energy_uj: No such file" in meter.missing
