"""structlog over the standard library's logging: one JSON object a line, or pretty on a terminal.

    structlog.get_logger().info("store_open", revision=7)
    logging.getLogger("uvicorn").warning("...")            both end in the same lines, on stderr

The request id of the call under way is bound with `request_id_bound` and stands in every record
made inside it.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.typing import Processor

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(*, level: str, style: str, stream: TextIO | None = None) -> None:
    """Send every record of the process to `stream` (stderr). style: "auto", "json" or "pretty"."""
    output = sys.stderr if stream is None else stream
    pretty = style == "pretty" or (style == "auto" and output.isatty())
    shared: list[Processor] = [
        merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_end(pretty)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])


def _end(pretty: bool) -> list[Processor]:
    if pretty:
        return [structlog.dev.ConsoleRenderer()]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


@contextmanager
def request_id_bound(request_id: str) -> Iterator[None]:
    """Name the request in every record made inside."""
    with bound_contextvars(request_id=request_id):
        yield
