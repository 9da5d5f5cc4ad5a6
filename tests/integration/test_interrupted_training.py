"""A training that is interrupted goes on by the same command."""

from __future__ import annotations

import json
import signal
import time

EPOCHS = ("--set", "training.epochs=8")


def test_a_training_that_is_interrupted_goes_on_to_the_same_weights(hwprune):
    whole = hwprune.json("train", "digits.yaml", "--out", "whole.safetensors", *EPOCHS)
    process = hwprune.start("train", "digits.yaml", "--out", "stopped.safetensors", *EPOCHS)
    checkpoint = hwprune.folder / "stopped.safetensors.checkpoint"
    give_up = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert checkpoint.exists()
    assert not (hwprune.folder / "stopped.safetensors").exists()

    ended = hwprune("train", "digits.yaml", "--out", "stopped.safetensors", *EPOCHS, "--json")
    assert json.loads(ended.stdout)["val"] == whole["val"]
    weights = [(hwprune.folder / f"{name}.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]
    assert not checkpoint.exists()
