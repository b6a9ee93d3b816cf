"""`bedplate cluster up` and `down`: a whole cluster on this machine, for trying and for tests.

runs already    left alone; when all do, there is nothing to start, and `up` says so
was removed     not started: its cluster has no such member any more
else            started, and waited for
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from bedplate.cli.connection import settings_of
from bedplate.cli.errors import CommandError
from bedplate.cli.local_cluster import LocalNode, choose, claimed, configure, read
from bedplate.cli.output import note, print_json

_READY_S, _STOP_S = 60.0, 60.0
_LOOK_S = 0.05

Running = dict[LocalNode, subprocess.Popen[bytes]]


class NotStarted(CommandError):
    """A daemon that ended, or is not ready in time; its log may say more."""

    def __init__(self, node: LocalNode, what: str) -> None:
        super().__init__(f"{node.name} {what}")
        self.log = node.log


def up(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where everything is kept.")],
    nodes: Annotated[
        int | None,
        typer.Option(min=1, max=9, help="How many daemons: 3, or as many as DIR has."),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option("--detach", help="Leave them running; `bedplate cluster down` ends them."),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Configuration of all of them."),
    ] = None,
) -> None:
    """Run a cluster on this machine until Ctrl-C. Its addresses are in DIR/cluster.toml. Of one
    that runs, start the daemons that do not.
    """
    started = Running()
    try:
        with claimed(directory), _ended_by_failure(started):
            members = _start(directory, nodes, settings or [], started)
            _announce(members, as_json=settings_of(context).as_json)
    except NotStarted as error:
        if error.log.exists():
            raise CommandError(f"{error}; see {error.log}") from error
        raise
    if not detach:
        with _ended_by_failure(started):
            _watch(started)


def down(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="That of `cluster up`.")],
) -> None:
    """Stop a cluster that `up --detach` left running."""
    nodes = read(directory)
    running = {node.name: pid for node in nodes if (pid := node.running())}
    for pid in running.values():  # all at once, so that none takes over what another had
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    for node in nodes:
        while node.running():
            if time.monotonic() > deadline:
                raise CommandError(f"{node.name}, process {node.running()}, does not stop")
            time.sleep(_LOOK_S)
        node.pid_file.unlink(missing_ok=True)
    print(f"stopped {len(running)} daemons")
    for node in nodes:
        if at := node.answering():
            raise CommandError(
                f"something still answers at {at}, the address of {node.name}, and it is no daemon "
                f"that `bedplate cluster up` started in {directory}"
            )


def _start(
    directory: Path, count: int | None, settings: Sequence[str], started: Running
) -> list[LocalNode]:
    """Start what does not run, into `started`, and wait for it; all that run then. Raises
    CommandError, OSError.
    """
    nodes = choose(directory, count)
    running = {node: pid for node in nodes if (pid := node.running())}
    missing = _missing(directory, nodes, running)
    if running and settings:
        first = next(iter(running))
        raise CommandError(
            f"--set is for all of them, and {first.name} runs: `bedplate cluster down {directory}` "
            "first"
        )
    for node in missing:
        if not running or not node.configuration.exists():  # else it has that of the others
            configure(directory, node, nodes, settings)
    for node, pid in running.items():
        note(f"{node.name} runs already, as process {pid}")
    for node in missing:
        started[node] = node.start()
    for node in wait_until_ready(started):
        note(_gone(directory, node))
    return [node for node in nodes if node.running()]


def _missing(
    directory: Path, nodes: Sequence[LocalNode], running: Mapping[LocalNode, int]
) -> list[LocalNode]:
    """Those to start; says which are none any more. Raises CommandError when there are none, or
    another has an address of one.
    """
    missing = [node for node in nodes if node not in running]
    for node in [node for node in missing if node.removed()]:
        missing.remove(node)
        note(_gone(directory, node))
    if not missing and running:
        first, pid = next(iter(running.items()))
        raise CommandError(
            f"the cluster runs already: {first.name} is process {pid}; "
            f"`bedplate cluster down {directory}` ends it"
        )
    if not missing:
        raise CommandError(f"there is nothing to start: no node of {directory} is a member")
    for node in missing:
        if at := node.answering():
            raise CommandError(f"something answers already at {at}, the address of {node.name}")
    return missing


def _gone(directory: Path, node: LocalNode) -> str:
    return (
        f"{node.name} does not run: the cluster has removed it. To have a member there again, run "
        f"`bedplate cluster add {node.name}={node.grpc}`, remove {node.directory / 'data'}, and "
        f"run `bedplate cluster up {directory}`"
    )


def wait_until_ready(running: Mapping[LocalNode, subprocess.Popen[bytes]]) -> list[LocalNode]:
    """Until each of them serves, and knows a leader, except for those that find out that their
    cluster has removed them: these. Raises NotStarted.
    """
    deadline = time.monotonic() + _READY_S
    waiting, removed = dict(running), []
    while waiting:
        for node, process in running.items():
            if node not in waiting:
                continue
            code = process.poll()
            if code is None and time.monotonic() > deadline:
                raise NotStarted(node, "is not ready")
            if code is not None and node.removed():
                removed.append(node)
            elif code is not None:
                raise NotStarted(node, f"ended with code {code}: {node.last_words()}")
            elif not node.is_ready():
                continue
            del waiting[node]
        time.sleep(_LOOK_S)
    return removed


@contextlib.contextmanager
def _ended_by_failure(started: Running) -> Iterator[None]:
    """None of them runs when the block fails; who does not run has no process id."""
    try:
        yield
    except BaseException:
        stop_all(list(started.values()))
        raise
    finally:
        for node in started:
            if not node.running():
                node.pid_file.unlink(missing_ok=True)


def _announce(members: Sequence[LocalNode], *, as_json: bool) -> None:
    if as_json:
        print_json({node.name: {"grpc": node.grpc, "http": node.http} for node in members})
        return
    for node in members:
        print(f"{node.name}  {node.grpc}  http {node.http}  {node.directory}", flush=True)
    if members:
        print(f"try: bedplate --server {members[0].grpc} cluster status", flush=True)


def _watch(started: Running) -> None:
    """Until Ctrl-C or SIGTERM, or until none is left."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    running = dict(started)
    try:
        while running:
            for node, process in started.items():
                if node in running and process.poll() is not None:
                    note(f"{node.name} ended with code {process.returncode}")
                    del running[node]
            time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        note("stopping")
        stop_all(list(running.values()))
    finally:
        signal.signal(signal.SIGTERM, previous)


def stop_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGTERM, then SIGKILL where it must be; none of them runs afterwards."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
