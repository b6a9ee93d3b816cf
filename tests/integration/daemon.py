"""A real bedplated for tests: a process on ephemeral ports, its log records, and its ways to end.

    with Daemon(directory) as daemon:        # started, waited for, stopped, and must have exited 0
        kv = daemon.kv()

Nothing sleeps: what the daemon says on stderr is read by a thread, and tests wait for records.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1.health_pb2_grpc import HealthStub

from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub

PATIENCE_S = 30.0
Record = dict[str, Any]


class Daemon:
    """One bedplated on `directory`/data. `settings` are "section.key=value"."""

    def __init__(
        self,
        directory: Path,
        *settings: str,
        environment: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.data = directory / "data"
        self._address_file = directory / "address.json"
        self._command = [
            *(sys.executable, "-m", "bedplate.server.main"),
            *("--data-dir", str(self.data), "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"),
            *("--set", f"server.address_file={self._address_file}"),
            *(part for setting in settings for part in ("--set", setting)),
            *arguments,
        ]
        self._environment = clean_environment() | dict(environment or {})
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._heard = threading.Condition()
        self._lines: list[str] = []
        self._ended = False
        self._channels: list[grpc.Channel] = []
        self.grpc = ""
        self.http = ""

    def __enter__(self) -> Daemon:
        if self._process is None:
            self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close_channels()
        if self._process is None:
            return
        if self._process.poll() is None:
            code = self.stop()
            assert kind is not None or code == 0, self.output
        else:
            self._join()

    # ---- life ----------------------------------------------------------------------------------

    def start(self) -> Daemon:
        """Start and wait until it serves."""
        self.launch()
        record = self.wait_for("serving")
        self.grpc, self.http = record["grpc"], record["http"]
        return self

    def launch(self) -> Daemon:
        """Start without waiting."""
        assert self._process is None or self._process.poll() is not None
        self._address_file.unlink(missing_ok=True)  # of one that was killed
        self._lines.clear()
        self._ended = False
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        return self

    def recovering(self) -> Daemon:
        """Wait until it says that it recovers, which it does when that takes long."""
        record = self.wait_for("recovering")
        self.grpc, self.http = record["grpc"], record["http"]
        return self

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.process.kill()
        self.wait()
        self.close_channels()

    def wait(self) -> int:
        """Wait for the end; the exit code."""
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"bedplated did not end:\n{self.output}") from None
        self._join()
        return code

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    # ---- what it says --------------------------------------------------------------------------

    @property
    def output(self) -> str:
        with self._heard:
            return "\n".join(self._lines)

    @property
    def records(self) -> list[Record]:
        with self._heard:
            return [json.loads(line) for line in self._lines if line.startswith("{")]

    def wait_for(self, event: str, **fields: object) -> Record:
        """The first record of that event with these fields, as soon as there is one."""
        wanted = {"event": event, **fields}
        deadline = time.monotonic() + PATIENCE_S
        with self._heard:
            while True:
                for line in self._lines:
                    record: Record = json.loads(line) if line.startswith("{") else {}
                    if wanted.items() <= record.items():
                        return record
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    break
                self._heard.wait(left)
        raise AssertionError(f"bedplated never said {wanted}:\n{self.output}")

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with self._heard:
                self._lines.append(line.rstrip("\n"))
                self._heard.notify_all()
        with self._heard:
            self._ended = True
            self._heard.notify_all()

    def _join(self) -> None:
        if self._reader is not None:
            self._reader.join(PATIENCE_S)
        if self.process.stderr is not None:
            self.process.stderr.close()

    # ---- how to reach it -----------------------------------------------------------------------

    def channel(self, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
        """A new connection, closed with the daemon."""
        options = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        )
        if credentials is None:
            channel = grpc.insecure_channel(self.grpc, options)
        else:
            channel = grpc.secure_channel(self.grpc, credentials, options)
        self._channels.append(channel)
        return channel

    def kv(self, credentials: grpc.ChannelCredentials | None = None) -> KVServiceStub:
        return KVServiceStub(self.channel(credentials))

    def health(self) -> Any:
        """A stub of grpc.health.v1.Health."""
        make: Any = HealthStub
        return make(self.channel())

    def close_channels(self) -> None:
        while self._channels:
            self._channels.pop().close()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of an HTTP request."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=PATIENCE_S) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all samples with these labels."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        total, found = 0.0, False
        for line in self.get("/metrics")[1].splitlines():
            head, _, value = line.rpartition(" ")
            metric, _, rest = head.partition("{")
            if metric == name and wanted <= set(rest.rstrip("}").split(",")):
                total, found = total + float(value), True
        assert found, f"no metric {name} {labels}"
        return total


def clean_environment() -> dict[str, str]:
    """This process's, without configuration of a daemon."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BEDPLATE_")}


def run_to_end(directory: Path, *arguments: str) -> tuple[int, str]:
    """Run bedplated until it exits by itself; exit code and stderr."""
    finished = subprocess.run(
        [sys.executable, "-m", "bedplate.server.main", *arguments],
        env=clean_environment() | {"HOME": str(directory)},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert finished.stdout == ""
    return finished.returncode, finished.stderr


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what nobody announces, asking often."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)
