"""Daemons for tests that start very many of them, one after the other."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.nursery import Nursery
from tests.faults.warm_daemon import WarmDaemon

MakeDaemon = Callable[..., WarmDaemon]


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def make(nursery: Nursery, tmp_path: Path) -> Iterator[MakeDaemon]:
    """Make daemons on a directory, this test's unless told otherwise; none outlives the test."""
    with ExitStack() as stack:

        def run(
            *settings: str,
            directory: Path = tmp_path,
            failpoints: Mapping[str, str] | None = None,
        ) -> WarmDaemon:
            daemon = WarmDaemon(nursery, directory, *settings, failpoints=failpoints or {})
            stack.callback(daemon.end)
            return daemon

        yield run
