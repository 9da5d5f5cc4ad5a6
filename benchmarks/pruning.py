"""Every method against its controls at an equal budget of multiply-adds, on CIFAR-10 and this computer.

    python benchmarks/pruning.py --images FOLDER --weights FOLDER [--resume] [--only ENTRY ...] [--network NETWORK ...]
    python benchmarks/pruning.py --images FOLDER --weights FOLDER --quick

``--images`` holds ``train``, ``val`` and ``test`` with a folder a class, ``--weights`` the trained networks
(``resnet20.safetensors``, ``resnet56.safetensors``, ``vgg14.safetensors``). A search may spend 200 passes of the dense
network over 1,000 validation images in multiply-adds, BatchNorm's statistics included, and trains nothing. Its front is
measured on this computer and judged on the whole validation split; the hypervolume is that of error, latency and memory
below (dense error + 0.20, dense latency, dense memory), of single weights that of error and density below (1, 1).

``--smoea-vgg14`` prunes VGG-14 to the size of SMOEA's paper, two epochs after each group of layers and ten at the end,
and compares it with the dense network trained for twenty more.

Each finished run is written to ``results/pruning.json``; ``--resume`` goes on behind them. ``--quick`` runs one method
with a fresh seed and a tenth of the budget, and checks the committed results for their form.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from conditions import conditions, print_conditions, print_result
from prunings import smoea_vgg
from prunings.entries import ENTRIES, NETWORKS, Entry
from prunings.runs import DENSE_PASSES, Setting, finetune_points, hypervolume, run_entry
from prunings.verdicts import lines, malformed, volumes

from hwprune.cli.console import Console as Terminal
from hwprune.experiments.home import Home

RESULTS = Path(__file__).parent / "results" / "pruning.json"
QUICK_ENTRY, QUICK_PASSES = "hierarchical", 8.0


def main() -> None:
    arguments = _arguments()
    print_conditions()
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(
            images=arguments.images,
            weights=arguments.weights,
            home=Home(arguments.home or Path(folder) / "home"),
            runs=arguments.runs or Path(folder) / "runs",
            console=Terminal(),
            epochs=arguments.epochs,
        )
        if arguments.quick:
            results = _quick(setting)
        elif arguments.smoea_vgg14:
            results = _smoea_vgg14(setting, arguments.seeds or 1)
        else:
            results = _all(setting, arguments)
    for line in lines(results["runs"]):
        print(line)
    for found in results.get("smoea_vgg14", []):
        print("SMOEA on VGG-14:", ", ".join(f"{key} {value}" for key, value in found.items()))
    controls = [name for name, entry in ENTRIES.items() if entry.kind == "control"]
    print_result({"hv": volumes(results["runs"]), "controls": controls})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("HWPRUNE_SHARED", "data"))
    parser.add_argument("--images", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--weights", type=Path, default=shared / "data" / "weights")
    parser.add_argument("--home", type=Path, help="keep profile and kernels here")
    parser.add_argument("--runs", type=Path, help="keep run folders here; needed to fine-tune points later")
    parser.add_argument("--resume", action="store_true", help="leave out what results/pruning.json holds")
    parser.add_argument("--only", nargs="+", choices=sorted(ENTRIES), help="these entries alone")
    parser.add_argument("--network", nargs="+", choices=sorted(NETWORKS), help="these networks alone")
    parser.add_argument("--seeds", type=int, help="as many seeds an entry at most")
    parser.add_argument("--finetune", action="store_true", help="fine-tune three points of each entry's first run")
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning")
    parser.add_argument("--smoea-vgg14", action="store_true", help="SMOEA's own comparison alone; takes hours")
    parser.add_argument("--quick", action="store_true", help="one small run, and the form of the results")
    return parser.parse_args()


def _all(setting: Setting, arguments: argparse.Namespace) -> dict[str, Any]:
    """All runs that are asked for, each written as soon as it is there."""
    results = _read() if arguments.resume else {"runs": {}}
    for network, entry, seed in _wanted(arguments):
        runs = results["runs"].setdefault(network, {}).setdefault(entry.name, {})
        if str(seed) not in runs:
            print(f"{network} {entry.name} seed {seed}", flush=True)
            runs[str(seed)] = run_entry(setting, network, entry, seed, DENSE_PASSES)
            _write(results)
        record = runs[str(seed)]
        if arguments.finetune and seed == 0 and "finetuned" not in record and (setting.runs / record["run"]).exists():
            record["finetuned"] = finetune_points(setting, record, by_weight=entry.by_weight)
            _write(results)
    return results


def _smoea_vgg14(setting: Setting, seeds: int) -> dict[str, Any]:
    """SMOEA on VGG-14 with fine-tuning between its groups, as many seeds as are not there yet."""
    results = _read()
    found = results.setdefault("smoea_vgg14", [])
    for seed in range(len(found), seeds):
        found.append(smoea_vgg.compare(setting, seed))
        _write(results)
    return results


def _wanted(arguments: argparse.Namespace) -> list[tuple[str, Entry, int]]:
    """Runs in an order that gives every entry its first seed before any has its second."""
    wanted = []
    for entry in ENTRIES.values():
        if not entry.is_there:
            print(f"{entry.name}: this checkout has no method {entry.method!r}")
            continue
        for network in entry.networks:
            asked = entry.name in (arguments.only or ENTRIES) and network in (arguments.network or NETWORKS)
            seeds = entry.seeds(network) if arguments.seeds is None else min(entry.seeds(network), arguments.seeds)
            wanted += [(seed, network, entry) for seed in range(seeds) if asked]
    order = list(NETWORKS)
    wanted.sort(key=lambda each: (order.index(each[1]), each[0]))
    return [(network, entry, seed) for seed, network, entry in wanted]


def _quick(setting: Setting) -> dict[str, Any]:
    """One method with a fresh seed, and what is wrong with the committed results."""
    entry, seed = ENTRIES[QUICK_ENTRY], secrets.randbelow(2**31)
    record = run_entry(setting, "resnet20", entry, seed, QUICK_PASSES)
    print(f"{entry.name}, seed {seed}: hypervolume {hypervolume(record, by_weight=entry.by_weight):.4f}")
    results = _read() if RESULTS.exists() else {"runs": {}}
    if RESULTS.exists() and (wrong := malformed(results)):
        sys.exit(f"{RESULTS.name}: {'; '.join(wrong[:5])}")
    return results


def _read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": {}}
    return found


def _write(results: dict[str, Any]) -> None:
    """Write all results, with what they depend on, whole or not at all."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent, check=False
    )
    told = {
        **results,
        "result": {"hv": volumes(results["runs"])},
        "command": "python benchmarks/pruning.py --images FOLDER --weights FOLDER --resume",
        "commit": commit.stdout.strip(),
        "conditions": conditions(),
    }
    draft = RESULTS.with_suffix(".part")
    draft.parent.mkdir(exist_ok=True)
    draft.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
    draft.replace(RESULTS)


if __name__ == "__main__":
    main()
