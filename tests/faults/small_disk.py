"""A small disk of one's own: a tmpfs in a user and mount namespace, and a daemon that runs in
there; no privilege needed.

unshare: mount tmpfs, then wait  <--- nsenter: bedplated on that tmpfs
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.integration.daemon import Daemon

_HOLD = 'mount -t tmpfs -o size=%d,mode=700 none "%s" || exit 1; echo mounted; exec cat'


class SmallDisk:
    """`size` bytes at `path`, seen only by what runs through `command`."""

    def __init__(self, path: Path, size: int) -> None:
        path.mkdir()
        self.path = path
        self._holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _HOLD % (size, path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "mounted\n"

    def command(self, *words: str) -> list[str]:
        """Words that run inside."""
        enter = ["nsenter", f"--target={self._holder.pid}", "--user", "--mount"]
        return [*enter, "--preserve-credentials", *words]

    def close(self) -> None:
        """Nothing may run inside any more."""
        self._holder.communicate(timeout=30)


class DaemonOnDisk(Daemon):
    """As Daemon, with its data on the small disk."""

    def __init__(self, disk: SmallDisk, directory: Path, *settings: str) -> None:
        super().__init__(directory, *settings)
        self._command[self._command.index("--data-dir") + 1] = str(disk.path / "data")
        self._command = disk.command(*self._command)

    def end(self) -> None:
        """Whatever it does now, it ends."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self.close_channels()
