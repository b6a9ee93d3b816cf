"""The calls about objects: translation only."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc.aio

from bedplate.api.object.v1 import object_pb2
from bedplate.errors import BedplateError
from bedplate.storage.objects import conditions as rules
from bedplate.storage.objects import download, names, ranges, views, wire
from bedplate.storage.objects.buckets import Buckets
from bedplate.storage.objects.core import Core, new_id
from bedplate.storage.objects.errors import ObjectError, Reason, fields_within
from bedplate.storage.objects.incoming import Incoming
from bedplate.storage.objects.keys import Stream
from bedplate.storage.objects.objects import Change, Deletion, Objects
from bedplate.storage.objects.records import ObjectRecord
from bedplate.storage.objects.upload import Announced, Upload, too_large

DELETES_MAX = 1000
Context = grpc.aio.ServicerContext[bytes, bytes]


class ObjectCalls:
    def __init__(self, core: Core, buckets: Buckets, objects: Objects) -> None:
        self._core = core
        self._buckets = buckets
        self._objects = objects

    async def put_object(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        with fields_within("header", "chunk"):
            return await self._put_object(requests, context)

    async def _put_object(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        incoming = Incoming(object_pb2.PutObjectRequest, requests, context)
        header = (await incoming.first()).header
        config = self._core.config
        name = names.object_name(header.bucket, header.key, config, "header.")
        content_type = names.content_type(header.content_type, "header.")
        user_metadata = names.user_metadata(header.user_metadata, config, "header.")
        announced = Announced(
            header.size if header.HasField("size") else None,
            header.crc32c if header.HasField("crc32c") else None,
            config.size_max,
        )
        if announced.size is not None and announced.size > config.size_max:
            raise too_large(config.size_max, "header.size")
        self._core.store.require_room(announced.size)
        if rules.any_set(header.conditions):  # before the data is sent; decided at the commit
            current = await self._objects.find(name)
            rules.check(header.conditions, current.record if current else None)
        blob = new_id()
        upload = Upload(self._core, self._buckets, name, Stream(blob), peer=context.peer())

        async def make(change: Change) -> ObjectRecord:
            await upload.finish(change.txn, change.attempt)
            return ObjectRecord(
                blob=blob,
                etag=blob,
                size=upload.size,
                crc32c=upload.crc32c,
                modified_ms=self._core.clock_ms(),
                part_count=0,
                content_type=content_type,
                user_metadata=user_metadata,
            )

        async with upload:
            await upload.receive(incoming, announced)
            stored = await self._objects.put(
                name, make, header.conditions, request_id=upload.request_id
            )
        info = views.stored_info(name, stored)
        return object_pb2.PutObjectResponse(revision=stored.revision, info=info).SerializeToString()

    async def get_object(self, message: bytes, context: Context) -> None:
        request = wire.parse(object_pb2.GetObjectRequest, message)
        name = names.object_name(request.bucket, request.key, self._core.config)
        current, revision = await self._objects.require(name)
        rules.check(request.conditions, current.record)
        offset, length = ranges.resolve(request.range, current.record.size)
        header = object_pb2.GetObjectHeader(
            revision=revision,
            info=views.current_info(name, current),
            offset=offset,
            length=length,
        )
        await context.write(object_pb2.GetObjectResponse(header=header).SerializeToString())
        with self._core.budgets.sending.share(context.peer()) as share:
            sent = download.messages(self._core, share, current.record, revision, offset, length)
            async with aclosing(sent):
                async for response in sent:
                    await share.send(context, response)

    async def head_object(
        self, request: object_pb2.HeadObjectRequest
    ) -> object_pb2.HeadObjectResponse:
        name = names.object_name(request.bucket, request.key, self._core.config)
        current, revision = await self._objects.require(name)
        rules.check(request.conditions, current.record)
        info = views.current_info(name, current)
        return object_pb2.HeadObjectResponse(revision=revision, info=info)

    async def delete_object(
        self, request: object_pb2.DeleteObjectRequest
    ) -> object_pb2.DeleteObjectResponse:
        name = names.object_name(request.bucket, request.key, self._core.config)
        deleted_at = await self._objects.delete(name, request.conditions)
        if deleted_at is not None:
            return object_pb2.DeleteObjectResponse(revision=deleted_at, deleted=True)
        revision = await self._buckets.require(name.bucket)
        return object_pb2.DeleteObjectResponse(revision=revision, deleted=False)

    async def delete_objects(
        self, request: object_pb2.DeleteObjectsRequest
    ) -> object_pb2.DeleteObjectsResponse:
        bucket = names.bucket_name(request.bucket)
        deletions = self._deletions(request)
        revision = await self._buckets.require(bucket)
        outcomes = await self._objects.delete_many(bucket, deletions)
        revision = max([revision, *(each for each in outcomes if isinstance(each, int))])
        return object_pb2.DeleteObjectsResponse(
            revision=revision,
            results=[
                _result(wanted.key, outcome)
                for wanted, outcome in zip(request.objects, outcomes, strict=True)
            ],
        )

    async def copy_object(
        self, request: object_pb2.CopyObjectRequest
    ) -> object_pb2.CopyObjectResponse:
        config = self._core.config
        source = names.object_name(request.source_bucket, request.source_key, config, "source_")
        target = names.object_name(request.bucket, request.key, config)
        stored = await self._objects.copy(
            source,
            request.source_conditions,
            target,
            request.conditions,
            self._description(request),
        )
        info = views.stored_info(target, stored)
        return object_pb2.CopyObjectResponse(revision=stored.revision, info=info)

    def _deletions(self, request: object_pb2.DeleteObjectsRequest) -> list[Deletion]:
        if not request.objects:
            raise ObjectError(Reason.FIELD_INVALID, "name at least one object", "objects")
        if len(request.objects) > DELETES_MAX:
            raise ObjectError(
                Reason.TOO_MANY_OPS, f"at most {DELETES_MAX} objects a call", "objects"
            )
        deletions: dict[bytes, Deletion] = {}
        for i, wanted in enumerate(request.objects):
            field = f"objects[{i}].key"
            key = names.object_key(wanted.key, self._core.config, field)
            if key in deletions:
                raise ObjectError(Reason.DUPLICATE_KEY, "an object is named twice", field)
            deletions[key] = Deletion(key, wanted.conditions)
        return list(deletions.values())

    def _description(
        self, request: object_pb2.CopyObjectRequest
    ) -> tuple[str, dict[str, str]] | None:
        """The target's own content type and metadata; None: the source's."""
        if request.replace_metadata:
            return (
                names.content_type(request.content_type),
                names.user_metadata(request.user_metadata, self._core.config),
            )
        if request.content_type or request.user_metadata:
            raise ObjectError(
                Reason.FIELD_INVALID,
                "content_type and user_metadata go with replace_metadata only",
                "content_type" if request.content_type else "user_metadata",
            )
        return None


def _result(key: str, outcome: int | BedplateError | None) -> object_pb2.DeleteObjectsResult:
    if isinstance(outcome, BedplateError):
        error = object_pb2.ObjectError(
            code=outcome.code, reason=outcome.reason, message=outcome.message
        )
        return object_pb2.DeleteObjectsResult(key=key, error=error)
    return object_pb2.DeleteObjectsResult(key=key, deleted=outcome is not None)
