"""The daemon's life: take the ports, recover, serve, drain.

    bind ports --> make data_dir --> answer (NOT_SERVING) --> recover --> SERVING
                                                                             | SIGTERM
    exit 0 <-- close the store <-- part <-- calls finish, within drain_timeout <-- readiness off
                                                             streams end, new calls are refused

Nothing is made on disk before both ports are bound, and the address file only when the daemon
serves. A StartupError or StoreError out of `run` is a failed start; the store's files are as they
were.
"""

import asyncio
import os
from collections.abc import Awaitable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import grpc.aio
import structlog
from prometheus_client import CollectorRegistry, ProcessCollector

from bedplate.address import Address
from bedplate.consensus import peer_channel, peer_service
from bedplate.consensus.cluster import Cluster
from bedplate.consensus.config import check_peers, peers_refused, read_token
from bedplate.consensus.origin import Place
from bedplate.consensus.raft_store import RaftStore
from bedplate.consensus.store_options import store_options
from bedplate.errors import BedplateError, Code, StartupError
from bedplate.native.errors import StoreError, closed
from bedplate.native.guard import Guard
from bedplate.server import app, auth, listen, reflection
from bedplate.server.address_file import address_file
from bedplate.server.config import Config, failpoint_spec
from bedplate.server.connections import Parting, hang_up
from bedplate.server.guarded_call import Gate
from bedplate.server.health import Health, Readiness
from bedplate.server.http import HTTPServer, http_app
from bedplate.server.interceptors import GuardInterceptor
from bedplate.server.monitor import Monitor
from bedplate.server.open_calls import OpenCalls
from bedplate.server.tls import member_credentials, server_credentials
from bedplate.storage.budget import budgets
from bedplate.storage.engine import Engine
from bedplate.storage.options import engine_options
from bedplate.telemetry.call_metrics import CallCollector
from bedplate.telemetry.store_metrics import StoreCollector

# What is larger fails in gRPC itself, without a reason of ours; so it is far above any limit.
_MESSAGE_BYTES_MAX = 16 << 20
_RECOVERING_NOTICE_S = 1.0
_WINDOW_BYTES = 256 << 10  # of a stream, that gRPC receives ahead of us
_LAST_CALLS_S = 3.0
_QUIET_S, _REFUSALS_S = 0.1, 0.5
_PARTING_S = 2.0
_CLOSE_TIMEOUT_S = 10.0
T = TypeVar("T")


