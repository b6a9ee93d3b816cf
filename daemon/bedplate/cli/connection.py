"""The way to a daemon: address, token and TLS as options give them, and the stubs behind them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
import typer

from bedplate.api.admin.v1.admin_pb2_grpc import AdminServiceStub
from bedplate.api.cluster.v1.cluster_pb2_grpc import ClusterServiceStub
from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub
from bedplate.cli.errors import CommandError, NotUnderstood

DEFAULT_SERVER = "localhost:7420"
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """PEM files. Without `ca`, the authorities that the system trusts."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The options that stand before the command."""

    server: str = DEFAULT_SERVER
    token: str = ""
    tls: TLSFiles | None = None
    timeout_s: float = 30.0
    as_json: bool = False


def settings_of(context: typer.Context) -> Settings:
    """What the main command has read."""
    return cast(Settings, context.obj)


class Client:
    """One connection and what is called through it."""

    def __init__(self, channel: grpc.Channel, token: str, timeout_s: float) -> None:
        self.kv = KVServiceStub(channel)
        self.objects = ObjectServiceStub(channel)
        self.admin = AdminServiceStub(channel)
        self.cluster = ClusterServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._timeout_s = timeout_s

    def call(self, method: Callable[..., A], request: object) -> A:
        """One request, one answer, within the timeout. Raises grpc.RpcError."""
        return method(request, timeout=self._timeout_s, metadata=self._metadata)

    def stream(self, method: Callable[..., A], request: object) -> A:
        """A call that streams; it takes the time it takes. Raises grpc.RpcError."""
        return method(request, metadata=self._metadata)


@contextmanager
def connected(context: typer.Context) -> Iterator[Client]:
    """A client of the daemon that the options name. Nothing is sent before the first call."""
    settings = settings_of(context)
    options = (("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0))
    if settings.tls is None:
        channel = grpc.insecure_channel(settings.server, options)
    else:
        channel = grpc.secure_channel(settings.server, _credentials(settings.tls), options)
    with channel:
        yield Client(channel, settings.token, settings.timeout_s)


def read_token(token: str | None, file: Path | None) -> str:
    """The bearer token of the options. Raises CommandError, OSError."""
    if token and file:
        raise NotUnderstood("--token and --token-file exclude each other")
    text = file.read_text(encoding="ascii", errors="replace") if file else (token or "")
    text = text.strip()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise CommandError("the token holds characters that no token has")
    return text


def _credentials(tls: TLSFiles) -> grpc.ChannelCredentials:
    parts: Any = [path.read_bytes() if path else None for path in (tls.ca, tls.key, tls.cert)]
    return grpc.ssl_channel_credentials(*parts)
