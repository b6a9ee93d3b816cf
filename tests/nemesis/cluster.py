"""Real bedplated processes as one cluster: started, killed, paused, given faults.

Members are numbered from 1 and never reuse a number, as a directory never changes its member.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import grpc.aio

from bedplate.api.admin.v1 import admin_pb2
from bedplate.api.admin.v1.admin_pb2_grpc import AdminServiceStub
from tests.integration.daemon import PATIENCE_S, Daemon, eventually
from tests.nemesis.clients import Members
from tests.nemesis.network import Network

# So small that segments fill up, checkpoints are written and snapshots are needed in a short run.
SETTINGS = (
    "log.segment_size=8MiB",
    "checkpoint.log_bytes=2MiB",
    "clean.disk_reserve=8MiB",
    "raft.retain_bytes=512KiB",
    "history.versions_max=5000",
    "history.bytes_max=16MiB",
    "telemetry.log_format=json",
)
ASK_TIMEOUT_S = 1.0
ASK_PATIENCE_S = 15.0  # for a removed member to learn of it


class MemberDaemon(Daemon):
    """A bedplated with a configuration file, run as the network wants."""

    def __init__(self, directory: Path, number: int, network: Network, settings: list[str]) -> None:
        directory.mkdir(mode=0o700)
        super().__init__(directory)
        self._file = directory / "bedplated.toml"
        self._file.write_text(_toml(settings), encoding="utf-8")
        executable, module = self._command[0], self._command[1:3]
        self._plain = [executable, *module, "--config", str(self._file)]
        self._plain += ["--set", f"server.address_file={self._address_file}"]
        self._network = network
        self._number = number
        self._basic = self._environment

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def run(self, environment: Mapping[str, str]) -> None:
        """Start and wait until it serves, or has ended."""
        self._command = self._network.command(self._number, self._plain)
        self._environment = {**self._basic, **environment}
        self.launch()
        eventually(lambda: self._address_file.exists() or not self.running)
        if self.running:
            record = self.wait_for("serving")
            self.grpc, self.http = record["grpc"], record["http"]

    def reap(self) -> None:
        """It was killed, or ended by itself."""
        self.wait()


@dataclass(slots=True)
class Member:
    """One member, and what is wrong with it now."""

    number: int
    daemon: MemberDaemon
    known_as: str  # address
    paused: bool = False
    failpoints: dict[str, str] = field(default_factory=dict)
    clock: Path | None = None  # the file that libfaketime reads
    starts: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        return self.daemon.running


class Cluster:
    """Some members, in the running loop. `clients` always knows where they answer."""

    def __init__(self, directory: Path, network: Network, rng: random.Random) -> None:
        self._directory = directory
        self._rng = rng
        self.network = network
        self.members: dict[int, Member] = {}
        self.gone: list[Member] = []
        self.clients = Members(network.credentials)
        self.leaders: dict[int, int] = {}  # by term, as far as anybody looked
        self.contradictions: list[str] = []
        self._numbers = 0

    # ---- life ------------------------------------------------------------------------------------

    async def found(self, count: int, clock: bool) -> None:
        """Start the first members; with `clock`, the last one's clock can be turned."""
        drafts = [await self._draft() for _ in range(count)]
        peers = [known_as for _, _, known_as, _ in drafts]
        for number, listen, known_as, extra in drafts:
            shared = [f"cluster.peers={','.join(peers)}"] if count > 1 else []
            member = self._make(number, listen, known_as, [*extra, *shared], single=count == 1)
            if clock and number == count:
                member.clock = self._directory / f"clock{number}"
                self.turn_clock(member, 0)
        await asyncio.gather(*(self.start(member) for member in self.members.values()))
        await self.leader(PATIENCE_S)

    async def start(self, member: Member) -> bool:
        """Start its process, with its failpoints; False: it ended at once."""
        assert not member.running
        member.starts += 1
        environment = {
            f"BEDPLATE_FAILPOINTS__{site.replace('.', '_').upper()}": fault
            for site, fault in member.failpoints.items()
        }
        if member.clock is not None:
            environment |= clock_environment(member.clock)
        await asyncio.to_thread(member.daemon.run, environment)
        if not member.running:
            await asyncio.to_thread(member.daemon.reap)
            return False
        self.clients.set(member.number, member.daemon.grpc)
        return True

    async def kill(self, *members: Member) -> None:
        """SIGKILL, all at the same moment."""
        for member in members:
            member.daemon.signal(signal.SIGKILL)
            member.paused = False
        for member in members:
            await asyncio.to_thread(member.daemon.reap)
            assert member.daemon.process.returncode == -signal.SIGKILL, member.daemon.output

    def pause(self, member: Member) -> None:
        """SIGSTOP, and it has stopped."""
        member.daemon.signal(signal.SIGSTOP)
        member.paused = True
        eventually(lambda: _state(member.daemon.process.pid) == "T")

    def resume(self, member: Member) -> None:
        member.daemon.signal(signal.SIGCONT)
        member.paused = False

    def turn_clock(self, member: Member, seconds: float) -> None:
        """Set the member's wall clock that far from the machine's."""
        assert member.clock is not None
        aside = member.clock.with_suffix(".new")
        aside.write_text(f"{seconds:+f}\n", encoding="ascii")
        aside.rename(member.clock)

    async def repair(self) -> None:
        """End every fault: all lines open, all members running, none with failpoints."""
        await self.network.heal()
        for member in list(self.members.values()):
            if member.paused:
                self.resume(member)
            if member.clock is not None:
                self.turn_clock(member, 0)
            if member.running and member.failpoints:
                await self.kill(member)
            member.failpoints = {}
            if not member.running:
                assert await self.start(member), member.daemon.output

    async def close(self) -> list[str]:
        """Stop everything; complaints about members that did not stop well."""
        complaints = []
        for member in self.members.values():
            if member.paused:
                self.resume(member)
            if member.running:
                code = await asyncio.to_thread(member.daemon.stop)
                if code != 0:
                    complaints.append(f"member {member.number} stopped with {code}")
        for member in self.gone:
            if not await self._ended(member):
                complaints.append(f"member {member.number} was removed and runs on")
                await self.kill(member)
        await self.clients.close()
        await self.network.close()
        return complaints

    async def _ended(self, member: Member) -> bool:
        """Whether a removed member has stopped by itself."""
        if not member.running:
            return True
        try:
            await asyncio.to_thread(member.daemon.process.wait, ASK_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    # ---- looking at it ---------------------------------------------------------------------------

    @property
    def pids(self) -> dict[int, int]:
        """Process ids, and whose they are."""
        everybody = [*self.members.values(), *self.gone]
        return {m.daemon.process.pid: m.number for m in everybody if m.running}

    async def status(self, member: Member) -> admin_pb2.GetStatusResponse | None:
        """None when it does not answer."""
        if not member.running or member.paused or not member.daemon.grpc:
            return None
        stub: Any = AdminServiceStub(self.clients.channel(member.number))
        try:
            request = admin_pb2.GetStatusRequest()
            reply: admin_pb2.GetStatusResponse = await stub.GetStatus(
                request, timeout=ASK_TIMEOUT_S
            )
        except grpc.aio.AioRpcError:
            return None
        if reply.role == admin_pb2.MEMBER_ROLE_LEADER:
            known = self.leaders.setdefault(reply.log.term, member.number)
            if known != member.number:
                self.contradictions.append(
                    f"members {known} and {member.number} both lead term {reply.log.term}"
                )
        return reply

    async def failpoint_hits(self, member: Member) -> int:
        """Faults injected since its process started; one at least if it died of them."""
        if not member.running:
            return 1
        try:
            hits = await asyncio.to_thread(member.daemon.metric, "bedplate_failpoint_hits_total")
        except (OSError, AssertionError):
            return 0  # it ends just now, or its store is closed, to be replaced by a snapshot
        return int(hits)

    async def clock_of(self, member: Member) -> float:
        """The wall clock as the member sees it, in seconds."""
        return await asyncio.to_thread(_date, f"http://{member.daemon.http}/metrics")

    async def leader(self, patience_s: float) -> Member:
        """The leader of the newest term that anybody knows of."""
        deadline = time.monotonic() + patience_s
        while True:
            best: tuple[int, Member] | None = None
            for member in self.members.values():
                reply = await self.status(member)
                if reply is None or reply.role != admin_pb2.MEMBER_ROLE_LEADER:
                    continue
                if best is None or reply.log.term > best[0]:
                    best = (reply.log.term, member)
            if best is not None:
                return best[1]
            assert time.monotonic() < deadline, f"no leader:\n{self.last_words()}"
            await asyncio.sleep(0.05)

    async def some(self) -> Member:
        """A member, or the leader, that runs."""
        running = [member for member in self.members.values() if member.running]
        if self._rng.random() < 0.4:
            return await self.leader(PATIENCE_S)
        return self._rng.choice(running)

    async def follower(self) -> Member:
        """A member that does not lead."""
        leader = await self.leader(PATIENCE_S)
        others = [member for member in self.members.values() if member is not leader]
        return self._rng.choice(others or [leader])

    @property
    def snapshots_installed(self) -> int:
        """By members that are still known."""
        return sum(
            record.get("event") == "snapshot_installed"
            for member in [*self.members.values(), *self.gone]
            for record in member.daemon.records
        )

    def last_words(self) -> str:
        """The last log records of every member."""
        lines = []
        for member in [*self.members.values(), *self.gone]:
            lines.append(f"---- member {member.number}, running: {member.running}")
            lines += member.daemon.output.splitlines()[-15:]
        return "\n".join(lines)

    # ---- membership ------------------------------------------------------------------------------

    async def draft_joiner(self) -> Member:
        """A member with a new directory that will join; its process does not run yet."""
        number, listen, known_as, extra = await self._draft()
        contacts = ",".join(member.known_as for member in self.members.values())
        settings = [*extra, f"cluster.join={contacts}"]
        return self._make(number, listen, known_as, settings, single=False)

    def forget(self, member: Member) -> None:
        """It was removed: clients do not ask it any more; its process is for `gone` to end."""
        del self.members[member.number]
        self.gone.append(member)
        self.clients.set(member.number, "")

    async def _draft(self) -> tuple[int, str, str, tuple[str, ...]]:
        self._numbers += 1
        listen, known_as, extra = await self.network.add(self._numbers)
        return self._numbers, listen, known_as, extra

    def _make(
        self, number: int, listen: str, known_as: str, settings: list[str], *, single: bool
    ) -> Member:
        directory = self._directory / f"member{number}"
        own = [f"server.data_dir={directory / 'data'}", f"server.grpc={listen}"]
        own += ["server.http=127.0.0.1:0", *SETTINGS]
        if not single:
            own += ["cluster.name=nemesis", f"cluster.advertise={known_as}"]
        daemon = MemberDaemon(directory, number, self.network, [*own, *settings])
        member = Member(number, daemon, known_as)
        self.members[number] = member
        return member


def _state(pid: int) -> str:
    """Of a process: R, S, T (stopped) ..."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]


def _date(url: str) -> float:
    """What a server says that time is."""
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as reply:
        return parsedate_to_datetime(reply.headers["Date"]).timestamp()


def _toml(settings: list[str]) -> str:
    """ "section.key=value" as a file; every value as text, which the daemon reads as it must."""
    sections: dict[str, list[str]] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        section, _, key = name.partition(".")
        sections.setdefault(section, []).append(f'{key} = "{value}"')
    return "\n".join("\n".join([f"[{section}]", *lines, ""]) for section, lines in sections.items())


FAKETIME_LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
)


def faketime_library() -> str | None:
    """libfaketime, if it is installed."""
    return next((path for path in FAKETIME_LIBRARIES if os.path.exists(path)), None)


def clock_environment(file: Path) -> dict[str, str]:
    """A process whose wall clock follows the file. Only that one jumps on real machines, too."""
    return {
        "LD_PRELOAD": faketime_library() or "",
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }
