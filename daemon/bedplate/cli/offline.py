"""`bedplate restore`, `fsck` and `config`: what needs no running daemon."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bedplate.cli.connection import settings_of
from bedplate.cli.errors import CommandError
from bedplate.cli.output import note, print_json
from bedplate.consensus import founding_file
from bedplate.consensus.founding_file import QUARANTINE_FILE
from bedplate.native.operations import fsck as check_store
from bedplate.native.operations import recover as recover_store
from bedplate.native.operations import restore as restore_store
from bedplate.native.options import Options
from bedplate.server.config import reference

_STORE = "store"  # of a data directory: where the engine's files are

DataDir = Annotated[
    Path, typer.Option("--data-dir", metavar="DIR", help="The data directory of a stopped daemon.")
]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the main one."""
    for command in (restore, fsck, config):
        app.command()(command)


def restore(
    file: Annotated[Path, typer.Argument(help="What `bedplate backup` wrote.")],
    data_dir: Annotated[
        Path, typer.Option("--data-dir", metavar="DIR", help="A new data directory.")
    ],
) -> None:
    """Make a data directory from a backup. It gets a new cluster id, and its revisions jump far
    ahead, so that nothing a client remembers of the old store matches by accident.
    """
    if not file.exists():
        raise CommandError(f"{file} does not exist")
    if not file.is_file():
        raise CommandError(f"{file} is no file")
    with _new_directory(data_dir) as directory:
        restore_store(Options(dir=str(directory / _STORE)), str(file))
    print(f"restored {file}; start it with: bedplated --data-dir {data_dir}")


def fsck(
    context: typer.Context,
    data_dir: DataDir,
    rebuild: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Salvage what is intact into this new data directory. Best effort: acknowledged "
            "writes may be missing in it.",
        ),
    ] = None,
) -> None:
    """Check and explain the files of a stopped daemon. Exit 1 when they are damaged."""
    store = data_dir / _STORE
    if not store.is_dir():
        raise CommandError(f"{data_dir} holds no store")
    if rebuild is None:
        report = check_store(str(store))
    else:
        with _new_directory(rebuild) as directory:
            report = check_store(str(store), str(directory / _STORE))
    if settings_of(context).as_json:
        print_json({"sound": report.sound, "report": report.text.splitlines()})
    else:
        sys.stdout.write(report.text)
    several = (data_dir / founding_file.NAME).exists()
    if several and (rebuild is not None or not report.sound):
        note(
            "This directory is a member's. While the others work it is replaced, and neither "
            "restored nor rebuilt: `bedplate cluster remove` it, `bedplate cluster add` its "
            "address, start it with a new directory."
        )
    if not report.sound:
        raise typer.Exit(1)


def recover(data_dir: Path, *, yes: bool) -> None:
    """Make the store of a data directory a cluster of its own. Raises CommandError, StoreError."""
    store = data_dir / _STORE
    if not store.is_dir():
        raise CommandError(f"{data_dir} holds no store")
    if (data_dir / QUARANTINE_FILE).exists():
        why = (data_dir / QUARANTINE_FILE).read_text(encoding="utf-8", errors="replace").strip()
        raise CommandError(
            f"{data_dir} is quarantined: {why}. Take another member's directory; if there is "
            f"none, remove {QUARANTINE_FILE} from it first"
        )
    if not yes:
        raise CommandError(
            "this makes a new cluster of what this one directory holds: writes that only other "
            "members had are lost, and no other member can ever join again without being wiped. "
            "Say --yes when a majority is gone for good"
        )
    recovered = recover_store(Options(dir=str(store)))
    (data_dir / founding_file.NAME).unlink(missing_ok=True)  # who founded the old cluster
    note(
        f"This directory is now cluster {recovered.cluster_id.hex()}, with member "
        f"{recovered.member_id:016x} alone, from revision {recovered.revision} on. What clients "
        "remember of the old cluster, revisions above all, means nothing to it. Wipe the other "
        "members' directories before they are started again, and add them anew. Take cluster.peers "
        "and cluster.join out of its configuration: with them it does not start alone."
    )
    print(f"recovered; start it with: bedplated --data-dir {data_dir}")


def config() -> None:
    """Print every key of bedplated's configuration with its meaning and default, as TOML."""
    sys.stdout.write(reference())


@contextlib.contextmanager
def _new_directory(path: Path) -> Iterator[Path]:
    """A directory to work in, mode 0700, that takes the name `path` when the work is done, and is
    gone when it fails. Raises CommandError, OSError.
    """
    if path.exists() and any(path.iterdir()):
        raise CommandError(f"{path} is not empty; name a new directory")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield partial
        partial.rename(path)
        _sync_directory(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
