"""TLS of the gRPC port, from PEM files."""

import ssl
from pathlib import Path

import grpc

from bedplate.errors import StartupError
from bedplate.server.config import TLSConfig


def server_credentials(config: TLSConfig) -> grpc.ServerCredentials | None:
    """None without `tls.cert`. With `tls.client_ca`, clients must show a certificate it signed.

    Raises StartupError for files that cannot be read or used, and keys that stand alone.
    """
    if config.cert is None and config.key is None and config.client_ca is None:
        return None
    if config.cert is None or config.key is None:
        missing = "tls.cert" if config.cert is None else "tls.key"
        raise StartupError(f"TLS needs tls.cert and tls.key: {missing} is not set", reason="TLS")
    pair = (_read(config.key, "tls.key"), _read(config.cert, "tls.cert"))
    authorities = _read(config.client_ca, "tls.client_ca") if config.client_ca else None
    _check(config.cert, config.key, config.client_ca)
    return grpc.ssl_server_credentials(
        [pair], root_certificates=authorities, require_client_auth=authorities is not None
    )


def _check(cert: Path, key: Path, client_ca: Path | None) -> None:
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
    try:
        if client_ca:
            context.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise StartupError(
            f"tls.client_ca {client_ca} holds no certificate in PEM: {_why(error)}", reason="TLS"
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
