"""A bedplated of the demo's own: a child on free ports, with its ways to start and to end."""

import asyncio
import json
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path

from bedplate.cli.errors import CommandError

_START_S, _STOP_S = 120.0, 30.0
_KEPT_LINES = 20


class DemoDaemon:
    """`bedplated` on `directory`. One process at a time; `kill`, and `start` again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self.address = ""

    async def start(self) -> float:
        """Start and wait until it serves; the seconds that took. Raises CommandError."""
        begun = time.monotonic()
        # The user's own configuration is for the user's own daemon.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("BEDPLATE_")}
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bedplate.server.main"),
            *("--data-dir", str(self.directory)),
            *("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"),
            *("--set", "telemetry.log_format=json"),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        serving = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(self._process, serving))
        try:
            async with asyncio.timeout(_START_S):
                self.address = await serving
        except TimeoutError:
            raise CommandError(f"bedplated did not start in {_START_S:.0f} s") from None
        return time.monotonic() - begun

    def kill(self) -> None:
        """SIGKILL, at once; `ended` waits for what is left of it."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def ended(self) -> int:
        """Wait for the process to be gone; its exit code."""
        if self._process is None:
            return 0
        code = await self._process.wait()
        if self._reader is not None:
            await self._reader
        return code

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL if it must be; nothing runs afterwards."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_S)
            except TimeoutError:
                self._process.kill()
        await self.ended()

    async def _read(
        self, process: asyncio.subprocess.Process, serving: "asyncio.Future[str]"
    ) -> None:
        assert process.stderr is not None
        async for raw in process.stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            self._said.append(line)
            address = _serving_at(line)
            if address and not serving.done():
                serving.set_result(address)
        if not serving.done():
            serving.set_exception(
                CommandError("\n".join(("bedplated did not start:", *self._said)))
            )


def _serving_at(line: str) -> str:
    """The address in the record that says the daemon serves; "" in every other line."""
    try:
        record = json.loads(line)
    except ValueError:
        return ""
    if not isinstance(record, dict) or record.get("event") != "serving":
        return ""
    return str(record["grpc"])
