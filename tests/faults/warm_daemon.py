"""A daemon out of a nursery, with failpoints and a directory that outlives it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.faults.nursery import Nursery
from tests.integration.daemon import PATIENCE_S, Daemon


class WarmDaemon(Daemon):
    """As Daemon; `failpoints` are faults by site, such as {"log.sync": "eio@3"}."""

    def __init__(
        self,
        nursery: Nursery,
        directory: Path,
        *settings: str,
        failpoints: Mapping[str, str],
    ) -> None:
        environment = {
            f"BEDPLATE_FAILPOINTS__{site.replace('.', '_').upper()}": fault
            for site, fault in failpoints.items()
        }
        super().__init__(directory, *settings, environment=environment)
        self._nursery = nursery

    @property
    def store(self) -> Path:
        """The store's directory."""
        return self.data / "store"

    def launch(self) -> WarmDaemon:
        assert self._process is None or self._process.poll() is not None
        self._address_file.unlink(missing_ok=True)
        self._lines.clear()
        self._ended = False
        arguments = self._command[self._command.index("--data-dir") :]
        process: Any = self._nursery.start(arguments, self._environment)
        self._process = process
        self._reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._reader.start()
        return self

    def starts(self) -> bool:
        """Launch; whether it came to serve, or ended before."""
        self.launch()
        try:
            record = self.wait_for("serving")
        except AssertionError:
            assert self.process.wait(PATIENCE_S) is not None
            return False
        self.grpc, self.http = record["grpc"], record["http"]
        return True

    def end(self) -> None:
        """Whatever it does now, it ends."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self.close_channels()
