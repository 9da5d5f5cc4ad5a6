import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from hwprune.experiments.logins import turn

HOLD = """
import sys, time
from pathlib import Path
from hwprune.experiments.logins import turn
with turn(Path(sys.argv[1]), 1):
    print("in", flush=True)
    time.sleep(60)
"""


def test_no_more_than_allowed_are_under_way(tmp_path: Path) -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def log_in() -> None:
        nonlocal inside, most
        with turn(tmp_path, 2):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.05)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=log_in) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (inside, most) == (0, 2)


def test_a_process_that_is_killed_frees_its_turn(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        waited = []

        def log_in() -> None:
            with turn(tmp_path, 1):
                waited.append(os.getpid())

        thread = threading.Thread(target=log_in)
        thread.start()
        time.sleep(0.3)
        assert not waited
        other.kill()
        thread.join(30)
        assert waited
