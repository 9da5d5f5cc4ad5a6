"""Several devices in one command: this computer, and a board that nobody answers for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hwprune.experiments.home import Home

pytestmark = [pytest.mark.boards, pytest.mark.timeout(600)]  # on a busy machine every measurement waits for its turn

ARGUMENTS = ("digits.yaml", "--method", "random", "--budget", 3, "--set", "objectives=[error, macs]")


@pytest.fixture
def closed(hwprune, profile) -> str:
    """A registered board whose port is closed, of the same processor."""
    home = Home(hwprune.folder / "home")
    way = {"address": "pi@127.0.0.1:1", "host_keys": {"[127.0.0.1]:1": "ssh-ed25519 AAAA"}}
    entry = home.devices.get("local").model_dump(mode="json", exclude={"name"})
    (hwprune.folder / "home/devices/closed.yaml").write_text(yaml.safe_dump({**entry, "transport": "ssh", "ssh": way}))
    return "closed"


def evaluations(run: Path) -> list[tuple[str, float]]:
    records = [json.loads(line) for line in (run / "archive.jsonl").read_text().splitlines()]
    return [(record["plan_key"], record["metric"]) for record in records if "plan_key" in record]


def test_a_device_finds_in_company_what_it_finds_alone_and_the_lost_one_costs_its_own_part(hwprune, closed) -> None:
    alone = hwprune.search(*ARGUMENTS, "--device", "local", runs="alone")
    ended = hwprune("search", *ARGUMENTS, "--device", closed, "--device", "local", "--runs", "together", "--json")
    lost, found = json.loads(ended.stdout)
    assert (lost["name"], lost["result"], lost["error"]["kind"]) == ("closed", None, "unreachable")
    assert "refuses connections on port 1" in lost["error"]["message"]
    (together,) = (hwprune.folder / "together").glob("*")
    assert evaluations(together) == evaluations(alone)
    assert len(evaluations(alone)) == 3
    if found["error"] is None:
        assert ended.returncode == 3
        assert found["result"]["run"] == f"together/{together.name}"
    else:  # this machine is too busy to measure its front
        assert (found["error"]["kind"], ended.returncode) == ("untrusted", 1)
    told = ended.stderr.splitlines()
    assert any(line.startswith("local: ") for line in told)
    assert [line for line in told if line.startswith("error: closed: ")]
