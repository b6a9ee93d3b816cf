"""TLS of the gRPC port, from PEM files."""

import ssl
from collections.abc import Mapping
from pathlib import Path

import grpc

from bedplate.consensus.peer_channel import Credentials
from bedplate.errors import StartupError
from bedplate.server.config import TLSConfig


def server_credentials(
    config: TLSConfig, member_ca: Path | None = None
) -> grpc.ServerCredentials | None:
    """None without `tls.cert`. With `tls.client_ca` or `member_ca`, clients must show a certificate
    that one of them signed.

    Raises StartupError for files that cannot be read or used, and keys that stand alone.
    """
    if all(path is None for path in (config.cert, config.key, config.client_ca, member_ca)):
        return None
    if config.cert is None or config.key is None:
        missing = "tls.cert" if config.cert is None else "tls.key"
        raise StartupError(f"TLS needs tls.cert and tls.key: {missing} is not set", reason="TLS")
    pair = (_read(config.key, "tls.key"), _read(config.cert, "tls.cert"))
    authorities = b"".join(
        _read(path, key) + b"\n"
        for path, key in ((config.client_ca, "tls.client_ca"), (member_ca, "cluster.ca"))
        if path is not None
    )
    _check(config.cert, config.key, {"tls.client_ca": config.client_ca, "cluster.ca": member_ca})
    return grpc.ssl_server_credentials(
        [pair], root_certificates=authorities or None, require_client_auth=bool(authorities)
    )


def member_credentials(config: TLSConfig, member_ca: Path | None, token: str) -> Credentials:
    """How this daemon shows other members that it is one. Raises StartupError."""
    if member_ca is None:
        return Credentials(token)
    if config.cert is None or config.key is None:
        raise StartupError("cluster.ca needs tls.cert and tls.key", reason="TLS")
    return Credentials(
        token,
        ca=_read(member_ca, "cluster.ca"),
        certificate=_read(config.cert, "tls.cert"),
        key=_read(config.key, "tls.key"),
    )


def _check(cert: Path, key: Path, authorities: Mapping[str, Path | None]) -> None:
    """What gRPC would only say in its own log."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise StartupError(
            f"tls.cert {cert} and tls.key {key} are no certificate and its unencrypted key in PEM: "
            f"{_why(error)}",
            reason="TLS",
        ) from error
    for name, path in authorities.items():
        try:
            if path is not None:
                context.load_verify_locations(path)
        except ssl.SSLError as error:
            raise StartupError(
                f"{name} {path} holds no certificate in PEM: {_why(error)}", reason="TLS"
            ) from error


def _why(error: ssl.SSLError | ValueError) -> str:
    """What OpenSSL calls it, where it has a word for it."""
    if not isinstance(error, ssl.SSLError):
        return str(error)
    return error.reason or "nothing of that kind is in it"


def _no_password() -> str:
    """Instead of a prompt on the terminal."""
    raise ValueError("the key is encrypted")


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartupError(f"cannot read {key} {path}: {error.strerror}", reason="TLS") from error
