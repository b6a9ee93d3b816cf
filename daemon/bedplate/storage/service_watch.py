"""KVService.Watch: responses as the client takes them, and an explicit end when it cannot go on."""

from contextlib import aclosing

import grpc.aio

from bedplate.api.kv.v1.kv_pb2 import WatchCanceled, WatchResponse
from bedplate.errors import Code
from bedplate.native.errors import OLDEST_REVISION, StoreError, closed
from bedplate.native.store import Keyspace
from bedplate.storage.budget import Share
from bedplate.storage.engine import Engine
from bedplate.storage.service_streams import OpenStreams
from bedplate.storage.watch import WatchStream

Context = grpc.aio.ServicerContext[bytes, bytes]

_CODES = {
    "REVISION_COMPACTED": Code.OUT_OF_RANGE,
    "WATCH_TOO_SLOW": Code.RESOURCE_EXHAUSTED,
    "OUT_OF_MEMORY": Code.RESOURCE_EXHAUSTED,
    "VALUE_DAMAGED": Code.DATA_LOSS,
    "STORE_CLOSED": Code.UNAVAILABLE,
    "LOG_POISONED": Code.UNAVAILABLE,
}


async def serve_watch(
    engine: Engine, streams: OpenStreams, share: Share, request: bytes, context: Context
) -> None:
    """Serve one watch until its client goes or it is cancelled. Raises StoreError then."""
    stream = engine.watch(Keyspace.USER, request)
    async with aclosing(stream):
        with streams.watching(stream):
            last = await _forward(stream, share, context)
        if not stream.exhausted:  # the daemon drains
            if not last:
                raise closed()
            last = _closing(last)
            await context.write(last)
        raise _canceled(last)


async def _forward(stream: WatchStream, share: Share, context: Context) -> bytes:
    """Write responses until the stream ends; the last one written."""
    response = b""
    try:
        async for response in stream:
            await share.send_owing(context, response)
    except StoreError:
        if stream.exhausted:
            raise
    return response


def _closing(previous: bytes) -> bytes:
    """The last response of a watch that the daemon ends, from the one before it."""
    before = WatchResponse.FromString(previous)
    resume = before.revision if before.fragment else before.revision + 1
    canceled = WatchCanceled(
        reason="STORE_CLOSED", message="the server shuts down", resume_revision=resume
    )
    return WatchResponse(revision=resume - 1, canceled=canceled).SerializeToString()


def _canceled(response: bytes) -> StoreError:
    """The status that follows a last response."""
    canceled = WatchResponse.FromString(response).canceled
    if not canceled.reason:
        return closed()
    metadata = {"resume_revision": str(canceled.resume_revision)}
    if canceled.reason == "REVISION_COMPACTED":
        metadata[OLDEST_REVISION] = str(canceled.resume_revision)
    code = _CODES.get(canceled.reason, Code.INTERNAL)
    return StoreError(canceled.message, code=code, reason=canceled.reason, metadata=metadata)
