import pytest

from hwprune.errors import ConfigError
from hwprune.scenario import BURST, Scenario


@pytest.mark.parametrize(
    ("text", "scenario"),
    [
        ("burst", Scenario()),
        ("burst+cold", Scenario(cold=True)),
        ("sustained:10m", Scenario(seconds=600.0)),
        ("sustained:90s", Scenario(seconds=90.0)),
        ("sustained:2h", Scenario(seconds=7200.0)),
        ("sustained:1.5m", Scenario(seconds=90.0)),
        ("paced:30Hz", Scenario(rate_hz=30.0)),
        ("paced:0.5Hz+cold", Scenario(rate_hz=0.5, cold=True)),
    ],
)
def test_a_text_names_a_scenario_and_reads_back(text: str, scenario: Scenario) -> None:
    assert Scenario.parse(text) == scenario
    assert Scenario.parse(str(scenario)) == scenario


def test_one_scenario_has_one_name() -> None:
    assert str(Scenario.parse("sustained:600s")) == str(Scenario.parse("sustained:10m")) == "sustained:10m"
    assert str(Scenario.parse("paced:30.0Hz")) == "paced:30Hz"
    assert str(BURST) == "burst"


def test_the_burst_alone_is_the_default() -> None:
    assert Scenario.parse("burst").is_burst
    assert not any(Scenario.parse(text).is_burst for text in ("burst+cold", "sustained:10s", "paced:1Hz"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "unknown scenario"),
        ("bursts", "unknown scenario"),
        ("sustained", "unknown scenario"),
        ("sustained:10", "unknown scenario"),
        ("paced:30", "unknown scenario"),
        ("paced:30hz", "unknown scenario"),
        ("burst+", "unknown scenario"),
        ("burst+hot", "unknown scenario"),
        ("paced:1.2.3Hz", "holds no number"),
        ("sustained:5s", "lasts 10 s to 8 h"),
        ("paced:0Hz", "0.1 to 1000 Hz"),
        ("paced:2000Hz", "0.1 to 1000 Hz"),
    ],
)
def test_what_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Scenario.parse(text)
