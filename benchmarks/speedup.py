"""What a saved multiply-add is worth: measured speed-up over reduction in multiply-adds, beside Torch-Pruning's pruner.

    python benchmarks/speedup.py [--network N] [--step choose | tune | measure]
    python benchmarks/speedup.py --quick

ResNet-56 and VGG-14 are pruned to 2.1 and 4 times fewer multiply-adds: by HAMP on error and latency (the model that
``pruning.py --profile`` made of this computer), and by Torch-Pruning's own global pruner. All are fine-tuned by one
schedule with the dense network as teacher, and measured whole in turns with the dense network on one core. Asked for
are efficiencies of 0.90 and 0.80 and test accuracies of both sides within 0.5 points. Milliseconds and ONNX Runtime's
time over ours stand beside them, so that no slow dense network can flatter.

Of HAMP's evaluations between 1 and 1.05 times the reduction that is asked for, the most accurate one is taken whose
predicted efficiency is above the bar; where none is, the most efficient one. Choosing and tuning run at any time,
measuring wants a quiet machine. Each piece is kept in ``results/speedup.json`` when it has ended, and not done again;
several processes tune side by side.
``--quick`` measures ResNet-56 at 2.1 times again, as chosen before, in one process each, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from conditions import command, commit, conditions, print_conditions, print_result
from prunings import options
from prunings.device import Profiled, write_json
from prunings.entries import Entry
from prunings.results import locked
from prunings.runs import Setting, alone, searched
from prunings.tuned import train_on

from hwprune.cli.console import configure_logging
from hwprune.compilation.targets import CpuTarget
from hwprune.config import Problem
from hwprune.experiments.candidates import linked_job
from hwprune.experiments.devices import LOCAL, find
from hwprune.experiments.finetune import settings
from hwprune.experiments.second_opinion import second_opinion
from hwprune.experiments.session import open_session
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.library_pruner import library_plan
from hwprune.pruning.plan import PruningPlan

RESULTS = Path(__file__).resolve().parent / "results" / "speedup.json"
NETWORKS = ("resnet56", "vgg14")
#: Reductions in multiply-adds, by their names in the result, and the efficiencies that are asked for.
REDUCTIONS, BARS = {"2x": 2.1, "4x": 4.0}, {"2x": 0.90, "4x": 0.80}
#: How much further than asked for a network may be reduced.
SLACK = 1.05
#: A predicted efficiency must be above the bar by this much, for models err.
MARGIN = 0.02
#: Of the search, in passes of the dense network over 1,000 images.
PASSES, SEED = 120.0, 0
#: Bisections of the library's pruning ratio.
HALVINGS = 14
SIDES = ("ours", "torch_pruning")
STEPS = ("choose", "tune", "measure")


def main() -> None:
    """Do what is not done yet, print a table and the result."""
    arguments = _arguments()
    configure_logging(0, None)
    print_conditions()
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            return _quick(options.setting_of(arguments, Path(folder)))
    setting = options.setting_of(arguments, arguments.state)
    with options.resumable():
        for network in arguments.network or NETWORKS:
            for step in arguments.step or STEPS:
                {"choose": _choose, "tune": _tune, "measure": _measure}[step](setting, network)
    found = _read()
    for line in _table(found):
        print(line)
    print_result(result_of(found))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_to(parser)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, help="these networks alone")
    parser.add_argument("--step", nargs="+", choices=STEPS, help="these steps alone")
    parser.add_argument("--quick", action="store_true", help="measure one network again, within a minute")
    return parser.parse_args()


def _choose(setting: Setting, network: str) -> None:
    """Both sides' plans at each reduction."""
    for name, reduction in REDUCTIONS.items():
        for side in SIDES:
            if side not in _read()["networks"].get(network, {}).get(name, {}):
                choose = _by_search if side == "ours" else _by_library
                told = choose(setting, network, name, reduction)
                print(f"{network} {name} {side}: {told['reduction']:.2f} times fewer multiply-adds", flush=True)
                _add(network, name, side, told)


