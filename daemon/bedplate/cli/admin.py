"""`bedplate status`, `compact`, `verify` and `backup`: operating a running daemon."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from bedplate.api.admin.v1 import admin_pb2 as pb
from bedplate.cli.connection import Client, connected, settings_of
from bedplate.cli.errors import CommandError
from bedplate.cli.numbers import UINT64_MAX
from bedplate.cli.output import (
    byte_progress,
    human_bytes,
    message_json,
    note,
    print_json,
    shown,
)
from bedplate.cli.transfer import whole_file
from bedplate.native.store import crc32c


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the main one."""
    for command in (status, compact, verify, backup):
        app.command()(command)


def status(context: typer.Context) -> None:
    """Show how the daemon is doing."""
    with connected(context) as client:
        reply = client.call(client.admin.GetStatus, pb.GetStatusRequest())
    if settings_of(context).as_json:
        print_json(message_json(reply))
        return
    for name, text in _status_lines(reply):
        print(f"{name:12} {text}")


def compact(
    context: typer.Context,
    revision: Annotated[
        int,
        typer.Argument(
            min=0, max=UINT64_MAX, help="The oldest revision to keep readable; 0: the present."
        ),
    ] = 0,
) -> None:
    """Give up history before a revision, so that its space can be reclaimed."""
    with connected(context) as client:
        reply = client.call(client.admin.Compact, pb.CompactRequest(revision=revision))
    if settings_of(context).as_json:
        print_json(message_json(reply))
    else:
        print(f"readable from revision {reply.compaction_revision} on")


def verify(
    context: typer.Context,
    rate: Annotated[
        int,
        typer.Option(min=0, max=UINT64_MAX, help="Bytes to read a second at most; 0: no limit."),
    ] = 0,
) -> None:
    """Check everything stored against its checksums. Exit 1 when something is damaged."""
    as_json = settings_of(context).as_json
    summary = None
    with connected(context) as client, byte_progress("verify", None) as progress:
        request = pb.VerifyRequest(bytes_per_second_max=rate)
        for response in client.stream(client.admin.Verify, request):
            match response.WhichOneof("message"):
                case "finding":
                    _print_finding(response.finding, as_json)
                case "progress":
                    done, total = response.progress.bytes_done, response.progress.bytes_total
                    progress.update(progress.task_ids[0], completed=done, total=total)
                case "summary":
                    summary = response.summary
    if summary is None:
        raise CommandError("the daemon ended without a summary")
    if as_json:
        print_json({"summary": message_json(summary)})
    else:
        checked = human_bytes(summary.bytes_checked)
        print(f"checked {checked} in {summary.duration_ms} ms, {summary.findings} damaged")
    if summary.findings:
        raise typer.Exit(1)


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to; - is stdout.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a consistent snapshot of everything to a file that `bedplate restore` takes.

    Of a cluster: the state of the asked member at the printed revision, with all that was answered
    before. Without a leader it is what that member has, and a warning says so.
    """
    to_stdout = str(file) == "-"
    if not to_stdout and file.exists() and not force:
        raise CommandError(f"{file} exists; --force replaces it")
    with connected(context) as client:
        if to_stdout:
            header, trailer = _receive(client, sys.stdout.buffer.write)
            sys.stdout.buffer.flush()
        else:
            with whole_file(file, mode=0o600) as target:  # it holds everything
                header, trailer = _receive(client, target.write)
    line = f"revision {header.revision}, {human_bytes(trailer.bytes)}"
    if header.may_be_behind:
        note(
            "warning: the asked member has no leader, or cannot follow it: the backup holds what "
            "that member has, and answered writes may be missing"
        )
    if settings_of(context).as_json and not to_stdout:
        print_json(message_json(header) | message_json(trailer))
    elif to_stdout:
        note(line)
    else:
        print(line)


def _receive(
    client: Client, write: Callable[[bytes], object]
) -> tuple[pb.BackupHeader, pb.BackupTrailer]:
    """Hand every byte of a backup on; header and trailer. Raises CommandError if it is cut short
    or was damaged on its way.
    """
    responses = client.stream(client.admin.Backup, pb.BackupRequest())
    header, trailer, crc, size = next(responses).header, None, 0, 0
    with byte_progress("backup", header.bytes_estimate) as progress:
        for response in responses:
            if response.HasField("trailer"):
                trailer = response.trailer
                continue
            write(response.data)
            crc, size = crc32c(response.data, crc), size + len(response.data)
            progress.update(progress.task_ids[0], completed=size)
    if trailer is None or (trailer.bytes, trailer.crc32c) != (size, crc):
        raise CommandError("the backup is not complete; it was discarded")
    return header, trailer


def _status_lines(status: pb.GetStatusResponse) -> list[tuple[str, str]]:
    log, index, recovery, disk = status.log, status.index, status.recovery, status.disk
    served = [service.name for service in status.services if service.served]
    state = "serving"
    if status.poisoned:
        state = "the log is poisoned: a sync failed; no writes until the daemon is restarted"
    elif status.read_only:
        state = "full: reads and deletes go on, writes return when there is room"
    point = "none yet"
    if status.checkpoint.index:
        age_s = status.checkpoint.age_ms / 1000
        point = f"{human_bytes(status.checkpoint.bytes)}, {age_s:.0f} s old"
    return [
        ("state", state),
        ("version", status.version),
        ("since", status.started_time.ToJsonString()),
        ("store", f"{status.store_id}, cluster {status.cluster_id}"),
        ("revision", f"{status.revision}, readable from {status.compaction_revision} on"),
        ("keys", f"{index.keys}, {index.versions} versions"),
        ("memory", f"{human_bytes(index.memory_bytes)} of index"),
        (
            "log",
            f"{human_bytes(log.bytes)} in {log.log_segments} + {log.settled_segments} segments, "
            f"{log.live_share:.0%} live, {log.durability}",
        ),
        ("checkpoint", point),
        (
            "recovery",
            f"{recovery.duration_ms} ms: {recovery.checkpoint_keys} keys of a checkpoint, "
            f"{recovery.entries_replayed} entries replayed, "
            f"{recovery.discarded_tail_bytes} bytes of unfinished writes discarded",
        ),
        ("disk", f"{human_bytes(disk.free_bytes)} free of {human_bytes(disk.total_bytes)}"),
        ("open", f"{status.watches} watches, {status.leases} leases"),
        ("services", " ".join(served)),
        ("extras", _extras(status.missing_extras)),
    ]


def _extras(missing: Sequence[str]) -> str:
    if not missing:
        return "all optional parts are installed"
    return f"not installed: {', '.join(missing)} (pip install 'bedplate[{','.join(missing)}]')"


def _print_finding(finding: pb.Finding, as_json: bool) -> None:
    if as_json:
        print_json({"finding": message_json(finding)})
        return
    key = f", key {shown(finding.key)}" if finding.key else ""
    print(f"{finding.file}, offset {finding.offset}{key}: {finding.message}", flush=True)