class Daemon:
    """One run of bedplated. `stop` may be called from signal handlers of its loop."""

    def __init__(self, config: Config) -> None:
        """Raises StartupError for tokens, certificates or addresses that cannot be used."""
        self._config = config
        self._log = structlog.get_logger("bedplate.daemon")
        self._stopping = asyncio.Event()
        self._directory = config.server.data_dir.absolute()
        spec = failpoint_spec(config.failpoints)
        self._failpoints = spec
        self.engine = Engine(engine_options(config, self._directory / "store", spec))
        shares = budgets(config.limits.stream_bytes_max, config.limits.stall_seconds_max)
        self.cluster = self._make_cluster()
        context = app.Context(config, self.engine, self.cluster, shares, app.Services())
        self.services = app.build(context)
        self._health = Health(module.name for module in self.services.modules)
        self._monitor = Monitor(self.engine, self._health, self.cluster)
        self._guard = self._make_guard()
        self._calls = OpenCalls(config.limits.calls_max)
        self._port = 0
        self.reload_tokens()
        self._credentials = server_credentials(config.tls, config.cluster.ca)
        self._failure: BedplateError | None = None

    def stop(self) -> None:
        """Begin to drain."""
        self._stopping.set()

    def reload_tokens(self) -> None:
        """Read auth.tokens_file again: it decides over every later call, and ends the open streams
        that it would not let in. Raises StartupError, and then everything stays as it was.
        """
        path = self._config.auth.tokens_file
        tokens = auth.read_tokens(path) if path else ()
        if tokens:
            tokens = (*tokens, *auth.member_tokens(self.cluster.credentials.token))
        auth.check_exposure(
            (self._config.server.grpc, self._config.server.http),
            has_tokens=path is not None,
            allow_anonymous=self._config.auth.allow_anonymous,
        )
        self._guard.set_tokens(tokens)
        ended = self._calls.end_streams(self._guard.judge)
        if ended:
            self._log.info("streams_ended", reason="their tokens are gone", count=ended)

    async def run(self) -> int:
        """Serve until `stop`; the exit code. Raises StartupError or StoreError if it cannot."""
        config = self._config
        check_directory(self._directory)
        async with AsyncExitStack() as stack:
            listening = stack.enter_context(listen.listen_http(config.server.http))
            server = self._grpc_server()
            grpc_at = listen.listen_grpc(server, config.server.grpc, self._credentials)
            self._port = grpc_at.port
            http_at = listen.bound_address(listening, config.server.http)
            stack.enter_context(data_directory(self._directory))
            await server.start()
            stack.push_async_callback(server.stop, None)
            http = HTTPServer(
                http_app(self._registry(), self._monitor.readiness, lambda: self.cluster.waiting)
            )
            serving = asyncio.create_task(http.run_on(listening))
            stack.push_async_callback(_finish, http, serving)
            if not await self._recover(grpc_at, http_at):
                return 0
            stack.enter_context(address_file(config.server.address_file, grpc_at, http_at))
            self._log.info("serving", grpc=str(grpc_at), http=str(http_at))
            served = await self._serve()
            drained = await self._drain(server)
        if self._failure is not None:
            raise self._failure
        return 0 if served and drained else 1

    def _make_cluster(self) -> Cluster:
        config = self._config
        token = read_token(config.cluster)
        refused = peers_refused(
            config.cluster,
            config.server.grpc,
            has_certificate=config.tls.cert is not None and config.tls.key is not None,
            has_client_ca=config.tls.client_ca is not None,
        )
        if refused and not config.cluster.alone:
            raise StartupError(refused, reason="EXPOSED")
        credentials = member_credentials(config.tls, config.cluster.ca, token)
        return Cluster(
            config.cluster,
            self.engine,
            credentials,
            lambda engine: RaftStore(
                engine.native, config.raft.retain_bytes, config.raft.retain_bytes_max
            ),
            raft_config=config.raft,
            peers_refused=refused,
        )

    def _make_guard(self) -> Guard:
        guard, request_max = Guard(), self._config.limits.request_bytes_max
        for module in self.services.modules:
            for method, scope in module.scopes.items():
                guard.add_method(f"{module.name}/{method}", scope, request_max)
        for method in reflection.OPEN_METHODS:
            guard.add_method(method, None, request_max)
        return guard

    def _grpc_server(self) -> grpc.aio.Server:
        limits = self._config.limits
        gate = Gate(
            guard=self._guard,
            calls=self._calls,
            request_bytes_max=limits.request_bytes_max,
            deadline_s=limits.deadline_seconds_default,
            between_members=peer_service.METHODS,
            member_frame_bytes_max=peer_channel.MESSAGE_BYTES_MAX,
            log_calls=self._config.telemetry.log_calls,
            hang_up=lambda peer: hang_up(self._port, peer),
        )
        server = grpc.aio.server(
            interceptors=(GuardInterceptor(gate),),
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", limits.connection_streams_max),
                ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", -1),
                # A window that grew with the bandwidth would hold megabytes of every slow upload.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
                *peer_channel.SERVER_OPTIONS,
            ),
        )
        for module in self.services.modules:
            module.register(server)
        names = [module.name for module in self.services.modules]
        self._reflection = reflection.register(server, self._health, names)
        return server

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(StoreCollector(self._monitor.look))
        registry.register(CallCollector(self._guard))
        for module in self.services.modules:
            for collector in module.collectors():
                registry.register(collector)
        return registry

    async def _recover(self, grpc_at: Address, http_at: Address) -> bool:
        """Find out who we are and open the store; False when `stop` came first."""
        config, store = self._config.cluster, self._directory / "store"
        address = config.advertise or str(grpc_at)
        fresh = not store.is_dir() or not any(store.iterdir())
        check_peers(config, address, interval_ms=self._config.log.interval_ms, fresh=fresh)
        preparing = self.cluster.prepare(Place(self._directory, address), fresh=fresh)
        found = await self._unless_stopped(preparing)
        if not found:
            return False
        options = store_options(self.engine.options, found[0])
        opening = asyncio.create_task(self.engine.open(options))
        done, _ = await asyncio.wait([opening], timeout=_RECOVERING_NOTICE_S)
        if not done:
            where = str(self._directory)
            self._log.info("recovering", directory=where, grpc=str(grpc_at), http=str(http_at))
        try:
            await opening
        except StoreError as error:
            if error.code is Code.DATA_LOSS:
                error.message += self.cluster.origin.repair_advice
            raise
        if self._failpoints:
            self._log.warning("failpoints_armed", failpoints=self._failpoints)
        await self.cluster.start()
        self._monitor.look()
        return True

    async def _unless_stopped(self, work: Awaitable[T]) -> tuple[T] | None:
        """Its result, or None when `stop` came first."""
        task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if task.done():
            return (task.result(),)
        task.cancel()
        await asyncio.wait((task,))
        return None

    async def _serve(self) -> bool:
        """Run what runs in the background until `stop`; False when some of it failed before."""
        works = [module.run() for module in self.services.modules]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(work) for work in (*works, self._monitor.run())]
                await self._stopping.wait()
                self._refuse_calls()
                for task in tasks:
                    task.cancel()
        except ExceptionGroup as failures:
            first = failures.exceptions[0]
            if isinstance(first, StartupError):  # what it says is all there is to say
                self._failure = first
            elif isinstance(first, BedplateError):
                self._log.error("background_failed", reason=first.reason, why=first.message)
            else:
                self._log.error("background_failed", exc_info=failures)
            self._refuse_calls()
            return False
        return True

    def _refuse_calls(self) -> None:
        """Let nobody in any more, and end what lasts as long as its client likes."""
        if self._calls.draining:
            return
        self._log.info("draining", timeout_s=self._config.server.drain_timeout)
        self._health.set(Readiness.DRAINING)
        self._calls.drain()
        self._reflection.drain()
        for module in self.services.modules:
            module.drain()

    async def _drain(self, server: grpc.aio.Server) -> bool:
        """Let calls finish, end those that do not, close the store; whether all went well."""
        timeout = self._config.server.drain_timeout
        finished = await self._calls.ended(timeout)
        if not finished:
            self._log.error("drain_deadline", timeout_s=timeout)
            self._calls.end_all(closed())
            await self._calls.ended(_LAST_CALLS_S)
        await self._part(server)
        await self.cluster.stop()
        stored = await self._close()
        self._log.info("stopped")
        return finished and stored

    async def _part(self, server: grpc.aio.Server) -> None:
        """End every connection, once its client has had its answers."""
        await self._calls.quiet(_QUIET_S, _REFUSALS_S)  # they still come: each is told why
        with Parting(self._port) as parting:
            await self._calls.ended(_LAST_CALLS_S)  # what had been read by then
            await parting.complete(_PARTING_S)
        hang_up(self._port)
        stopping = asyncio.ensure_future(server.stop(None))
        await asyncio.sleep(0)
        hang_up(self._port)  # what came between the two
        await stopping

    async def _close(self) -> bool:
        """Close the store. One whose disk does not answer is left as a crash would leave it."""
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self.engine.close()
        except StoreError as error:
            self._log.error("close_failed", error=str(error))
            return False
        except TimeoutError:
            self._log.error("close_deadline", timeout_s=_CLOSE_TIMEOUT_S)
            os._exit(1)  # its thread cannot be stopped
        return True


def check_directory(path: Path) -> None:
    """Refuse a data directory that could not be written; makes nothing. Raises StartupError."""
    existing = next(parent for parent in (path, *path.parents) if os.path.exists(parent))
    if not existing.is_dir():
        raise StartupError(
            f"data directory {path}: {existing} is not a directory", reason="DATA_DIR"
        )
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        raise StartupError(f"data directory {path}: {existing} is not writable", reason="DATA_DIR")


@contextmanager
def data_directory(path: Path) -> Iterator[None]:
    """Make it, and its parents, readable by us alone; what the block leaves empty when it fails is
    gone again. Raises StartupError.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"cannot make data directory {path}: {error.strerror}", reason="DATA_DIR"
        ) from error
    try:
        yield
    except BaseException:
        for directory in missing:
            with suppress(OSError):
                directory.rmdir()
        raise


async def _finish(http: HTTPServer, serving: asyncio.Task[None]) -> None:
    http.stop()
    await serving
