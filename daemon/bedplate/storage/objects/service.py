"""ObjectService: which call is answered by what, and with which scope."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from prometheus_client.registry import Collector

from bedplate.api.object.v1 import object_pb2
from bedplate.storage.budget import Budgets
from bedplate.storage.objects import wire
from bedplate.storage.objects.bucket_calls import BucketCalls
from bedplate.storage.objects.buckets import Buckets
from bedplate.storage.objects.config import ObjectsConfig
from bedplate.storage.objects.core import Core
from bedplate.storage.objects.metrics import ObjectCollector
from bedplate.storage.objects.multipart import Multipart
from bedplate.storage.objects.multipart_calls import MultipartCalls
from bedplate.storage.objects.object_calls import Context, ObjectCalls
from bedplate.storage.objects.objects import Objects
from bedplate.storage.objects.reaper import Reaper
from bedplate.storage.objects.store import Engine, Store

READ, WRITE = "object:read", "object:write"
_READS = (
    "ListBuckets",
    "GetObject",
    "HeadObject",
    "ListObjects",
    "ListParts",
    "ListMultipartUploads",
)

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class ObjectModule:
    """The service over one engine; fits server.app.ServiceModule."""

    name = "bedplate.object.v1.ObjectService"

    def __init__(
        self, engine: Engine, config: ObjectsConfig, budgets: Budgets | None = None
    ) -> None:
        self.core = Core(Store(engine), config, budgets=budgets or Budgets())
        buckets = Buckets(self.core)
        objects = Objects(self.core, buckets)
        multipart = Multipart(self.core, buckets, objects)
        self.reaper = Reaper(self.core, multipart)
        self._handlers = _handlers(
            BucketCalls(self.core, buckets),
            ObjectCalls(self.core, buckets, objects),
            MultipartCalls(self.core, buckets, multipart),
        )

    @property
    def scopes(self) -> Mapping[str, str]:
        return {name: READ if name in _READS else WRITE for name in self._handlers}

    def register(self, server: grpc.aio.Server) -> None:
        handlers = dict(self._handlers)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(self.name, handlers),)
        )

    async def run(self) -> None:
        """Reclaim space."""
        await self.reaper.run()

    def collectors(self) -> Sequence[Collector]:
        return (ObjectCollector(self.core.counts),)

    def drain(self) -> None:
        """Nothing: a transfer under way may finish, and what the server cuts off was not stored."""


def _handlers(
    buckets: BucketCalls, objects: ObjectCalls, multipart: MultipartCalls
) -> Mapping[str, Handler]:
    pb = object_pb2
    return MappingProxyType(
        {
            "CreateBucket": _unary(pb.CreateBucketRequest, buckets.create_bucket),
            "DeleteBucket": _unary(pb.DeleteBucketRequest, buckets.delete_bucket),
            "ListBuckets": _unary(pb.ListBucketsRequest, buckets.list_buckets),
            "PutObject": grpc.stream_unary_rpc_method_handler(objects.put_object),
            "GetObject": grpc.unary_stream_rpc_method_handler(objects.get_object),
            "HeadObject": _unary(pb.HeadObjectRequest, objects.head_object),
            "DeleteObject": _unary(pb.DeleteObjectRequest, objects.delete_object),
            "DeleteObjects": _unary(pb.DeleteObjectsRequest, objects.delete_objects),
            "CopyObject": _unary(pb.CopyObjectRequest, objects.copy_object),
            "ListObjects": _unary(pb.ListObjectsRequest, buckets.list_objects),
            "CreateMultipartUpload": _unary(
                pb.CreateMultipartUploadRequest, multipart.create_multipart_upload
            ),
            "UploadPart": grpc.stream_unary_rpc_method_handler(multipart.upload_part),
            "CompleteMultipartUpload": _unary(
                pb.CompleteMultipartUploadRequest, multipart.complete_multipart_upload
            ),
            "AbortMultipartUpload": _unary(
                pb.AbortMultipartUploadRequest, multipart.abort_multipart_upload
            ),
            "ListParts": _unary(pb.ListPartsRequest, multipart.list_parts),
            "ListMultipartUploads": _unary(
                pb.ListMultipartUploadsRequest, multipart.list_multipart_uploads
            ),
        }
    )


def _unary(kind: type[Q], answer: Callable[[Q], Awaitable[A]]) -> Handler:
    """Parsed here, so that what cannot be parsed is MALFORMED_REQUEST like everywhere."""

    async def handle(message: bytes, _: Context) -> bytes:
        return (await answer(wire.parse(kind, message))).SerializeToString()

    return grpc.unary_unary_rpc_method_handler(handle)
