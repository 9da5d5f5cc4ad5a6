"""``hwprune scan``: what pruning could gain for a network on a device, without data and without training."""

from __future__ import annotations

from pathlib import Path

import click

from hwprune.cli.context import Session, as_json_option, examples
from hwprune.cli.output import emit, emit_json, emit_table

HELP = """Tell where a network's time goes on a device and what narrower ones would take: is pruning worth it?

\b
MODEL is a family with options      resnet_cifar,depth=56
      an architecture of torchvision mobilenet_v2
      a function of yours            package.module:build,width=64
      or a file of torch.export.save network.pt2
"""


@click.command(
    help=HELP,
    epilog=examples(
        "hwprune scan resnet_cifar,depth=56",
        "hwprune scan mobilenet_v2 --device pi4 --input 3x160x160",
        "hwprune scan network.pt2 --json",
    ),
)
@click.argument("model", metavar="MODEL")
@click.option("--device", "device_name", metavar="NAME", default="local", show_default=True, help="Registered device.")
@click.option("--input", "input_text", metavar="CxHxW", help="Image that the network takes [3x32x32 or 3x224x224].")
@click.option("--classes", type=click.IntRange(1), default=10, show_default=True, help="Outputs of the network.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Choose no more kernels to measure after this long.",
)
@click.option(
    "--picture",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="this folder",
    help="Folder that the picture is written to.",
)
@as_json_option
@click.pass_obj
def scan(
    session: Session,
    model: str,
    device_name: str,
    input_text: str | None,
    classes: int,
    minutes: float,
    folder: Path,
    as_json: bool,
) -> None:
    """Scan one network."""
    from hwprune.compilation.targets import CpuTarget
    from hwprune.experiments import scan as scans
    from hwprune.experiments.devices import find
    from hwprune.experiments.models import open_model, parse_shape
    from hwprune.experiments.profiler import Effort
    from hwprune.reports import scan as tables

    shape = parse_shape(input_text) if input_text else None
    device = find(session.home, device_name)
    target = CpuTarget.from_dict(device.target, device.threads)
    bench = open_model(model, input_shape=shape, num_classes=classes, target=target)
    report = scans.scan(
        session.home, device_name, bench, model, effort=Effort(minutes=minutes), console=session.console
    )
    path = scans.picture_path(folder, report)
    tables.draw_scan(report, path)
    if as_json:
        emit_json({**report.as_dict(), "picture": str(path)})
        return
    for title, rows in (
        ("where the time goes", tables.layer_table(report)),
        ("where width buys time: groups of channels, each narrowed alone", tables.group_table(report)),
        ("what pruning could gain: all groups narrowed alike", tables.width_table(report)),
    ):
        if rows:
            emit(f"\n{title}")
            emit_table(rows)
    emit("")
    for note in report.notes:
        emit(f"note: {note}")
    reason = f" ({report.trust_reason})" if report.trust_reason else ""
    emit(f"{report.latency_ms:.4g} ms on {report.device}, trust {report.trust}{reason}; picture: {path}")
    emit(report.verdict)
