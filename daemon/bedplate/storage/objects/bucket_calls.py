"""The calls about buckets, and listing them: translation only."""

from bedplate.api.object.v1 import object_pb2
from bedplate.storage.objects import keys, listing, names, tokens, views
from bedplate.storage.objects.buckets import Buckets
from bedplate.storage.objects.core import Core
from bedplate.storage.objects.keys import Name
from bedplate.storage.objects.records import BucketRecord, ObjectRecord


class BucketCalls:
    def __init__(self, core: Core, buckets: Buckets) -> None:
        self._core = core
        self._buckets = buckets

    async def create_bucket(
        self, request: object_pb2.CreateBucketRequest
    ) -> object_pb2.CreateBucketResponse:
        name = names.bucket_name(request.bucket)
        record, revision = await self._buckets.create(name)
        info = views.bucket_info(name, record)
        return object_pb2.CreateBucketResponse(revision=revision, info=info)

    async def delete_bucket(
        self, request: object_pb2.DeleteBucketRequest
    ) -> object_pb2.DeleteBucketResponse:
        revision = await self._buckets.delete(names.bucket_name(request.bucket))
        return object_pb2.DeleteBucketResponse(revision=revision)

    async def list_buckets(
        self, request: object_pb2.ListBucketsRequest
    ) -> object_pb2.ListBucketsResponse:
        prefix = names.name_part(request.prefix, names.BUCKET_BYTES_MAX, "prefix")
        binding = (b"buckets", prefix)
        page, revision = await listing.read_page(
            self._core.store,
            keys.BUCKET,
            prefix=prefix,
            start=tokens.decode(request.page_token, *binding),
            limit=names.page_size(request.page_size),
        )
        return object_pb2.ListBucketsResponse(
            revision=revision,
            buckets=[
                views.bucket_info(entry.key, BucketRecord.decode(entry.value))
                for entry in page.entries
            ],
            next_page_token=tokens.encode(page.position, *binding),
        )

    async def list_objects(
        self, request: object_pb2.ListObjectsRequest
    ) -> object_pb2.ListObjectsResponse:
        bucket = names.bucket_name(request.bucket)
        key_max = self._core.config.key_bytes_max
        prefix = names.name_part(request.prefix, key_max, "prefix")
        delimiter = names.name_part(request.delimiter, names.DELIMITER_BYTES_MAX, "delimiter")
        after = names.name_part(request.start_after, key_max, "start_after")
        binding = (b"objects", bucket, prefix, delimiter, after)
        start = tokens.decode(request.page_token, *binding)
        page, revision = await listing.read_page(
            self._core.store,
            keys.objects_of(bucket),
            prefix=prefix,
            delimiter=delimiter,
            start=start or (keys.after(after) if after else b""),
            limit=names.page_size(request.page_size),
        )
        if not len(page):
            await self._buckets.require(bucket)
        return object_pb2.ListObjectsResponse(
            revision=revision,
            objects=[
                views.object_info(
                    Name(bucket, entry.key),
                    ObjectRecord.decode(entry.value),
                    entry.mod_revision,
                    user_metadata=False,
                )
                for entry in page.entries
            ],
            common_prefixes=[folded.decode() for folded in page.prefixes],
            next_page_token=tokens.encode(page.position, *binding),
        )
