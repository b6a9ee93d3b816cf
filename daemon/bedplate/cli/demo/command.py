"""`bedplate demo` itself: the stage is set, every part plays, and everything is cleared away."""

import asyncio
import random
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from bedplate.cli.connection import settings_of
from bedplate.cli.demo import cluster, storage
from bedplate.cli.demo.daemon import DemoDaemon
from bedplate.cli.demo.stage import Part, Report, Stage, Wishes
from bedplate.cli.demo.tree import find_tree, standard_library
from bedplate.cli.errors import CommandError
from bedplate.cli.output import print_json

PARTS: Final[Mapping[str, Part]] = MappingProxyType(
    {"storage": storage.run, "cluster": cluster.run}
)
_LOSSES_SHOWN = 10
_FILES_MIN = 2


def add_commands(app: typer.Typer) -> None:
    """Add the command to the main one."""
    app.command()(demo)


def demo(
    context: typer.Context,
    tree: Annotated[
        Path | None,
        typer.Option(envvar="DEMO_TREE", help="The directory to store. Default: Python's own."),
    ] = None,
    mib: Annotated[
        int, typer.Option(min=1, envvar="DEMO_MIB", help="MiB of it to store at most.")
    ] = 64,
    seed: Annotated[
        int, typer.Option(envvar="DEMO_SEED", help="Chooses the moment of the crash.")
    ] = 1,
    parts: Annotated[
        str, typer.Option(envvar="DEMO_PARTS", help="Only these, separated by commas.")
    ] = ",".join(PARTS),
) -> None:
    """Store a real directory tree, kill the daemon in the middle, check every acknowledged byte.
    Then the same with three daemons as one cluster, whose leader is killed.

    Runs daemons of its own on a scratch directory and free ports; nothing is left of them. Exit 1
    when anything acknowledged was lost.
    """
    wanted = [part.strip() for part in parts.split(",") if part.strip()]
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown or not wanted:
        raise CommandError(f"unknown part {' '.join(unknown)!r}; there are {' '.join(PARTS)}")
    as_json = settings_of(context).as_json
    console = Console(stderr=as_json)
    found = find_tree(tree or standard_library(), mib << 20)
    if len(found.names) < _FILES_MIN:
        raise CommandError(f"{found.root} holds too few files for a demo")
    wishes = Wishes(found, seed)
    try:
        reports = asyncio.run(_play(wanted, wishes, console))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except ExceptionGroup as group:
        raise _first(group) from group
    for report in reports:
        if as_json:
            print_json({"part": report.title, **dict(report.lines), "losses": report.losses})
        else:
            _print(console, report)
    if any(report.losses for report in reports):
        raise CommandError("acknowledged data was lost")


async def _play(wanted: list[str], wishes: Wishes, console: Console) -> list[Report]:
    """Every part on one daemon. SIGTERM ends it like SIGINT: cleared away, then gone."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with tempfile.TemporaryDirectory(prefix="bedplate-demo-") as scratch:
        daemon = DemoDaemon(Path(scratch) / "data")
        try:
            await daemon.start()
            stage = Stage(wishes, daemon, console, random.Random(wishes.seed))
            return [await PARTS[part](stage) for part in wanted]
        finally:
            await daemon.stop()


def _print(console: Console, report: Report) -> None:
    table = Table(title=report.title, show_header=False, title_justify="left", title_style="bold")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in report.lines:
        table.add_row(name, text)
    console.print(table)
    for loss in report.losses[:_LOSSES_SHOWN]:
        console.print(f"LOST {loss}", markup=False, highlight=False)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """One of several tasks' failures: the others came of it, or of the same cause."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
