"""Certificates for members and clients that meet beyond loopback: one authority, made for a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import grpc

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Certificates:
    """PEM files below a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        self._directory = directory
        self._make("authority", "-subj", "/CN=nemesis")

    def member(self, number: int, host: str) -> tuple[str, ...]:
        """Settings of a member."""
        name = f"member{number}"
        self._sign(name, f"IP:{host}")
        return (
            f"tls.cert={self._path(name, 'crt')}",
            f"tls.key={self._path(name, 'key')}",
            f"cluster.ca={self._path('authority', 'crt')}",
            "auth.allow_anonymous=true",
        )

    def client(self) -> grpc.ChannelCredentials:
        self._sign("client", "DNS:client")
        parts = (("authority", "crt"), ("client", "key"), ("client", "crt"))
        return grpc.ssl_channel_credentials(
            *(self._path(name, kind).read_bytes() for name, kind in parts)
        )

    def _path(self, name: str, kind: str) -> Path:
        return self._directory / f"{name}.{kind}"

    def _sign(self, name: str, alternative: str) -> None:
        self._make(
            name,
            *("-CA", "authority.crt", "-CAkey", "authority.key", "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName={alternative}"),
        )

    def _make(self, name: str, *options: str) -> None:
        files = ("-keyout", f"{name}.key", "-out", f"{name}.crt")
        subprocess.run(
            ["openssl", "req", "-x509", *_KEY, *files, "-days", "2", *options],
            cwd=self._directory,
            check=True,
            capture_output=True,
        )
