"""KVService.Watch: responses as the client takes them, and an explicit end when it cannot go on."""

from contextlib import aclosing

import grpc.aio
from google.protobuf.message import DecodeError

from bedplate.api.kv.v1.kv_pb2 import WatchCanceled, WatchRequest, WatchResponse
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
    with streams.waiting():
        await _reach_start(engine, request)
    stream = engine.watch(Keyspace.USER, request)
    async with aclosing(stream):
        with streams.watching(stream):
            last = await _forward(stream, share, context)
        if stream.exhausted:
            raise _canceled(last)
        why = stream.ended or closed()  # the daemon drains, or the store is replaced
        if last:
            resume = _resume(last)
            await context.write(_closing(resume, why))
            why = _at(resume, why)
        raise why


async def _reach_start(engine: Engine, request: bytes) -> None:
    """A cluster's present may be ahead of what is applied here: catch up where the start needs it.
    Raises StoreError.
    """
    if not engine.native.clustered:
        return
    try:
        start = WatchRequest.FromString(request).start_revision
    except DecodeError:
        return  # the engine says what is wrong with it
    if start == 0 or start > engine.status().revision:
        await engine.present()


async def _forward(stream: WatchStream, share: Share, context: Context) -> bytes:
    """Write responses until the stream ends; the last one written."""
    response = b""
    try:
        async for response in stream:
            await share.send_owing(context, response)
    except StoreError:
        if stream.exhausted or stream.ended is None:
            raise
    return response


def _resume(previous: bytes) -> int:
    """From where a watch can go on whose last response this is."""
    before = WatchResponse.FromString(previous)
    return before.revision if before.fragment else before.revision + 1


def _closing(resume: int, why: StoreError) -> bytes:
    """The last response of a watch that the daemon ends."""
    canceled = WatchCanceled(reason=why.reason, message=why.message, resume_revision=resume)
    return WatchResponse(revision=resume - 1, canceled=canceled).SerializeToString()


def _at(resume: int, why: StoreError) -> StoreError:
    """The status that follows it."""
    return StoreError(
        why.message,
        code=why.code,
        reason=why.reason,
        metadata={**why.metadata, "resume_revision": str(resume)},
        retry_after_ms=why.retry_after_ms,
    )


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
