"""``hwprune scan``: the first thing that a new user tries."""

import math


def test_a_scan_needs_no_data_and_ends_with_a_verdict(hwprune, profile):
    found = hwprune.json("scan", "resnet_cifar,depth=8", "--input", "3x16x16", "--minutes", 0.1)
    assert found["device"] == "local"
    assert math.isclose(sum(layer["latency_ms"] for layer in found["layers"]), found["latency_ms"], rel_tol=0.3)
    assert [row["share"] for row in found["widths"]] == [1.0, 0.75, 0.5, 0.25]
    assert found["widths"][3]["latency_ms"] < found["widths"][0]["latency_ms"]
    assert found["verdict"].startswith(("worth it", "not worth it"))
    assert all(group["step"] >= 1 for group in found["groups"])
    assert (hwprune.folder / found["picture"]).read_bytes().startswith(b"\x89PNG")


def test_the_last_line_for_people_is_the_verdict(hwprune, profile):
    ended = hwprune("scan", "resnet_cifar,depth=8", "--input", "3x16x16", "--minutes", 0.1)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].startswith(("worth it", "not worth it"))
