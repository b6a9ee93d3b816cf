"""What `bedplate cluster up` keeps in its directory, and the daemons that live there.

DIR/cluster.toml        names, ports          chosen once, used again
DIR/cluster.token       the members' token
DIR/<node>/bedplated.toml  data/  log  pid
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bedplate.cli.errors import CommandError

_COUNT: Final = 3  # of a cluster for which no other number is asked
_TAIL_BYTES: Final = 64 << 10
_STARTED: Final = b'{"event": "started_by_cluster_up"}\n'  # before what a daemon says itself


@dataclass(frozen=True, slots=True)
class LocalNode:
    """One daemon of a local cluster. Addresses are HOST:PORT."""

    name: str
    directory: Path
    grpc: str
    http: str

    @property
    def pid_file(self) -> Path:
        return self.directory / "pid"

    @property
    def configuration(self) -> Path:
        return self.directory / "bedplated.toml"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def start(self) -> subprocess.Popen[bytes]:
        """Run its daemon; what it says goes to `log`, its process id to `pid`."""
        # The user's own configuration is for the user's own daemon.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("BEDPLATE_")}
        with open(self.log, "ab") as log:
            log.write(_STARTED)
            log.flush()
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "bedplate.server.main"),
                    *("--config", str(self.configuration)),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we stop them in our own time
            )
        self.pid_file.write_text(f"{process.pid}\n", encoding="ascii")
        return process

    def running(self) -> int:
        """The process id of its daemon; 0 when it does not run."""
        try:
            pid = int(self.pid_file.read_text(encoding="ascii"))
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return 0
        # A later process may have got its number.
        return pid if os.fsencode(self.configuration) in command else 0

    def answering(self) -> str:
        """An address of it where something answers, whatever it is; "" if nothing does."""
        for address in (self.grpc, self.http):
            host, _, port = address.rpartition(":")
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
            except OSError:
                continue
            return address
        return ""

    def is_ready(self) -> bool:
        """Whether it serves, and knows a leader."""
        try:
            with urllib.request.urlopen(f"http://{self.http}/readyz", timeout=1) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def removed(self) -> bool:
        """Whether its daemon was told that its cluster has removed it, which is for ever: until it
        has another data directory. One that was not told yet finds out when it is started.
        """
        told = any("member_stops" in line and "REMOVED" in line for line in self._said())
        return told and has_store(self.directory)

    def last_words(self) -> str:
        """The last line that its daemon said, which tells why it ended; "" without one."""
        lines = [line for line in self._said() if line.strip()]
        return lines[-1].strip().removeprefix("bedplated: ") if lines else ""

    def _said(self) -> list[str]:
        """What its last daemon said, the end of it."""
        try:
            with open(self.log, "rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                tail = log.read()
        except OSError:
            return []
        return tail.rpartition(_STARTED)[2].decode(errors="replace").splitlines()


def has_store(directory: Path) -> bool:
    """Whether the data directory of a node, or of any, holds what a daemon stored."""
    return any(directory.glob("data/store/*")) or any(directory.glob("*/data/store/*"))


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """DIR for one `up` at a time: two would start the same daemons. It is made if need be, and then
    gone again when the block fails before anything was stored. Raises CommandError, OSError.
    """
    made = not directory.exists()
    if made:
        directory.mkdir(mode=0o700, parents=True)
    claim = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(claim, directory)
        try:
            yield
        except BaseException:
            if made and not has_store(directory):
                shutil.rmtree(directory, ignore_errors=True)
            raise
    finally:
        os.close(claim)


def _lock(claim: int, directory: Path) -> None:
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CommandError(
            f"another `bedplate cluster up` starts daemons in {directory}"
        ) from error


def prepare(directory: Path, count: int | None, settings: Sequence[str]) -> list[LocalNode]:
    """The nodes of DIR, made if need be, and all configured. Raises CommandError, OSError."""
    nodes = choose(directory, count)
    for node in nodes:
        configure(directory, node, nodes, settings)
    return nodes


def choose(directory: Path, count: int | None) -> list[LocalNode]:
    """The nodes as DIR/cluster.toml has them, which is made if need be; `count`: how many there
    shall be, None: as many as there are. Raises CommandError, OSError.
    """
    if not (directory / "cluster.toml").exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _choose(directory, _COUNT if count is None else count)
    nodes = read(directory)
    if count not in (None, len(nodes)):
        raise CommandError(
            f"{directory.absolute()} holds a cluster of {len(nodes)}: use --nodes {len(nodes)}, or "
            "leave it out"
        )
    return nodes


def _choose(directory: Path, count: int) -> None:
    """Free ports, all held until the last is found, and a token."""
    sockets = [socket.socket() for _ in range(2 * count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
    lines = [f'name = "local-{secrets.token_hex(4)}"', ""]
    for i in range(count):
        lines += [
            f"[nodes.n{i + 1}]",
            f'grpc = "127.0.0.1:{ports[2 * i]}"',
            f'http = "127.0.0.1:{ports[2 * i + 1]}"',
            "",
        ]
    token = os.open(directory / "cluster.token", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(token, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32) + "\n")
    (directory / "cluster.toml").write_text("\n".join(lines), encoding="utf-8")


def read(directory: Path) -> list[LocalNode]:
    """Raises CommandError for a directory without a cluster."""
    directory = directory.absolute()
    try:
        content = tomllib.loads((directory / "cluster.toml").read_text(encoding="utf-8"))
        return [
            LocalNode(name, directory / name, node["grpc"], node["http"])
            for name, node in content["nodes"].items()
        ]
    except (FileNotFoundError, tomllib.TOMLDecodeError, KeyError) as error:
        raise CommandError(f"{directory} holds no cluster of `bedplate cluster up`") from error


def configure(
    directory: Path, node: LocalNode, nodes: Sequence[LocalNode], settings: Sequence[str]
) -> None:
    """Write the configuration of one of the nodes. Raises CommandError, OSError."""
    text = _configuration(directory.absolute(), node, nodes, settings)
    node.directory.mkdir(mode=0o700, exist_ok=True)
    node.configuration.write_text(text, encoding="utf-8")


def _configuration(
    directory: Path, node: LocalNode, nodes: Sequence[LocalNode], settings: Sequence[str]
) -> str:
    name = tomllib.loads((directory / "cluster.toml").read_text(encoding="utf-8"))["name"]
    sections: dict[str, dict[str, str]] = {
        "server": {
            "data_dir": _quoted(str(node.directory / "data")),
            "grpc": _quoted(node.grpc),
            "http": _quoted(node.http),
        },
        "telemetry": {"log_format": '"json"'},
        "cluster": {
            "name": _quoted(name),
            "member_name": _quoted(node.name),
            "peers": f"[{', '.join(_quoted(other.grpc) for other in nodes)}]",
            "token_file": _quoted(str(directory / "cluster.token")),
        },
    }
    for setting in settings:
        path, equals, value = setting.partition("=")
        section, dot, key = path.partition(".")
        if not (equals and dot and section and key):
            raise CommandError(f"--set {setting}: expected SECTION.KEY=VALUE")
        sections.setdefault(section, {})[key] = _quoted(value)
    return "\n".join(
        line
        for section, keys in sections.items()
        for line in (f"[{section}]", *(f"{key} = {value}" for key, value in keys.items()), "")
    )


def _quoted(text: str) -> str:
    """As a TOML string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
