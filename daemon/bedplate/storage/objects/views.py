"""Records as messages of the contract."""

from google.protobuf.timestamp_pb2 import Timestamp

from bedplate.api.object.v1 import object_pb2
from bedplate.storage.objects.keys import Name
from bedplate.storage.objects.multipart import Part
from bedplate.storage.objects.objects import Current, Stored
from bedplate.storage.objects.records import BucketRecord, MultipartRecord, ObjectRecord


def timestamp(unix_ms: int) -> Timestamp:
    return Timestamp(seconds=unix_ms // 1000, nanos=unix_ms % 1000 * 1_000_000)


def bucket_info(name: bytes, record: BucketRecord) -> object_pb2.BucketInfo:
    return object_pb2.BucketInfo(bucket=name.decode(), created_time=timestamp(record.created_ms))


def object_info(
    name: Name, record: ObjectRecord, revision: int, *, user_metadata: bool = True
) -> object_pb2.ObjectInfo:
    return object_pb2.ObjectInfo(
        bucket=name.bucket.decode(),
        key=name.key.decode(),
        size=record.size,
        etag=record.etag.hex(),
        crc32c=record.crc32c,
        content_type=record.content_type,
        user_metadata=record.user_metadata if user_metadata else None,
        modified_time=timestamp(record.modified_ms),
        revision=revision,
        part_count=record.part_count,
    )


def current_info(name: Name, current: Current) -> object_pb2.ObjectInfo:
    return object_info(name, current.record, current.mod_revision)


def stored_info(name: Name, stored: Stored) -> object_pb2.ObjectInfo:
    return object_info(name, stored.record, stored.revision)


def part_info(part: Part) -> object_pb2.PartInfo:
    return object_pb2.PartInfo(
        part_number=part.number,
        size=part.record.size,
        etag=part.record.etag,
        crc32c=part.record.crc32c,
        modified_time=timestamp(part.record.modified_ms),
    )


def multipart_info(
    name: Name, blob: bytes, record: MultipartRecord
) -> object_pb2.MultipartUploadInfo:
    return object_pb2.MultipartUploadInfo(
        bucket=name.bucket.decode(),
        key=name.key.decode(),
        upload_id=blob.hex(),
        created_time=timestamp(record.created_ms),
    )
