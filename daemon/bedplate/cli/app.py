"""The options before the command, every command, and how a failure ends.

0  done, or nobody reads on    1  failed, and one line on stderr says why    2  not understood
130  interrupted
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import grpc
import typer

from bedplate import __version__
from bedplate.address import parse_address
from bedplate.cli import admin, cluster, demo, kv, lease, objects, offline, token
from bedplate.cli.connection import DEFAULT_SERVER, Settings, TLSFiles, read_token
from bedplate.cli.errors import CommandError, NotUnderstood, describe
from bedplate.errors import BedplateError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="bedplate",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Talk to a running bedplated, work on its files while it is stopped, or see a demo. "
    "Options of the connection stand before the command.",
)
kv.app.add_typer(lease.app)
for group in (kv.app, objects.app, cluster.app, token.app):
    app.add_typer(group)
for module in (admin, offline, demo):
    module.add_commands(app)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        code = app(args=arguments, prog_name="bedplate", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        return _nobody_reads_on()
    except SystemExit as error:  # what typer makes of the same
        if isinstance(error.__context__, BrokenPipeError):
            return _nobody_reads_on()
        raise
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except (grpc.RpcError, BedplateError, CommandError, OSError) as error:
        print(f"bedplate: {describe(error)}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, NotUnderstood) else EXIT_FAILED
    except Exception as error:
        # typer's own errors have no common base that it would export.
        text = getattr(error, "format_message", None)
        if text is None:
            raise
        _print_usage(text(), getattr(error, "ctx", None))
        return EXIT_USAGE


def _nobody_reads_on() -> int:
    """As `head` does it: no failure. What is buffered still goes nowhere, without a complaint."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def _print_usage(text: str, context: typer.Context | None) -> None:
    if "\n" in text:  # no arguments at all: this is the help
        print(text, file=sys.stderr)
        return
    command = context.command_path if context is not None else "bedplate"
    print(f"bedplate: {text} (see {command} --help)", file=sys.stderr)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"bedplate {__version__}")
        raise typer.Exit


@app.callback()
def _connection(
    context: typer.Context,
    server: Annotated[
        str, typer.Option(metavar="HOST:PORT", envvar="BEDPLATECTL_SERVER", help="The daemon.")
    ] = DEFAULT_SERVER,
    token_text: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="BEDPLATECTL_TOKEN",
            help="Bearer token. Other users of this machine see it: prefer --token-file.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", envvar="BEDPLATECTL_TOKEN_FILE", help="File with the bearer token."
        ),
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="TLS, trusting the system's authorities.")
    ] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", help="TLS, trusting the authorities in this PEM file."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="PEM file of our certificate, for mTLS.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="PEM file of its private key.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds a call may take; streams have no limit.")
    ] = 30.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print results as JSON, one object a line.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    if (tls_cert is None) != (tls_key is None):
        raise NotUnderstood("--tls-cert and --tls-key need each other")
    try:
        parse_address(server)
    except ValueError as error:
        raise NotUnderstood(f"--server: {error} (see bedplate --help)") from None
    files = TLSFiles(tls_ca, tls_cert, tls_key)
    context.obj = Settings(
        server=server,
        token=read_token(token_text, token_file),
        tls=files if tls or files != TLSFiles() else None,
        timeout_s=timeout,
        as_json=as_json,
    )