def _by_search(setting: Setting, network: str, name: str, reduction: float) -> dict[str, Any]:
    """HAMP's network; see the top of this file."""
    profiled, problem = Profiled.read(network), setting.problem(network, seed=SEED)
    bench = Workbench.open(problem, profiled.target)
    dense = PruningPlan.dense(bench.groups)
    most_macs, dense_ms = bench.macs(dense) / reduction, _predicted_ms(profiled, bench, dense)
    bounded = Problem.model_validate(
        {
            **problem.model_dump(mode="json"),
            "objectives": ["error", "latency"],
            "constraints": {"macs": f"<= {most_macs}"},
        }
    )
    folder = setting.runs / f"speedup-{network}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    entry = Entry("speedup", "hamp", "method")
    found = searched(setting, bounded, entry, folder, profiled, PASSES)
    choices = []
    for each in found.archive.evaluations:
        plan = found.archive.plan(each.plan_key)
        macs = bench.macs(plan)
        if each.metric is not None and most_macs / SLACK <= macs <= most_macs:
            gained = dense_ms / _predicted_ms(profiled, bench, plan)
            choices.append((gained * macs / bench.macs(dense), each.metric, plan))
    if not choices:
        raise SystemExit(f"{network}: no network was found at {reduction} times fewer multiply-adds")
    efficient = [choice for choice in choices if choice[0] >= BARS[name] + MARGIN]
    chosen = max(efficient, key=lambda each: each[1]) if efficient else max(choices, key=lambda each: each[0])
    return {**_facts(bench, chosen[2]), "predicted_efficiency": chosen[0], "searched": found.counts}


def _by_library(setting: Setting, network: str, name: str, reduction: float) -> dict[str, Any]:
    """What Torch-Pruning keeps at its defaults, its ratio bisected for the reduction."""
    bench = Workbench.open(setting.problem(network, seed=SEED))
    dense_macs = bench.macs(PruningPlan.dense(bench.groups))
    low, high = 0.0, bench.problem.pruning.pruning_ratio_max
    plan = PruningPlan.dense(bench.groups)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = library_plan(bench.dense, bench.groups, bench.example_input, middle)
        if dense_macs / bench.macs(found) < reduction:
            low = middle
        else:
            high, plan = middle, found
    return {**_facts(bench, plan), "pruning_ratio": high}


def _facts(bench: Workbench, plan: PruningPlan) -> dict[str, Any]:
    dense = PruningPlan.dense(bench.groups)
    return {
        "plan": plan.as_dict(),
        "widths": list(plan.widths),
        "reduction": bench.macs(dense) / bench.macs(plan),
        "val_inherited": bench.accuracy(plan),
    }


def _predicted_ms(profiled: Profiled, bench: Workbench, plan: PruningPlan) -> float:
    return float(profiled.model.predict(bench.arithmetic(np.array([plan.widths])))[0][0])


def _tune(setting: Setting, network: str) -> None:
    """Fine-tune all plans of a network by one schedule."""
    problem = setting.whole(setting.problem(network, seed=SEED))
    for name, side, _ in list(_sides(network)):
        path = setting.runs / f"speedup-{network}-{name}" / f"{side}.checkpoint"
        with alone(path.with_suffix("")) as is_ours:
            told = _read()["networks"][network][name][side]
            if not is_ours or "test" in told:
                continue
            bench = Workbench.open(problem)
            module = bench.inherit(PruningPlan.from_dict(told["plan"]))
            label = f"fine-tuning {network} {name} {side}"
            checkpoint = train_on(setting, bench, module, settings(problem), path, label)
            test = bench.task.evaluate(module, "test", dtype=bench.dtype)
            _add(network, name, side, {**told, "test": test, "epochs": problem.finetune.epochs})
            checkpoint.remove()


def _measure(setting: Setting, network: str) -> None:
    """Measure all networks in turns, and the dense one by ONNX Runtime, too."""
    sides = list(_sides(network))
    if _read()["networks"].get(network, {}).get("dense", {}).get("plans") == [told["plan"] for *_, told in sides]:
        return
    if len(sides) < len(SIDES) * len(REDUCTIONS):
        raise SystemExit(f"{network}: choose first")
    latencies_ms, facts = _latencies_ms(setting, network, [told["plan"] for *_, told in sides], final=True)
    dense_ms = latencies_ms[0]
    for (name, side, told), latency_ms in zip(sides, latencies_ms[1:], strict=True):
        efficiency = None if None in (latency_ms, dense_ms) else dense_ms / latency_ms / told["reduction"]
        _add(network, name, side, {**told, "latency_ms": latency_ms, "efficiency": efficiency})
    _add(network, "dense", None, {**facts, "latency_ms": dense_ms, "plans": [told["plan"] for *_, told in sides]})


