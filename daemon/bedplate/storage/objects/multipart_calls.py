"""The calls about multipart uploads: translation only."""

from collections.abc import AsyncIterator

import grpc.aio

from bedplate.api.object.v1 import object_pb2
from bedplate.storage.objects import keys, listing, names, tokens, views
from bedplate.storage.objects.buckets import Buckets
from bedplate.storage.objects.core import Core
from bedplate.storage.objects.errors import fields_within
from bedplate.storage.objects.incoming import Incoming
from bedplate.storage.objects.multipart import Multipart, Wanted
from bedplate.storage.objects.records import MultipartRecord
from bedplate.storage.objects.tokens import invalid_token
from bedplate.storage.objects.upload import Announced, too_large

Context = grpc.aio.ServicerContext[bytes, bytes]
_NUMBER_SIZE = 2  # a part number in a page token


class MultipartCalls:
    def __init__(self, core: Core, buckets: Buckets, multipart: Multipart) -> None:
        self._core = core
        self._buckets = buckets
        self._multipart = multipart

    async def create_multipart_upload(
        self, request: object_pb2.CreateMultipartUploadRequest
    ) -> object_pb2.CreateMultipartUploadResponse:
        config = self._core.config
        blob, revision = await self._multipart.create(
            names.object_name(request.bucket, request.key, config),
            names.content_type(request.content_type),
            names.user_metadata(request.user_metadata, config),
        )
        return object_pb2.CreateMultipartUploadResponse(revision=revision, upload_id=blob.hex())

    async def upload_part(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        with fields_within("header", "chunk"):
            return await self._upload_part(requests, context)

    async def _upload_part(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        incoming = Incoming(object_pb2.UploadPartRequest, requests, context)
        header = (await incoming.first()).header
        config = self._core.config
        name = names.object_name(header.bucket, header.key, config, "header.")
        blob = names.upload_blob(header.upload_id)
        number = names.part_number(header.part_number, "header.")
        announced = Announced(
            header.size if header.HasField("size") else None,
            header.crc32c if header.HasField("crc32c") else None,
            config.size_max,
        )
        if announced.size is not None and announced.size > config.size_max:
            raise too_large(config.size_max, "header.size")
        self._core.store.require_room(announced.size)
        begun = await self._multipart.begin_part(name, blob, number, context.peer())
        async with begun as upload:
            await upload.receive(incoming, announced)
            part, revision = await self._multipart.finish_part(name, upload)
        return object_pb2.UploadPartResponse(
            revision=revision, part=views.part_info(part)
        ).SerializeToString()

    async def complete_multipart_upload(
        self, request: object_pb2.CompleteMultipartUploadRequest
    ) -> object_pb2.CompleteMultipartUploadResponse:
        name = names.object_name(request.bucket, request.key, self._core.config)
        wanted = Wanted(
            request.size if request.HasField("size") else None,
            request.crc32c if request.HasField("crc32c") else None,
            request.conditions,
        )
        blob = names.upload_blob(request.upload_id)
        stored = await self._multipart.complete(name, blob, request.parts, wanted)
        info = views.stored_info(name, stored)
        return object_pb2.CompleteMultipartUploadResponse(revision=stored.revision, info=info)

    async def abort_multipart_upload(
        self, request: object_pb2.AbortMultipartUploadRequest
    ) -> object_pb2.AbortMultipartUploadResponse:
        name = names.object_name(request.bucket, request.key, self._core.config)
        revision = await self._multipart.abort(name, names.upload_blob(request.upload_id))
        return object_pb2.AbortMultipartUploadResponse(revision=revision)

    async def list_parts(
        self, request: object_pb2.ListPartsRequest
    ) -> object_pb2.ListPartsResponse:
        name = names.object_name(request.bucket, request.key, self._core.config)
        blob = names.upload_blob(request.upload_id)
        limit = names.page_size(request.page_size)
        binding = (b"parts", *name, blob)
        position = tokens.decode(request.page_token, *binding)
        if len(position) not in (0, _NUMBER_SIZE):
            raise invalid_token()
        _, revision = await self._multipart.require(name, blob)
        parts, more = await self._multipart.parts(blob, int.from_bytes(position), limit)
        last = parts[-1].number.to_bytes(_NUMBER_SIZE) if more else None
        return object_pb2.ListPartsResponse(
            revision=revision,
            parts=map(views.part_info, parts),
            next_page_token=tokens.encode(last, *binding),
        )

    async def list_multipart_uploads(
        self, request: object_pb2.ListMultipartUploadsRequest
    ) -> object_pb2.ListMultipartUploadsResponse:
        bucket = names.bucket_name(request.bucket)
        prefix = names.name_part(request.prefix, self._core.config.key_bytes_max, "prefix")
        binding = (b"uploads", bucket, prefix)
        base = keys.multiparts_of(bucket)
        page, revision = await listing.read_page(
            self._core.store,
            base,
            prefix=prefix,
            start=tokens.decode(request.page_token, *binding),
            limit=names.page_size(request.page_size),
        )
        if not len(page):
            await self._buckets.require(bucket)
        return object_pb2.ListMultipartUploadsResponse(
            revision=revision,
            uploads=[
                views.multipart_info(
                    *keys.split_multipart(base + entry.key),
                    MultipartRecord.decode(entry.value),
                )
                for entry in page.entries
            ],
            next_page_token=tokens.encode(page.position, *binding),
        )
