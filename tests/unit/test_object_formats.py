"""Keys, records, checksums and hand-made messages: the pure parts."""

import random
from contextlib import suppress
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.api.kv.v1 import kv_pb2
from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.errors import BedplateError
from bedplate.native.store import crc32c
from bedplate.storage.objects import checksums, keys, ranges, records, wire
from bedplate.storage.objects.errors import CODES, ObjectError, Reason
from bedplate.storage.objects.keys import Name, Stream
from tests.unit.object_harness import MIB

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
NAMES = st.builds(lambda b, k: Name(b.encode(), k.encode()), TEXT, TEXT)
BLOBS = st.binary(min_size=16, max_size=16)
U64 = st.integers(0, (1 << 64) - 1)
STREAMS = st.builds(Stream, BLOBS, st.integers(0, 10_000), U64)
DESCRIPTION = {
    "content_type": st.text(max_size=20),
    "user_metadata": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4),
}
OBJECTS = st.builds(
    records.ObjectRecord,
    blob=BLOBS,
    etag=BLOBS,
    size=U64,
    crc32c=st.integers(0, (1 << 32) - 1),
    modified_ms=U64,
    part_count=st.integers(0, 10_000),
    **DESCRIPTION,
)
RECORDS = st.one_of(
    st.builds(records.BucketRecord, U64),
    OBJECTS,
    st.builds(records.BlobRecord, U64),
    st.builds(records.UploadRecord, BLOBS, U64),
    st.builds(records.MultipartRecord, U64, U64, **DESCRIPTION),
    st.builds(records.PartRecord, U64, U64, st.integers(0, (1 << 32) - 1), U64),
    st.builds(records.GarbageRecord, st.lists(st.binary(max_size=30)).map(tuple)),
    st.builds(records.ResultRecord, U64, st.binary(min_size=32, max_size=32), NAMES, OBJECTS),
)


@given(a=NAMES, b=NAMES)
def test_objects_are_ordered_by_bucket_then_key_and_never_collide(a: Name, b: Name) -> None:
    assert (keys.object_(a) < keys.object_(b)) == (a < b)
    assert (keys.object_(a) == keys.object_(b)) == (a == b)
    assert keys.object_(a).startswith(keys.objects_of(b.bucket)) == (a.bucket == b.bucket)


@given(name=NAMES, blob=BLOBS)
def test_a_multipart_key_is_taken_apart_again(name: Name, blob: bytes) -> None:
    assert keys.split_multipart(keys.multipart(name, blob)) == (name, blob)


@given(stream=STREAMS, number=st.integers(0, (1 << 32) - 1))
def test_stream_keys_are_taken_apart_again(stream: Stream, number: int) -> None:
    assert keys.decode_stream(keys.upload(stream)) == stream
    assert keys.decode_stream(keys.garbage(stream)) == stream
    chunk = keys.chunk(stream, number)
    assert chunk.startswith(keys.chunks_of(stream))
    assert chunk.startswith(keys.chunks_of_blob(stream.blob))


@given(prefix=st.binary(max_size=4), key=st.binary(max_size=6))
def test_the_end_of_a_prefix_is_the_smallest_key_above_it(prefix: bytes, key: bytes) -> None:
    end = keys.prefix_end(prefix)
    inside = prefix <= key and (not end or key < end)
    assert inside == key.startswith(prefix)


