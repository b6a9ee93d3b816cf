"""Multipart uploads: any order, replaced parts, completion, abortion, races."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.native.store import Method, crc32c
from bedplate.storage.objects import keys
from tests.unit.object_harness import MIB, Objects, failing, make, pattern

MIN = 5 * MIB


async def abort(objects: Objects, upload_id: str, key: str = "k") -> None:
    await objects.call(
        "AbortMultipartUpload",
        pb.AbortMultipartUploadRequest(bucket="b", key=key, upload_id=upload_id),
    )


async def list_parts(objects: Objects, upload_id: str, **fields: object) -> pb.ListPartsResponse:
    request = pb.ListPartsRequest(bucket="b", key="k", upload_id=upload_id, **fields)  # type: ignore[arg-type]
    response: pb.ListPartsResponse = await objects.call("ListParts", request)
    return response


async def test_parts_in_any_order_become_one_object() -> None:
    objects = await make()
    upload_id = await objects.begin(content_type="x/y", user_metadata={"m": "1"})
    data = {7: pattern(MIN, 7), 2: pattern(MIN + 11, 2), 10_000: pattern(3, 3)}
    parts = dict(
        zip(
            data,
            await asyncio.gather(*(objects.part(upload_id, n, d) for n, d in data.items())),
            strict=True,
        )
    )
    with failing("OBJECT_NOT_FOUND"):
        await objects.head("k")
    whole = data[2] + data[7] + data[10_000]
    info = await objects.complete(
        upload_id, [parts[n] for n in sorted(parts)], size=len(whole), crc32c=crc32c(whole)
    )
    header, received = await objects.get("k")
    assert received == whole
    assert header.info == info
    assert (info.size, info.crc32c, info.part_count) == (len(whole), crc32c(whole), 3)
    assert (info.content_type, dict(info.user_metadata)) == ("x/y", {"m": "1"})
    across = pb.ByteRange(offset=MIN + 5, length=20)
    assert (await objects.get("k", range=across))[1] == whole[MIN + 5 : MIN + 25]
    await objects.reap()
    assert [key[:1] for key in objects.leftovers()] == [keys.RESULT]
    await objects.delete("k")
    await objects.reap()
    objects.now_ms += 86_400_001
    await objects.reap()
    assert objects.engine.present() == [keys.bucket(b"b")]


async def test_a_part_sent_again_replaces_the_first() -> None:
    objects = await make()
    upload_id = await objects.begin()
    old = await objects.part(upload_id, 1, pattern(20 * MIB, 1))
    new = await objects.part(upload_id, 1, pattern(2 * MIB, 2))
    assert old.etag != new.etag
    await objects.reap()
    assert objects.chunks() == 2
    with failing("PART_NOT_FOUND"):
        await objects.complete(upload_id, [old])
    await objects.complete(upload_id, [new])
    assert (await objects.get("k"))[1] == pattern(2 * MIB, 2)


async def test_parts_that_are_not_listed_are_dropped() -> None:
    objects = await make()
    upload_id = await objects.begin()
    parts = [await objects.part(upload_id, n, pattern(MIN, n)) for n in (1, 2, 3)]
    await objects.complete(upload_id, parts[1:2])
    await objects.reap()
    assert objects.chunks() == 5
    assert not objects.engine.present(b"q")
    assert (await objects.get("k"))[1] == pattern(MIN, 2)


async def test_a_list_of_parts_that_is_wrong_changes_nothing() -> None:
    objects = await make()
    upload_id = await objects.begin()
    one = await objects.part(upload_id, 1, pattern(MIN, 1))
    two = await objects.part(upload_id, 2, pattern(100, 2))
    three = await objects.part(upload_id, 3, pattern(100, 3))
    unknown = pb.PartInfo(part_number=4, etag="x")
    revision = objects.engine.revision
    for parts, fields, reason in (
        ([], {}, "PART_ORDER_INVALID"),
        ([two, one], {}, "PART_ORDER_INVALID"),
        ([one, one], {}, "PART_ORDER_INVALID"),
        ([one, unknown], {}, "PART_NOT_FOUND"),
        ([one, two, three], {}, "PART_TOO_SMALL"),
        ([one, two], {"size": 1}, "SIZE_MISMATCH"),
        ([one, two], {"crc32c": 1}, "CHECKSUM_MISMATCH"),
        ([one, two], {"conditions": pb.Conditions(if_match="*")}, "CONDITION_FAILED"),
    ):
        with failing(reason):
            await objects.complete(upload_id, parts, **fields)
    assert objects.engine.revision == revision
    await objects.complete(upload_id, [one, three])
    assert (await objects.get("k"))[1] == pattern(MIN, 1) + pattern(100, 3)


async def test_the_size_of_the_whole_is_limited() -> None:
    objects = await make(size_max=6 * MIB, part_size_min=1)
    upload_id = await objects.begin()
    parts = [await objects.part(upload_id, n, pattern(4 * MIB, n)) for n in (1, 2)]
    with failing("OBJECT_TOO_LARGE"):
        await objects.complete(upload_id, parts)
    with failing("OBJECT_TOO_LARGE"):
        await objects.part(upload_id, 3, b"", size=7 * MIB)


async def test_a_completion_repeated_returns_the_first_result() -> None:
    objects = await make()
    upload_id = await objects.begin()
    parts = [await objects.part(upload_id, n, pattern(MIN, n)) for n in (1, 2)]
    only_new = pb.Conditions(if_none_match="*")
    first = await objects.complete(upload_id, parts, conditions=only_new)
    assert await objects.complete(upload_id, parts, conditions=only_new) == first
    await objects.put("k", b"replaced since")
    assert await objects.complete(upload_id, parts, conditions=only_new) == first
    with failing("UPLOAD_NOT_FOUND"):
        await objects.complete(upload_id, parts[:1])
    with failing("UPLOAD_NOT_FOUND"):
        await objects.complete(upload_id, parts, key="other")
    objects.now_ms += 86_400_001
    await objects.reap()
    with failing("UPLOAD_NOT_FOUND"):
        await objects.complete(upload_id, parts)


async def test_completions_at_once_have_one_result() -> None:
    objects = await make()
    upload_id = await objects.begin()
    part = await objects.part(upload_id, 1, b"data")
    infos = await asyncio.gather(*(objects.complete(upload_id, [part]) for _ in range(5)))
    assert len({info.SerializeToString(deterministic=True) for info in infos}) == 1


async def test_a_part_replaced_while_completing_is_never_half_used() -> None:
    objects = await make()
    upload_id = await objects.begin()
    old = await objects.part(upload_id, 1, pattern(20 * MIB, 1))

    async def replace(method: Method, request: bytes) -> None:
        if method is Method.TXN:  # the completion's own, decided on the old part
            objects.engine.before = None
            await objects.part(upload_id, 1, pattern(MIB, 2))
            await objects.reap()

    objects.engine.before = replace
    with failing("PART_NOT_FOUND"):
        await objects.complete(upload_id, [old])


async def test_a_part_sent_twice_at_once_leaves_one() -> None:
    objects = await make()
    other = await make(objects.engine)
    upload_id = await objects.begin()

    async def send_first(method: Method, request: bytes) -> None:
        if method is Method.TXN:
            objects.engine.before = None
            await other.part(upload_id, 1, b"theirs")

    objects.engine.before = send_first
    part = await objects.part(upload_id, 1, b"ours")
    assert objects.chunks() == 1
    await objects.complete(upload_id, [part])
    assert (await objects.get("k"))[1] == b"ours"


async def test_an_abort_leaves_nothing_and_takes_nothing_more() -> None:
    objects = await make()
    upload_id = await objects.begin()
    await objects.part(upload_id, 1, pattern(20 * MIB))
    await objects.part(upload_id, 2, pattern(10))
    waiting, resume = asyncio.Event(), asyncio.Event()

    async def pause() -> AsyncIterator[bytes]:
        for i in range(3):
            yield pattern(MIB, i)
        waiting.set()
        await resume.wait()
        for i in range(3):
            yield pattern(MIB, i)

    late = asyncio.create_task(objects.part(upload_id, 3, pause()))
    await waiting.wait()
    await abort(objects, upload_id)
    await objects.reap()
    chunks = objects.chunks()
    resume.set()
    with failing("UPLOAD_NOT_FOUND"):
        await late
    assert objects.chunks() == chunks == 0
    await objects.reap()
    assert objects.engine.present() == [keys.bucket(b"b")]
    for action in (
        abort(objects, upload_id),
        objects.part(upload_id, 1, b""),
        objects.complete(upload_id, [pb.PartInfo(part_number=1, etag="x")]),
        list_parts(objects, upload_id),
    ):
        with failing("UPLOAD_NOT_FOUND"):
            await action


async def test_an_upload_without_parts_for_too_long_is_aborted() -> None:
    objects = await make(upload_idle_max=60)
    idle, active = await objects.begin(), await objects.begin()
    await objects.part(idle, 1, pattern(3 * MIB))
    objects.now_ms += 50_000
    part = await objects.part(active, 1, b"alive")
    objects.now_ms += 50_000
    await objects.reap()
    with failing("UPLOAD_NOT_FOUND"):
        await list_parts(objects, idle)
    await objects.complete(active, [part])
    assert objects.chunks() == 1


async def test_uploads_to_one_key_do_not_disturb_each_other() -> None:
    objects = await make()
    uploads = [await objects.begin() for _ in range(3)]
    parts = [await objects.part(u, 1, pattern(MIN, i)) for i, u in enumerate(uploads)]
    await abort(objects, uploads[0])
    await objects.complete(uploads[1], [parts[1]])
    await objects.complete(uploads[2], [parts[2]])
    await objects.reap()
    assert (await objects.get("k"))[1] == pattern(MIN, 2)
    assert objects.chunks() == 5


async def test_ids_that_are_none_are_not_found() -> None:
    objects = await make()
    upload_id = await objects.begin()
    for wrong in ("", "x", "0" * 32, upload_id.upper(), upload_id + "00", "ä" * 16):
        if wrong != upload_id:
            with failing("UPLOAD_NOT_FOUND"):
                await objects.part(wrong, 1, b"")
    with failing("UPLOAD_NOT_FOUND"):
        await objects.part(upload_id, 1, b"", key="other")
    for number in (0, 10_001):
        with failing("FIELD_INVALID"):
            await objects.part(upload_id, number, b"")
    with failing("BUCKET_NOT_FOUND"):
        await objects.call(
            "CreateMultipartUpload", pb.CreateMultipartUploadRequest(bucket="no", key="k")
        )


@pytest.mark.parametrize("fields", [{"size": 4}, {"size": 2}, {"crc32c": 1}])
async def test_a_part_that_is_not_as_announced_is_not_stored(fields: dict[str, Any]) -> None:
    objects = await make()
    upload_id = await objects.begin()
    with failing("CHECKSUM_MISMATCH" if "crc32c" in fields else "SIZE_MISMATCH"):
        await objects.part(upload_id, 1, b"abc", **fields)
    assert not (await list_parts(objects, upload_id)).parts


async def test_parts_are_listed_in_pages() -> None:
    objects = await make()
    upload_id = await objects.begin()
    numbers = [1, 2, 3, 255, 256, 257, 10_000]
    sent = {n: await objects.part(upload_id, n, b"%d" % n) for n in reversed(numbers)}
    found: list[pb.PartInfo] = []
    token = b""
    while True:
        page = await list_parts(objects, upload_id, page_size=3, page_token=token)
        found += page.parts
        token = page.next_page_token
        if not token:
            break
    assert found == [sent[n] for n in numbers]
    with failing("PAGE_TOKEN_INVALID"):
        await list_parts(objects, upload_id, page_token=b"junk")


async def test_uploads_are_listed_by_key_then_id() -> None:
    objects = await make()
    made = [(key, await objects.begin(key)) for key in ("b", "a", "a\x01", "ab", "a", "b/c", "é")]
    expected = sorted(made, key=lambda pair: (pair[0].encode(), pair[1]))

    async def listed(prefix: str) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        token = b""
        while True:
            request = pb.ListMultipartUploadsRequest(
                bucket="b", prefix=prefix, page_size=2, page_token=token
            )
            page = await objects.call("ListMultipartUploads", request)
            found += [(info.key, info.upload_id) for info in page.uploads]
            token = page.next_page_token
            if not token:
                return found

    assert await listed("") == expected
    assert await listed("a") == [pair for pair in expected if pair[0].startswith("a")]
    with failing("BUCKET_NOT_FOUND"):
        await objects.call("ListMultipartUploads", pb.ListMultipartUploadsRequest(bucket="no"))


async def test_ten_thousand_parts_fit() -> None:
    objects = await make(part_size_min=1)
    upload_id = await objects.begin()
    for number in range(1, 10_001):
        await objects.part(upload_id, number, number.to_bytes(2))
    request = pb.ListPartsRequest(bucket="b", key="k", upload_id=upload_id)
    parts: list[pb.PartInfo] = []
    while True:
        page = await objects.call("ListParts", request)
        parts += page.parts
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    dropped, kept = parts[::5], [part for i, part in enumerate(parts) if i % 5]
    info = await objects.complete(upload_id, kept)
    whole = b"".join(part.part_number.to_bytes(2) for part in kept)
    assert (info.size, info.crc32c, info.part_count) == (16_000, crc32c(whole), 8000)
    await objects.reap()
    assert objects.chunks() == 8000
    assert len(dropped) == 2000
    some = pb.ByteRange(offset=9_001, length=5)
    assert (await objects.get("k", range=some))[1] == whole[9_001:9_006]
