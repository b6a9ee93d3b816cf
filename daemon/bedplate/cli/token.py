"""`bedplate token`: bearer tokens for `auth.tokens_file`."""

import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import Annotated

import typer

from bedplate.cli.connection import settings_of
from bedplate.cli.errors import CommandError, NotUnderstood
from bedplate.cli.output import note, print_json
from bedplate.server.auth import TokensError, parse_scopes

app = typer.Typer(name="token", no_args_is_help=True, help="Bearer tokens.")

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,63}")
_MODE = 0o600


@app.callback()
def _group() -> None:
    """Keeps `create` a command of its own."""


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Who it is for; shown in logs.")],
    scope: Annotated[
        list[str],
        typer.Option(help="What it may do, such as kv:read or object:*. May be repeated."),
    ],
    file: Annotated[
        Path | None,
        typer.Option(help="Append the line to this tokens file, made with mode 0600 if need be."),
    ] = None,
) -> None:
    """Make a token. Its secret is printed once and kept nowhere; the tokens file has its hash."""
    if _NAME.fullmatch(name) is None:
        raise NotUnderstood("a name has 1 to 63 letters, digits, dots, dashes, underscores or @")
    scopes = ",".join(scope)
    try:
        parse_scopes("--scope", scopes)
    except TokensError as error:
        raise NotUnderstood(str(error)) from error
    secret = secrets.token_hex(32)
    line = f"{name} {hashlib.sha256(secret.encode()).hexdigest()} {scopes}"
    if file is not None:
        _append(file, line)
    if settings_of(context).as_json:
        print_json({"name": name, "token": secret, "line": line})
        return
    print(secret)
    if file is None:
        note(f"Add this line to the file that auth.tokens_file names, then send SIGHUP:\n{line}")
    else:
        note(f"Added {name} to {file}; bedplated reads it at its start and on SIGHUP.")


def _append(path: Path, line: str) -> None:
    """Add the line, on a line of its own. Raises OSError; CommandError for a file others read."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
    with open(descriptor, "r+b", buffering=0) as file:
        if os.fstat(descriptor).st_mode & 0o077:
            raise CommandError(f"{path} is open to other users: chmod 600 it first")
        size = file.seek(0, os.SEEK_END)
        broken = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        file.write(b"\n" * broken + line.encode() + b"\n")
        os.fsync(descriptor)
