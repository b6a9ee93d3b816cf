"""bedplated: the command line, signals and exit codes of the daemon.

0  a clean stop    1  a drain that passed its deadline, a second signal, or a crash
2  it could not start, and one line on stderr says why
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import structlog
import uvloop

from bedplate import __version__
from bedplate.errors import BedplateError
from bedplate.server.config import Config, ConfigError, load, reference
from bedplate.server.daemon import Daemon
from bedplate.telemetry import logging

EXIT_CUT_OFF, EXIT_UNUSABLE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon to its end; the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.print_config:
        print(reference(), end="")
        return 0
    os.umask(0o077)
    try:
        config = load(options.config, _flags(options))
        logging.configure(level=config.telemetry.log_level, style=config.telemetry.log_format)
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            return runner.run(_run(config))
    except BedplateError as error:
        print(f"bedplated: {error}", file=sys.stderr)
        return EXIT_UNUSABLE


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop; in debug mode asyncio's own, which alone reports every callback that is slow."""
    debug = sys.flags.dev_mode or os.environ.get("PYTHONASYNCIODEBUG")
    return asyncio.new_event_loop() if debug else uvloop.new_event_loop()


async def _run(config: Config) -> int:
    daemon = Daemon(config)
    _handle_signals(asyncio.get_running_loop(), daemon)
    return await daemon.run()


def _handle_signals(loop: asyncio.AbstractEventLoop, daemon: Daemon) -> None:
    log = structlog.get_logger("bedplate.daemon")
    asked: list[signal.Signals] = []

    def terminate(number: signal.Signals) -> None:
        if asked:
            log.error("stopped_at_once", signal=number.name)
            os._exit(EXIT_CUT_OFF)  # what was answered is on disk; nothing else matters now
        asked.append(number)
        daemon.stop()

    def reload() -> None:
        try:
            daemon.reload_tokens()
        except BedplateError as error:
            log.error("tokens_not_reloaded", error=str(error))
        else:
            log.info("tokens_reloaded")

    loop.add_signal_handler(signal.SIGTERM, terminate, signal.SIGTERM)
    loop.add_signal_handler(signal.SIGINT, terminate, signal.SIGINT)
    loop.add_signal_handler(signal.SIGHUP, reload)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_UNUSABLE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bedplated",
        allow_abbrev=False,
        description="The Bedplate daemon. Flags win over BEDPLATE_<SECTION>__<KEY> in the "
        "environment, and that over the configuration file.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration file, TOML")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="server.data_dir: where everything is kept"
    )
    parser.add_argument("--grpc", metavar="HOST:PORT", help="server.grpc: where services listen")
    parser.add_argument("--http", metavar="HOST:PORT", help="server.http: metrics and readiness")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="set any configuration key; may be repeated",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print every key with its default, and exit"
    )
    parser.add_argument("--version", action="version", version=f"bedplated {__version__}")
    return parser


def _flags(options: argparse.Namespace) -> dict[str, dict[str, str]]:
    flags: dict[str, dict[str, str]] = {}
    for assignment in options.set:
        path, equals, value = assignment.partition("=")
        section, dot, key = path.partition(".")
        if not (equals and dot and section and key):
            raise ConfigError(f"--set {assignment}: expected SECTION.KEY=VALUE")
        flags.setdefault(section, {})[key] = value
    for key in ("data_dir", "grpc", "http"):
        value = getattr(options, key)
        if value is not None:
            flags.setdefault("server", {})[key] = value
    return flags


if __name__ == "__main__":
    sys.exit(main())
