"""Daemons that start in a fifth of the time, for tests that start very many.

    test --(arguments, environment, stderr's descriptor)--> nursery: has imported the daemon
         <------------------ pid, later the exit status ---    fork --> bedplate.server.main.main()

What runs is the daemon's own main function in a process of its own; only the imports were done
before. The nursery has one thread and never touches gRPC, so a fork copies nothing that is in
motion.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_MESSAGE_MAX = 1 << 20
_ROOT = Path(__file__).parents[2]


class Child:
    """A daemon of a nursery, with what tests use of subprocess.Popen."""

    def __init__(self, nursery: Nursery, pid: int, stderr: IO[str]) -> None:
        self._nursery = nursery
        self.pid = pid
        self.stderr = stderr
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, if it has ended; negative: the signal that killed it."""
        return self._look(0.0)

    def wait(self, timeout: float) -> int:
        """Raises subprocess.TimeoutExpired."""
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("bedplated", timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ended a moment ago
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.code_of(self.pid, timeout)
        return self.returncode


class Nursery:
    """The process that forks daemons; used from one thread or several."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.nursery", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
            )
        self._socket = ours
        self._heard = threading.Condition()
        self._pids: list[int] = []
        self._codes: dict[int, int] = {}
        self._starting = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start a daemon with these arguments and this whole environment."""
        read_end, write_end = os.pipe()
        message = json.dumps({"arguments": list(arguments), "environment": dict(environment)})
        with self._starting:
            socket.send_fds(self._socket, [message.encode()], [write_end])
            os.close(write_end)
            with self._heard:
                assert self._heard.wait_for(lambda: self._pids, 30.0), "the nursery does not answer"
                pid = self._pids.pop()
        return Child(self, pid, os.fdopen(read_end, encoding="utf-8", errors="replace"))

    def code_of(self, pid: int, timeout: float) -> int | None:
        """The exit code of a daemon, None if it still runs after `timeout` seconds."""
        with self._heard:
            self._heard.wait_for(lambda: pid in self._codes, timeout)
            return self._codes.get(pid)

    def close(self) -> None:
        """End the nursery; its daemons must have ended before."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(30.0)
        self._socket.close()
        assert self._process.wait(30.0) == 0

    def _read(self) -> None:
        while message := self._socket.recv(_MESSAGE_MAX):
            news: dict[str, Any] = json.loads(message)
            with self._heard:
                if "code" in news:
                    self._codes[news["pid"]] = news["code"]
                else:
                    self._pids.append(news["pid"])
                self._heard.notify_all()


# ---- in the nursery's process --------------------------------------------------------------------


def _run(arguments: list[str], environment: dict[str, str], stderr: int) -> int:
    from bedplate.server.main import main

    os.environ.clear()
    os.environ.update(environment)
    os.dup2(stderr, 2)
    os.close(stderr)
    return main(arguments)


def _fork(connection: socket.socket, selector: selectors.BaseSelector) -> bool:
    message, fds, _, _ = socket.recv_fds(connection, _MESSAGE_MAX, 1)
    if not message:
        return False
    request = json.loads(message)
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            selector.close()
            connection.close()
            code = _run(request["arguments"], request["environment"], fds[0])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(fds[0])
    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
    connection.send(json.dumps({"pid": pid}).encode())
    return True


def _end_all(selector: selectors.BaseSelector) -> None:
    """The test is gone, perhaps killed: its daemons go too."""
    for key in selector.get_map().values():
        if key.data is not None:
            os.kill(key.data, signal.SIGKILL)
            os.waitpid(key.data, 0)


def _serve(connection: socket.socket) -> None:
    import bedplate.server.main  # noqa: F401 - what takes the time

    selector = selectors.DefaultSelector()
    selector.register(connection, selectors.EVENT_READ, None)
    while True:
        for key, _ in selector.select():
            if key.data is None:
                if not _fork(connection, selector):
                    _end_all(selector)
                    return
                continue
            pid, status = os.waitpid(key.data, 0)
            selector.unregister(key.fd)
            os.close(key.fd)
            code = os.waitstatus_to_exitcode(status)
            connection.send(json.dumps({"pid": pid, "code": code}).encode())


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as served:
        _serve(served)
