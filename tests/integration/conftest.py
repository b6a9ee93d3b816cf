"""Daemons for tests: one shared by a module's tests, or one of a test's own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub
from tests.integration.daemon import Daemon

MakeDaemon = Callable[..., Daemon]


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the default configuration; tests keep to keys of their own."""
    with Daemon(tmp_path_factory.mktemp("shared")) as daemon:
        yield daemon


@pytest.fixture
def kv(shared_daemon: Daemon) -> KVServiceStub:
    return shared_daemon.kv()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> bytes:
    """A key prefix of this test's own."""
    return f"{request.node.name}/".encode()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[MakeDaemon]:
    """Start daemons on this test's directory; those still running at the end must exit 0."""
    with ExitStack() as stack:

        def run(*settings: str, **options: object) -> Daemon:
            return stack.enter_context(Daemon(tmp_path, *settings, **options))  # type: ignore[arg-type]

        yield run
