"""Which services the daemon has: the seam between the layers and the process that runs them.

    Config --> Context(config, engine, ...) --> MODULES: build(context) -> ServiceModule
                                                    |  name, scopes, register(server), run()
    daemon.py registers every module with one grpc.aio server behind one guard interceptor.

To add a service: give its layer a class that fits ServiceModule (structurally; a layer below never
imports this file), write a builder here and name it in MODULES. Configuration is a pydantic model
in the layer's own config.py, named as a section in server/config.py. Errors are raised as
`bedplate.errors.BedplateError` from any handler: the interceptor makes the status.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import grpc.aio
from prometheus_client.registry import Collector

from bedplate import __version__
from bedplate.consensus.cluster import Cluster
from bedplate.consensus.cluster_service import ClusterModule
from bedplate.consensus.peer_host import PeerHost
from bedplate.consensus.peer_service import PeerModule
from bedplate.server.config import Config
from bedplate.server.extras import missing_extras
from bedplate.storage.admin.service import AdminModule
from bedplate.storage.admin.status import Facts
from bedplate.storage.budget import Budgets
from bedplate.storage.engine import Engine
from bedplate.storage.kv import KVModule
from bedplate.storage.objects.service import ObjectModule


class ServiceModule(Protocol):
    """One gRPC service as the composition root sees it."""

    @property
    def name(self) -> str:
        """The full service name, such as "bedplate.kv.v1.KVService"."""

    @property
    def scopes(self) -> Mapping[str, str]:
        """The token scope of every method by its short name: {"Get": "kv:read", ...}.

        A method that is missing here is refused, so that none is served unguarded by mistake.
        """

    def register(self, server: grpc.aio.Server) -> None:
        """Add the handlers. Called once, before the server starts and before the store is open:
        handlers that reach the engine early fail with UNAVAILABLE by themselves.
        """

    async def run(self) -> None:
        """Background work while the store serves: started when it is open, cancelled before it
        closes. Returns at once when there is none; may raise only what should stop the daemon.
        """

    def collectors(self) -> Sequence[Collector]:
        """Its metrics, beside those of its calls."""

    def drain(self) -> None:
        """The daemon shuts down: end streams that last as long as their client likes with
        UNAVAILABLE, start no new ones. Returns at once; calls under way may finish.
        """


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """Whether a service of this distribution is served, and if not, why."""

    name: str
    served: bool
    detail: str = ""


@dataclass(slots=True)
class Services:
    """What is served; filled by `build` and complete before the first call arrives."""

    modules: list[ServiceModule] = field(default_factory=list)
    reports: list[ServiceReport] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Context:
    """What a module may be built from. The engine is not open yet when builders run."""

    config: Config
    engine: Engine
    cluster: Cluster
    budgets: Budgets
    services: Services


Builder = Callable[[Context], ServiceModule]


def build_kv(context: Context) -> ServiceModule:
    return KVModule(context.engine, context.config.limits, context.budgets.sending)


def build_objects(context: Context) -> ServiceModule:
    return ObjectModule(context.engine, context.config.objects, context.budgets)


def build_admin(context: Context) -> ServiceModule:
    def facts() -> Facts:
        return Facts(
            version=__version__,
            role=context.cluster.role,
            index_memory_max=context.config.index.memory_max,
            services=context.services.reports,
            missing_extras=missing_extras(),
        )

    return AdminModule(context.engine, context.config.admin, context.budgets.sending, facts)


def build_cluster(context: Context) -> ServiceModule:
    return ClusterModule(context.cluster)


def build_peers(context: Context) -> ServiceModule:
    return PeerModule(PeerHost(context.cluster), context.cluster.credentials.token)


MODULES: tuple[Builder, ...] = (build_kv, build_objects, build_admin, build_cluster, build_peers)


def build(context: Context, builders: Sequence[Builder] = MODULES) -> Services:
    """Build every module into `context.services`, in order, and return it."""
    for builder in builders:
        module = builder(context)
        context.services.modules.append(module)
        context.services.reports.append(ServiceReport(module.name, served=True))
    return context.services
