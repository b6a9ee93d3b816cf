"""The HTTP face: /metrics, /healthz and /readyz. None of them needs a token.

/healthz   200 while the process runs its loop
/readyz    200 "ready", or 503 and why: recovering, waiting for .., log poisoned, disk full, ..
/metrics   Prometheus text
"""

import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bedplate.server.health import Readiness

_CONNECTIONS_MAX = 256


def http_app(
    registry: CollectorRegistry, readiness: Callable[[], Readiness], waiting: Callable[[], str]
) -> Starlette:
    """Both are asked anew for every /readyz. `waiting`: what a recovery waits for, or ""."""

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        state = readiness()
        why = (state is Readiness.RECOVERING and waiting()) or state.value
        return PlainTextResponse(f"{why}\n", 200 if state is Readiness.READY else 503)

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ]
    )


class HTTPServer(uvicorn.Server):
    """uvicorn on a socket that is already bound, leaving signals to the daemon."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                server_header=False,
                limit_concurrency=_CONNECTIONS_MAX,
                timeout_graceful_shutdown=1,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def run_on(self, listening: socket.socket) -> None:
        """Serve until `stop`."""
        await self.serve(sockets=[listening])

    def stop(self) -> None:
        self.should_exit = True
