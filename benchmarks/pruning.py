"""Every method against its controls at an equal budget of multiply-adds, on CIFAR-10 and this computer.

    python benchmarks/pruning.py --profile                      # quiet: a model of this computer for each network
    python benchmarks/pruning.py [--network N] [--only ENTRY] [--seeds 0-2] [--workers W]      # any time, any slice
    python benchmarks/pruning.py --measure                      # quiet: latencies of all that was found
    python benchmarks/pruning.py --finetune | --smoea-vgg14     # any time
    python benchmarks/pruning.py --quick

``--images`` holds ``train``, ``val`` and ``test`` with a folder a class, or is an ``.npz`` file of arrays;
``--weights`` holds the trained networks (``resnet20.safetensors``, ``resnet56.safetensors``, ``vgg14.safetensors``). A
search may spend 200 passes of the dense network over 1,000 validation images in multiply-adds, BatchNorm's statistics
included, and trains nothing. It asks the device's model for latencies, so that it runs on a busy machine, too. Of its
front the 40 members that dominate most together are judged on the whole validation split, and measured later. The
hypervolume is that of error, latency and memory below (dense error + 0.20, dense latency, dense memory), of single
weights that of error and density below (1, 1).

``--smoea-vgg14`` prunes VGG-14 to the size of SMOEA's paper, two epochs after each group of layers and ten at the end,
and compares it with the dense network trained for twenty more.

Everything is kept in ``results/pruning.json`` as soon as it is there, and is never done again: an interrupted call is
repeated as it was (``--resume`` says so and changes nothing), and several at a time share the work. ``--quick`` runs
one method with a fresh seed and a small budget, and checks the committed results for their form.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from conditions import conditions, print_conditions, print_result
from prunings import device, options, results, smoea_vgg, tuned
from prunings.entries import ENTRIES, NETWORKS, Entry
from prunings.runs import Setting, alone, keep_again, kept, run_entry
from prunings.verdicts import by_model, lines, malformed, measured, measured_elsewhere
from prunings.volumes import hypervolume

from hwprune.cli.console import configure_logging

QUICK_ENTRY, QUICK_PASSES = "hierarchical", 8.0


def main() -> None:
    """Do what is asked for, print tables and the result."""
    arguments = _arguments()
    configure_logging(0, None)
    print_conditions()
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            _quick(options.setting_of(arguments, Path(folder)))
    else:
        with options.resumable():
            _do(options.setting_of(arguments, arguments.state), arguments)
    found = results.read()
    for line in lines(found):
        print(line)
    for seed, sides in found["smoea_vgg14"].items():
        print(f"SMOEA on VGG-14, seed {seed}: {smoea_vgg.told(sides)}")
    controls = [name for name, entry in ENTRIES.items() if entry.kind == "control"]
    volumes = {"hv": measured(found), "hv_by_model": by_model(found), "hv_elsewhere": measured_elsewhere(found)}
    print_result({**volumes, "controls": controls})


def _do(setting: Setting, arguments: argparse.Namespace) -> None:
    if arguments.profile:
        for network in arguments.network or NETWORKS:
            device.profile(network, setting.problem(network), setting.home, setting.console)
    elif arguments.measure:
        for network in arguments.network or NETWORKS:
            _measure(setting, network)
    elif arguments.finetune:
        _finetune(setting, arguments)
    elif arguments.smoea_vgg14:
        _smoea_vgg14(setting, arguments.seeds or [0])
    else:
        _search(setting, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_to(parser)
    parser.add_argument("--only", "--method", nargs="+", choices=sorted(ENTRIES), help="these entries alone")
    parser.add_argument("--network", nargs="+", choices=sorted(NETWORKS), help="these networks alone")
    parser.add_argument("--seeds", type=_seeds, help="these seeds alone: 3, or 0-2")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--profile", action="store_true", help="make this computer's models; wants a quiet machine")
    kinds.add_argument("--measure", action="store_true", help="measure what was found; wants a quiet machine")
    kinds.add_argument("--finetune", action="store_true", help="fine-tune three points a method and control, of seed 0")
    kinds.add_argument("--smoea-vgg14", action="store_true", help="SMOEA's own comparison alone; takes hours")
    kinds.add_argument("--quick", action="store_true", help="one small run, and the form of the results")
    return parser.parse_args()


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def _search(setting: Setting, arguments: argparse.Namespace) -> None:
    """All runs that are asked for and not there yet, each written as soon as it is there."""
    wanted = [job for job in _wanted(arguments) if not _is_there(*job)]
    taken_s: dict[str, list[float]] = {}
    for number, (network, entry, seed) in enumerate(wanted):
        with alone(setting.folder(network, entry, seed)) as is_ours:
            if not is_ours or _is_there(network, entry, seed):  # another process has taken it meanwhile
                continue
            print(f"{network} {entry.name} seed {seed}: run {number + 1} of {len(wanted)}", flush=True)
            started = time.monotonic()
            record = run_entry(setting, network, entry, seed)
            with results.adding() as found:
                found["runs"].setdefault(network, {}).setdefault(entry.name, {})[str(seed)] = record
        taken_s.setdefault(network, []).append(time.monotonic() - started)
        mean_s = {name: sum(each) / len(each) for name, each in taken_s.items()}
        left_s = sum(mean_s.get(job[0], max(mean_s.values())) for job in wanted[number + 1 :])
        volume = hypervolume(record, None, by_weight=entry.by_weight)
        print(f"  {volume:.4f} by the model, {record['seconds']:.0f} s; {left_s / 60:.0f} min left", flush=True)


def _wanted(arguments: argparse.Namespace) -> list[tuple[str, Entry, int]]:
    """Runs in an order that gives every entry its first seed before any has its second."""
    wanted = [
        (network, entry, seed)
        for entry in ENTRIES.values()
        for network in entry.networks
        for seed in range(entry.seeds(network))
        if entry.name in (arguments.only or ENTRIES)
        and network in (arguments.network or NETWORKS)
        and (arguments.seeds is None or seed in arguments.seeds)
    ]
    order = list(NETWORKS)
    return sorted(wanted, key=lambda job: (order.index(job[0]), job[2]))


def _is_there(network: str, entry: Entry, seed: int) -> bool:
    return str(seed) in results.read()["runs"].get(network, {}).get(entry.name, {})


def _measure(setting: Setting, network: str) -> None:
    """Latencies of all networks that the runs found; of single weights, those of the networks that were kept.

    Each processor has latencies of its own; those of several are never mixed in one hypervolume.
    """
    runs, cpu = results.read()["runs"].get(network, {}), conditions()["cpu"]
    known = results.read()["latency_ms"].get(cpu, {}).get(network, {})
    records = [record for name, by_seed in runs.items() if not ENTRIES[name].by_weight for record in by_seed.values()]
    found = dict.fromkeys(point["widths"] for record in records for point in [record["dense"], *record["points"]])
    wanted = [list(map(int, key.split())) for key in found if key not in known]
    print(f"{network}: {len(wanted)} networks to measure on {cpu}, {len(known)} are", flush=True)
    if wanted:
        with setting.console.progress(len(wanted), f"measuring {network}") as steps:
            for told in device.measured(setting.problem(network), setting.home, setting.console, wanted):
                with results.adding() as all_results:
                    all_results["latency_ms"].setdefault(cpu, {}).setdefault(network, {}).update(told)
                steps.advance(len(told) - 1)
    for name in (name for name in runs if ENTRIES[name].by_weight):
        _measure_kept(setting, network, ENTRIES[name])


def _measure_kept(setting: Setting, network: str, entry: Entry) -> None:
    folder = setting.folder(network, entry, 0)
    points = {name: (told["plan"], folder / f"{name}.safetensors") for name, told in kept(folder).items()}
    record = results.read()["runs"][network][entry.name].get("0")
    if record is None or "latency_ms" in record or not points:
        return
    latencies = list(
        device.measured_files(setting.problem(network), setting.home, setting.console, list(points.values()))
    )
    with results.adding() as found:
        told = {"cpu": conditions()["cpu"], **dict(zip(["dense", *points], latencies, strict=True))}
        found["runs"][network][entry.name]["0"]["latency_ms"] = told


def _finetune(setting: Setting, arguments: argparse.Namespace) -> None:
    for network, entry, seed in _wanted(arguments):
        if seed != 0 or entry.kind == "ablation" or not _is_there(network, entry, 0):
            continue
        with alone(setting.folder(network, entry, 0)) as is_ours:
            if not is_ours:
                continue
            if not keep_again(setting, network, entry, results.read()["runs"][network][entry.name]["0"]):
                print(f"{network} {entry.name}: no networks of its seed 0 here; remove that record and search again")
                continue
            for name in tuned.missing(setting, network, entry):
                told, checkpoint = tuned.finetune_one(setting, network, entry, name)
                with results.adding() as found:
                    found["runs"][network][entry.name]["0"].setdefault("finetuned", {})[name] = told
                checkpoint.remove()


def _smoea_vgg14(setting: Setting, seeds: list[int]) -> None:
    """SMOEA on VGG-14 with fine-tuning between its groups, and the dense network, as far as they are not there yet."""
    for seed in seeds:
        for side, work in smoea_vgg.SIDES.items():
            with alone(setting.folder("vgg14", smoea_vgg.ENTRY, seed) / side) as is_ours:
                if not is_ours or side in results.read()["smoea_vgg14"].get(str(seed), {}):
                    continue
                told = work(setting, seed)
                with results.adding() as found:
                    found["smoea_vgg14"].setdefault(str(seed), {})[side] = told


def _quick(setting: Setting) -> dict[str, Any]:
    """One method with a fresh seed, and what is wrong with the committed results."""
    entry, seed = ENTRIES[QUICK_ENTRY], secrets.randbelow(2**31)
    record = run_entry(setting, "resnet20", entry, seed, QUICK_PASSES)
    volume = hypervolume(record, None, by_weight=entry.by_weight)
    print(f"{entry.name}, seed {seed}: hypervolume {volume:.4f} in {record['seconds']:.0f} s")
    found = results.read()
    if results.PATH.exists() and (wrong := malformed(found)):
        sys.exit(f"{results.PATH.name}: {'; '.join(wrong[:5])}")
    return found


if __name__ == "__main__":
    main()
