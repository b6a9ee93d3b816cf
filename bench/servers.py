"""The servers measured over the network: each on loopback, free ports, a directory of its own."""

import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.process import BenchError, Journal, accepts, free_port, run_text, server
from bench.setting import OUR_PROGRAMS, Setting, find

Api = Literal["bedplate", "etcd"]
ETCD_QUOTA_BYTES = 8 << 30


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A gRPC server that runs, and where its counters are."""

    name: str
    api: Api
    address: str
    metrics_url: str
    pid: int

    def arguments(self) -> tuple[str, ...]:
        """For the load generator."""
        return ("--address", self.address, "--api", self.api)

    def ok_calls(self, method: str) -> int:
        """Calls of a method that the server itself counted as OK."""
        label = "method" if self.api == "bedplate" else "grpc_method"
        metric = "bedplate_rpcs_total" if self.api == "bedplate" else "grpc_server_handled_total"
        code = "code" if self.api == "bedplate" else "grpc_code"
        pattern = re.compile(rf"^{metric}{{(.*)}} ([\d.e+]+)$", re.MULTILINE)
        total = 0.0
        for labels, value in pattern.findall(self.metrics()):
            if f'{label}="{method}"' in labels and f'{code}="OK"' in labels:
                total += float(value)
        return round(total)

    def metrics(self) -> str:
        """The text of /metrics. Raises BenchError."""
        try:
            with urllib.request.urlopen(self.metrics_url, timeout=10) as reply:
                text: str = reply.read().decode()
                return text
        except OSError as error:
            raise BenchError(f"{self.metrics_url}: {error}") from error


@contextmanager
def bedplated(setting: Setting, name: str = "bedplated") -> Iterator[Endpoint]:
    """The daemon with its defaults."""
    directory = setting.directory(name)
    address_file = directory / "address.json"
    argv = [str(OUR_PROGRAMS / "bedplated"), "--data-dir", str(directory / "data")]
    argv += ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    argv += ["--set", f"server.address_file={address_file}"]
    with server(argv, setting.journal, directory / "log", address_file.exists) as process:
        address = json.loads(address_file.read_text(encoding="utf-8"))
        metrics = f"http://{address['http']}/metrics"
        yield Endpoint("Bedplate", "bedplate", address["grpc"], metrics, process.pid)


@contextmanager
def etcd(setting: Setting, program: str, name: str) -> Iterator[Endpoint]:
    """One member, durable as it comes, with room enough for the data."""
    directory = setting.directory(name)
    client, peer = free_port(), free_port()
    client_url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    argv = [program, "--data-dir", str(directory / "data"), "--log-level", "error"]
    argv += ["--listen-client-urls", client_url, "--advertise-client-urls", client_url]
    argv += ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url]
    argv += [
        "--initial-cluster",
        f"default={peer_url}",
        f"--quota-backend-bytes={ETCD_QUOTA_BYTES}",
    ]
    with server(argv, setting.journal, directory / "log", lambda: _healthy(client_url)) as process:
        yield Endpoint(name, "etcd", f"127.0.0.1:{client}", f"{client_url}/metrics", process.pid)


@contextmanager
def redis(setting: Setting) -> Iterator[int]:
    """Redis that syncs its log before it answers; its port."""
    directory = setting.directory("redis")
    port = free_port()
    argv = [
        find("redis-server"),
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--dir",
        str(directory),
    ]
    argv += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    with server(argv, setting.journal, directory / "log", lambda: accepts(port)):
        yield port


def etcd_programs() -> dict[str, str]:
    """Every etcd there is, by a name with its version: the system's, and etcd-vX.Y.Z on PATH, as
    `make tools-etcd` builds it. Raises BenchError when there is none.
    """
    directories = [Path(directory) for directory in os.environ.get("PATH", "").split(os.pathsep)]
    candidates = [str(path) for directory in directories for path in directory.glob("etcd-v*")]
    try:
        candidates.insert(0, find("etcd"))
    except BenchError:
        if not candidates:
            raise
    return {f"etcd-{etcd_version(program)}": program for program in candidates}


def etcd_version(program: str) -> str:
    """Such as "3.6.16"."""
    text = run_text([program, "--version"], Journal(Path("/")))
    match = re.search(r"etcd Version: (\S+)", text)
    return match[1] if match else "unknown"


def redis_version() -> str:
    """Such as "Redis server v=7.0.15"."""
    text = subprocess.run(
        [find("redis-server"), "--version"], capture_output=True, text=True, check=False
    ).stdout
    return " ".join(text.split()[:3])


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1) as reply:
            return b"true" in reply.read()
    except (urllib.error.URLError, OSError):
        return False
