"""The client's half of PutObject and UploadPart: a header, then data, then a real end.

gRPC's Python server ends the iteration both when the client half-closes and when the call dies: the
connection broke, the client was killed, the deadline passed. Taking the second for the first would
commit half an object. So at the end the response headers are sent: a stream that a client has only
half-closed takes them, one that is gone does not.
"""

from collections.abc import AsyncIterator
from typing import Generic, TypeVar

import grpc.aio

from bedplate.api.object.v1 import object_pb2
from bedplate.errors import BedplateError, Code
from bedplate.storage.budget import PutAside, Share
from bedplate.storage.objects import wire

R = TypeVar("R", object_pb2.PutObjectRequest, object_pb2.UploadPartRequest)


class Incoming(Generic[R]):
    def __init__(
        self,
        kind: type[R],
        requests: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext[bytes, bytes],
    ) -> None:
        self._kind: type[R] = kind
        self._requests = requests
        self._context = context

    async def first(self) -> R:
        """The message that holds the header. MALFORMED_REQUEST."""
        message = await anext(self._requests, None)
        if message is None:
            raise wire.malformed("the stream ended before its header")
        request: R = wire.parse(self._kind, message)
        if request.WhichOneof("message") != "header":
            raise wire.malformed("the first message holds the header")
        return request

    async def next(self, share: Share, put_aside: PutAside) -> wire.Data | None:
        """The next message's data; None only when the client has said that this is all.
        MALFORMED_REQUEST; CANCELLED when the call died; what `Share.receive` raises.
        """
        message = await share.receive(self._requests, put_aside)
        if message is not None:
            return wire.parse_data(self._kind, message)
        try:
            await self._context.send_initial_metadata(())
        except Exception:
            raise BedplateError(
                "the stream broke before its end", code=Code.CANCELLED, reason="STREAM_BROKEN"
            ) from None
        return None
