"""Three real bedplated processes as one cluster: what their clients see, and how they end.

with DaemonCluster(tmp_path) as cluster:
    cluster.kv(0).Put(...)
    cluster.leader().kill()
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc

from bedplate.api.cluster.v1 import cluster_pb2 as pb
from bedplate.api.cluster.v1.cluster_pb2_grpc import ClusterServiceStub
from tests.free_ports import free_ports
from tests.integration.daemon import Daemon, clean_environment, eventually

SMALL = ("log.segment_size=8MiB", "clean.disk_reserve=1MiB", "telemetry.log_format=json")


def free_addresses(count: int) -> list[str]:
    """That many, of ports nobody has now."""
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


class ClusterDaemon(Daemon):
    """One member, always on the same address."""

    def __init__(self, directory: Path, address: str, *settings: str) -> None:
        super().__init__(directory, *SMALL, *settings, arguments=("--grpc", address))
        self.address = address
        self.credentials: grpc.ChannelCredentials | None = None  # of channels that name none

    def channel(self, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
        return super().channel(credentials or self.credentials)

    def without_peers(self) -> ClusterDaemon:
        """From its next start on it is configured to be alone."""
        self._command += ["--set", "cluster.peers="]
        return self

    def cluster(self) -> ClusterServiceStub:
        return ClusterServiceStub(self.channel())

    def view(self) -> pb.GetClusterResponse:
        """The cluster as this member sees it."""
        return self.cluster().GetCluster(pb.GetClusterRequest(), timeout=10)

    @property
    def member_id(self) -> int:
        return self.view().member_id


class DaemonCluster:
    """`count` members that found a cluster."""

    def __init__(
        self,
        directory: Path,
        count: int = 3,
        *settings: str,
        started: bool = True,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """`started`: they are when it is entered; else whoever uses it starts them."""
        self._directory = directory
        self._start = started
        self._credentials = credentials
        self._settings = settings
        self._stack = ExitStack()
        addresses = free_addresses(count)
        peers = f"cluster.peers={','.join(addresses) if count > 1 else ''}"
        self.daemons = [self.make(f"n{i}", at, peers) for i, at in enumerate(addresses)]

    def make(self, name: str, address: str, *settings: str) -> ClusterDaemon:
        """A member that is not started; it is stopped with the others."""
        directory = self._directory / name
        directory.mkdir()
        daemon = ClusterDaemon(directory, address, *settings, *self._settings)
        daemon.credentials = self._credentials
        return daemon

    def __enter__(self) -> DaemonCluster:
        with self._stack:  # none is left running where one does not start
            for daemon in self.daemons:
                self._stack.callback(end, daemon)
            if self._start:
                self._launch_all()
            self._stack = self._stack.pop_all()
        return self

    def _launch_all(self) -> None:
        for daemon in self.daemons:
            daemon.launch()
        for daemon in self.daemons:
            started(daemon)
        self.leader()

    def __exit__(self, *failure: Any) -> None:
        self._stack.__exit__(*failure)

    def join(self, daemon: ClusterDaemon) -> ClusterDaemon:
        """Start a member that was added; it is among the daemons from now on."""
        self._stack.callback(end, daemon)
        started(daemon.launch())
        self.daemons.append(daemon)
        return daemon

    @property
    def running(self) -> list[ClusterDaemon]:
        return [d for d in self.daemons if d._process is not None and d.process.poll() is None]

    def leader(self) -> ClusterDaemon:
        """The one whom all that run follow, as soon as there is one."""
        found: list[ClusterDaemon] = []

        def agreed() -> bool:
            try:
                views = [(daemon, daemon.view()) for daemon in self.running]
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:  # one takes a snapshot over
                    return False
                raise
            leaders = {view.leader_id for _, view in views}
            found[:] = [daemon for daemon, view in views if leaders == {view.member_id}]
            return bool(found)

        eventually(agreed)
        return found[0]

    def followers(self) -> list[ClusterDaemon]:
        leader = self.leader()
        return [daemon for daemon in self.running if daemon is not leader]


def started(daemon: Daemon) -> Daemon:
    """Wait until it serves."""
    record = daemon.wait_for("serving")
    daemon.grpc, daemon.http = record["grpc"], record["http"]
    return daemon


def end(daemon: Daemon) -> None:
    """However it is."""
    daemon.close_channels()
    if daemon._process is not None and daemon.process.poll() is None:
        daemon.process.kill()
        daemon.wait()


def bedplate(*arguments: str) -> tuple[int, str, str]:
    """Run the command line: exit code, stdout, stderr."""
    finished = subprocess.run(
        [sys.executable, "-m", "bedplate.cli.main", *arguments],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return finished.returncode, finished.stdout, finished.stderr