@given(record=RECORDS)
def test_records_are_read_as_they_were_written(record: records.ObjectRecord) -> None:
    encoded = record.encode()
    assert type(record).decode(encoded) == record
    for broken in (b"", b"\x02" + encoded[1:], encoded[: len(encoded) // 2]):
        if broken == encoded:
            continue
        with suppress(ObjectError):
            assert type(record).decode(broken) != record


@given(
    blob=BLOBS,
    segments=st.lists(st.tuples(st.integers(1, 10_000), U64, U64), max_size=20),
)
def test_a_layout_is_read_as_it_was_written(
    blob: bytes, segments: list[tuple[int, int, int]]
) -> None:
    layout = records.LayoutRecord(
        tuple(
            records.Segment(Stream(blob, part, attempt), size) for part, attempt, size in segments
        )
    )
    assert records.LayoutRecord.decode(layout.encode(), blob) == layout
    with pytest.raises(BedplateError):
        records.LayoutRecord.decode(layout.encode() + b"x", blob)


def test_a_record_with_something_behind_it_is_damaged() -> None:
    with pytest.raises(BedplateError):
        records.BlobRecord.decode(records.BlobRecord(1).encode() + b"\0")


def test_the_format_on_disk_has_not_moved() -> None:
    """Bytes as every released version writes them."""
    stream = Stream(bytes(range(16)), 0x0102, 0x030405060708090A)
    assert keys.chunk(stream, 11).hex() == (
        "63000102030405060708090a0b0c0d0e0f0102030405060708090a0000000b"
    )
    assert keys.multipart(Name(b"b", b"k"), bytes(16)).hex() == "7062006b00" + "00" * 16
    record = records.ObjectRecord(b"B" * 16, b"E" * 16, 5, 6, 7, 8, "t/x", {"a": "b", "c": ""})
    assert record.encode().hex() == (
        "01" + "42" * 16 + "45" * 16 + "0000000000000005" + "00000006" + "0000000000000007"
        "0008" + "0002" + "0003742f78" + "000161" + "000162" + "000163" + "0000"
    )


@given(pieces=st.lists(st.binary(max_size=50), max_size=6))
def test_the_checksum_of_a_whole_follows_from_its_parts(pieces: list[bytes]) -> None:
    parts = [(crc32c(piece), len(piece)) for piece in pieces]
    assert checksums.combine(parts) == crc32c(b"".join(pieces))


def test_the_checksum_of_large_parts_follows_too() -> None:
    rng = random.Random(1)
    pieces = [rng.randbytes(size) for size in (3 * MIB + 1, MIB, MIB, 12_345)]
    parts = [(crc32c(piece), len(piece)) for piece in pieces]
    assert checksums.combine(parts) == crc32c(b"".join(pieces))


@given(
    sizes=st.lists(st.integers(0, 3 * MIB), min_size=1, max_size=5),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_pieces_cover_a_range_exactly(sizes: list[int], cut: tuple[float, float]) -> None:
    total = sum(sizes)
    begin, end = sorted(int(total * each) for each in cut)
    segments = [records.Segment(Stream(bytes(16), i, i), size) for i, size in enumerate(sizes)]
    starts = {segment.stream: sum(sizes[:i]) for i, segment in enumerate(segments)}
    at = begin
    for piece in ranges.pieces(segments, begin, end - begin):
        stream = keys.decode_stream(piece.key)
        number = int.from_bytes(piece.key[-4:])
        assert starts[stream] + number * MIB + piece.offset == at
        assert 0 < piece.length <= MIB - piece.offset
        at += piece.length
    assert at == end or begin == end


@given(data=st.binary(max_size=300), crc=st.none() | st.integers(0, (1 << 32) - 1))
def test_data_is_read_without_protobuf_as_with_it(data: bytes, crc: int | None) -> None:
    message = pb.PutObjectRequest(chunk=pb.DataChunk(data=data, crc32c=crc)).SerializeToString()
    found = wire.parse_data(pb.PutObjectRequest, message)
    assert (bytes(found.data), found.crc32c) == (data, crc)


@given(message=st.binary(max_size=40))
def test_any_bytes_are_read_as_protobuf_reads_them(message: bytes) -> None:
    """The quick reader never sees data where google.protobuf sees something else."""
    quick = wire._quick(message)
    if quick is not None:
        request = pb.PutObjectRequest.FromString(message)
        assert request.chunk.data == bytes(quick.data)
        assert request.chunk.HasField("crc32c") == (quick.crc32c is not None)


@given(
    prefix=st.sampled_from([b"\x12", b"\x0a", b""]),
    inner=st.lists(
        st.sampled_from(
            [b"\x0a\x03abc", b"\x15abcd", b"\x0a\x00", b"\x1a\x01x", b"\x0a\x83\x00abc"]
        ),
        max_size=3,
    ),
)
def test_odd_shapes_are_read_as_protobuf_reads_them(prefix: bytes, inner: list[bytes]) -> None:
    body = b"".join(inner)
    message = prefix + bytes([len(body)]) + body
    quick = wire._quick(message)
    if quick is not None:
        chunk = pb.PutObjectRequest.FromString(message).chunk
        assert chunk.data == bytes(quick.data)
        assert (chunk.crc32c if chunk.HasField("crc32c") else None) == quick.crc32c


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, MIB])
def test_a_chunk_transaction_is_what_protobuf_would_write(size: int) -> None:
    guard = wire.guard([b"one", b"two"])
    data = bytes(size)
    encoded = wire.chunk_txn(guard, b"key", [memoryview(data)[: size // 2], data[size // 2 :]])
    expected = kv_pb2.TxnRequest()
    for key in (b"one", b"two"):
        expected.compares.add(key=key, operator=kv_pb2.COMPARE_OPERATOR_GREATER, version=0)
    expected.then_ops.add(put=kv_pb2.PutOp(key=b"key", value=data))
    assert kv_pb2.TxnRequest.FromString(encoded) == expected
    assert all(compare.WhichOneof("target") == "version" for compare in expected.compares)


@pytest.mark.parametrize("size", [1, 127, 128, 70_000, MIB])
def test_a_response_is_what_protobuf_reads(size: int) -> None:
    data = bytes(size)
    encoded = wire.response_prefix(size) + data + wire.response_suffix(0xDEADBEEF)
    expected = pb.GetObjectResponse(chunk=pb.DataChunk(data=data, crc32c=0xDEADBEEF))
    assert pb.GetObjectResponse.FromString(encoded) == expected


def test_every_reason_has_a_code() -> None:
    assert set(CODES) == set(Reason)
    assert len(fields(records.ObjectRecord)) == 8