def _latencies_ms(
    setting: Setting, network: str, plans: list[Any], *, final: bool
) -> tuple[list[Any], dict[str, float | str | None]]:
    """Latencies of the dense network and of plans, None where not to be trusted; and what ONNX Runtime says."""
    device = find(setting.home, LOCAL)
    target = CpuTarget.from_dict(device.target, device.threads)
    bench = Workbench.open(setting.problem(network, seed=SEED), target)
    modules = [bench.dense, *(bench.cut(PruningPlan.from_dict(plan)) for plan in plans)]
    with open_session(setting.home, device, setting.console) as session:
        jobs = [linked_job(session.compiler, bench, module.eval()) for module in modules]
        found = session.measurer.networks(jobs, final=final, remeasure=True)
        opinion = second_opinion(session, bench, setting.console)
    latencies_ms = [each.latency_ms if each.error is None and each.trust != "C" else None for each in found]
    return latencies_ms, {
        "onnxruntime_over_ours": None if opinion.ratio is None else 1 / opinion.ratio,
        "second_opinion": opinion.summary(),
    }


def _sides(network: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    found = _read()["networks"].get(network, {})
    for name in REDUCTIONS:
        for side in SIDES:
            if side in found.get(name, {}):
                yield name, side, found[name][side]


def result_of(found: dict[str, Any]) -> dict[str, Any]:
    """The worse of both networks, for both sides and reductions; None where one is not measured."""

    def worst(name: str, side: str) -> float | None:
        told = [found["networks"].get(network, {}).get(name, {}).get(side, {}) for network in NETWORKS]
        values = [each.get("efficiency") for each in told]
        return None if None in values else min(values)

    labels = {"ours": "efficiency", "torch_pruning": "torch_pruning"}
    return {f"{labels[side]}_{name}": worst(name, side) for side in SIDES for name in REDUCTIONS}


def _table(found: dict[str, Any]) -> Iterator[str]:
    yield f"\n{'':24}{'fewer MACs':>11}{'ms':>9}{'speed-up':>9}{'efficiency':>11}{'test':>8}   asked for"
    for network in NETWORKS:
        dense = found["networks"].get(network, {}).get("dense")
        if dense:
            yield f"{network + ' dense':24}{1:>11}{_text(dense['latency_ms'], 9, 4)}   {dense['second_opinion']}"
        for name, side, told in _of(found, network):
            efficiency = told.get("efficiency")
            gained = None if efficiency is None else efficiency * told["reduction"]
            yield (
                f"{network + ' ' + side:24}{told['reduction']:>11.2f}{_text(told.get('latency_ms'), 9, 4)}"
                f"{_text(gained, 9, 2)}{_text(efficiency, 11, 3)}{_text(told.get('test'), 8, 4)}   {BARS[name]}"
            )
        for name in REDUCTIONS:
            tests = [found["networks"].get(network, {}).get(name, {}).get(side, {}).get("test") for side in SIDES]
            if None not in tests:
                yield f"{network} {name}: ours is {100 * (tests[0] - tests[1]):+.2f} points (within 0.5 asked for)"


def _of(found: dict[str, Any], network: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name in REDUCTIONS:
        for side, told in found["networks"].get(network, {}).get(name, {}).items():
            yield name, side, told


def _text(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}.{digits}f}"


def _quick(setting: Setting) -> None:
    """ResNet-56 at 2.1 times measured anew."""
    sides = [each for each in _sides("resnet56") if each[0] == "2x"]
    if not sides:
        print("nothing is chosen yet: run 'python benchmarks/speedup.py --step choose' first")
        return print_result(result_of(_read()))
    latencies_ms, facts = _latencies_ms(setting, "resnet56", [told["plan"] for *_, told in sides], final=False)
    efficiencies = {}
    for (name, side, told), latency_ms in zip(sides, latencies_ms[1:], strict=True):
        if None not in (latency_ms, latencies_ms[0]):
            efficiencies[f"{side}_{name}"] = latencies_ms[0] / latency_ms / told["reduction"]
    print(f"dense {_text(latencies_ms[0], 0, 4)} ms; efficiency " + str(efficiencies))
    print_result({**result_of(_read()), "measured_again": efficiencies, **facts})


def _read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"networks": {}}
    return found


def _add(network: str, name: str, side: str | None, told: dict[str, Any]) -> None:
    """Keep a piece, with what it depends on."""
    with locked(RESULTS):
        found = _read()
        entry = found["networks"].setdefault(network, {})
        if side is None:
            entry[name] = told
        else:
            entry.setdefault(name, {})[side] = told
        about = {"seeds": [SEED], "commit": commit(), "conditions": conditions(), "RESULT": result_of(found)}
        write_json(RESULTS, {**found, **about, "command": command("speedup")})


if __name__ == "__main__":
    main()
