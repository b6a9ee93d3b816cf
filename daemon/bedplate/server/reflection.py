"""Health and reflection on the server: the two services every client may use without a token."""

from collections.abc import Iterable
from typing import Any, Final

import grpc.aio
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import SERVICE_NAME
from grpc_reflection.v1alpha.reflection import aio as reflection_aio

from bedplate.server.health import Health
from bedplate.storage.service_streams import OpenStreams

HEALTH_NAME: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
# Open to everyone, token or not.
OPEN_METHODS: Final = (
    f"{HEALTH_NAME}/Check",
    f"{HEALTH_NAME}/Watch",
    f"{SERVICE_NAME}/ServerReflectionInfo",
)


class Reflection(reflection_aio.ReflectionServicer):
    """Reflection whose streams end with a drain, like every stream that waits for its client."""

    def __init__(self, names: Iterable[str], streams: OpenStreams) -> None:
        super().__init__(names)
        self._streams = streams

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        """Methods too, for `grpcurl describe`; the base class knows only their services."""
        owner, _, method = fully_qualified_name.rpartition(".")
        try:
            service = descriptor_pool.Default().FindServiceByName(owner)
        except KeyError:
            service = None
        known = service is not None and method in service.methods_by_name
        base: Any = super()
        return base._file_containing_symbol(request, owner if known else fully_qualified_name)

    async def ServerReflectionInfo(self, requests: Any, context: Any) -> Any:
        """Writes what the base class yields (its stub says otherwise)."""
        responses: Any = super().ServerReflectionInfo(requests, context)
        with self._streams.waiting():
            async for response in responses:
                await context.write(response)


def register(server: grpc.aio.Server, health: Health, names: Iterable[str]) -> OpenStreams:
    """Add both services for the named ones; what to drain."""
    streams = OpenStreams()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    servicer = Reflection((*names, HEALTH_NAME, SERVICE_NAME), streams)
    add: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
    add(servicer, server)
    return streams
