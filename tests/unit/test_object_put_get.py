"""Objects go in and come out: sizes, checksums, ranges, conditions."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.errors import BedplateError, Code
from bedplate.native.store import Method, crc32c
from bedplate.storage.budget import BYTES_MAX_DEFAULT
from tests.unit.object_harness import MIB, Context, failing, make, pattern

PATIENCE_S = 10.0


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB, 3 * MIB + 7])
async def test_an_object_of_any_size_comes_back_as_it_was(size: int) -> None:
    objects = await make()
    data = pattern(size)
    response = await objects.put("k", data, content_type="text/x", user_metadata={"a": "1"})
    header, received = await objects.get("k")
    assert received == data
    assert header.info == response.info
    assert header.info.size == size
    assert header.info.crc32c == crc32c(data)
    assert header.info.content_type == "text/x"
    assert dict(header.info.user_metadata) == {"a": "1"}
    assert header.info.revision == response.revision
    assert objects.chunks() == -(-size // MIB)
    assert not objects.leftovers()


@pytest.mark.parametrize("piece", [1000, 65_536, 700_001, MIB])
async def test_messages_of_any_size_make_chunks_of_one_mebibyte(piece: int) -> None:
    objects = await make()
    data = pattern(2 * MIB + 12_345)
    await objects.put("k", [data[at : at + piece] for at in range(0, len(data), piece)])
    _, received = await objects.get("k")
    assert received == data
    assert objects.chunks() == 3


async def test_an_object_of_one_chunk_is_a_single_transaction() -> None:
    objects = await make()
    revision = objects.engine.revision
    await objects.put("k", pattern(MIB))
    assert objects.engine.revision == revision + 1


@pytest.mark.parametrize(
    ("offset", "length", "suffix", "expected"),
    [
        (0, 0, 0, (0, 3 * MIB + 10)),
        (5, 10, 0, (5, 15)),
        (MIB - 1, 2, 0, (MIB - 1, MIB + 1)),
        (MIB, MIB, 0, (MIB, 2 * MIB)),
        (1, 3 * MIB, 0, (1, 3 * MIB + 1)),
        (3 * MIB, 0, 0, (3 * MIB, 3 * MIB + 10)),
        (3 * MIB + 9, 100, 0, (3 * MIB + 9, 3 * MIB + 10)),
        (0, 0, 11, (3 * MIB - 1, 3 * MIB + 10)),
        (0, 0, 1 << 40, (0, 3 * MIB + 10)),
    ],
)
async def test_a_range_gives_exactly_those_bytes(
    offset: int, length: int, suffix: int, expected: tuple[int, int]
) -> None:
    objects = await make()
    data = pattern(3 * MIB + 10)
    await objects.put("k", data)
    wanted = pb.ByteRange(offset=offset, length=length, suffix_length=suffix)
    header, received = await objects.get("k", range=wanted)
    assert received == data[slice(*expected)]
    assert header.offset == expected[0]


async def test_a_range_outside_the_object_is_refused() -> None:
    objects = await make()
    await objects.put("k", b"abc")
    await objects.put("empty")
    with failing("RANGE_NOT_SATISFIABLE"):
        await objects.get("k", range=pb.ByteRange(offset=3))
    with failing("FIELD_INVALID"):
        await objects.get("k", range=pb.ByteRange(offset=1, suffix_length=1))
    assert (await objects.get("empty", range=pb.ByteRange(length=5)))[1] == b""


async def test_what_is_not_there_is_told_apart() -> None:
    objects = await make()
    with failing("OBJECT_NOT_FOUND"):
        await objects.head("k")
    with failing("OBJECT_NOT_FOUND"):
        await objects.get("k")
    with failing("BUCKET_NOT_FOUND"):
        await objects.head("k", bucket="other")
    with failing("BUCKET_NOT_FOUND"):
        await objects.put("k", b"small", bucket="other")
    with failing("BUCKET_NOT_FOUND"):
        await objects.put("k", pattern(2 * MIB), bucket="other")
    assert await objects.delete("k") is False


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_checksums_that_match_are_taken(size: int) -> None:
    objects = await make()
    data = pattern(size)
    await objects.put("k", data, checksums=True, size=size, crc32c=crc32c(data))
    assert (await objects.get("k"))[1] == data


@pytest.mark.parametrize("size", [10, 3 * MIB])
@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"crc32c": 1}, "CHECKSUM_MISMATCH"),
        ({"size": 9}, "SIZE_MISMATCH"),
        ({"size": 3 * MIB + 1}, "SIZE_MISMATCH"),
    ],
)
async def test_what_is_not_as_announced_leaves_nothing(
    size: int, header: dict[str, Any], reason: str
) -> None:
    objects = await make()
    await objects.put("k", b"before")
    with failing(reason):
        await objects.put("k", pattern(size), **header)
    assert (await objects.get("k"))[1] == b"before"
    await objects.reap()
    assert objects.chunks() == 1
    assert not objects.leftovers()


async def test_a_message_with_a_wrong_checksum_is_refused() -> None:
    objects = await make()

    async def messages() -> AsyncIterator[bytes]:
        header = pb.PutObjectHeader(bucket="b", key="k")
        yield pb.PutObjectRequest(header=header).SerializeToString()
        yield pb.PutObjectRequest(
            chunk=pb.DataChunk(data=b"abc", crc32c=crc32c(b"abd"))
        ).SerializeToString()

    with failing("CHECKSUM_MISMATCH"):
        await objects.handlers["PutObject"].stream_unary(messages(), Context())
    with failing("OBJECT_NOT_FOUND"):
        await objects.head("k")


@pytest.mark.parametrize("size", [10, 5 * MIB])
async def test_a_stream_that_breaks_commits_nothing(size: int) -> None:
    objects = await make()
    with failing("STREAM_BROKEN"):
        await objects.put("k", pattern(size), context=Context(alive=False))
    with failing("OBJECT_NOT_FOUND"):
        await objects.head("k")
    await objects.reap()
    assert not objects.chunks()
    assert not objects.leftovers()


async def test_a_cancelled_upload_leaves_nothing_and_gives_its_budget_back() -> None:
    objects = await make()
    stuck = asyncio.Event()

    async def forever() -> AsyncIterator[bytes]:
        for i in range(4):
            yield pattern(MIB, i)
        stuck.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(objects.put("k", forever()))
    await stuck.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert objects.core.budgets.receiving.held == 0
    assert not objects.core.uploads
    assert objects.core.reclaim.is_set()
    await objects.reap()
    assert not objects.chunks()
    assert not objects.leftovers()


@pytest.mark.parametrize("came", [0, 1000, MIB, MIB + 1000, 3 * MIB])
@pytest.mark.parametrize("more", [0, 1, 2 * MIB])
async def test_what_is_put_aside_is_taken_up_again(
    came: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bedplate.storage.budget.SILENCE_S", 0.001)
    objects = await make()
    budget, data = objects.core.budgets.receiving, pattern(came + more)
    goes_on = asyncio.Event()

    async def paused() -> AsyncIterator[bytes]:
        for at in range(0, came, MIB):
            yield data[at : min(at + MIB, came)]
        await goes_on.wait()
        for at in range(came, len(data), MIB):
            yield data[at : at + MIB]

    upload = asyncio.create_task(objects.put("k", paused()))
    async with asyncio.timeout(PATIENCE_S):
        while not budget.held:
            assert not upload.done(), upload.exception()
            await asyncio.sleep(0)
    with budget.share() as other:
        async with asyncio.timeout(PATIENCE_S):
            await other.take(BYTES_MAX_DEFAULT)  # comes back from the silent one
        assert budget.held == BYTES_MAX_DEFAULT
        goes_on.set()
    await upload
    assert (await objects.get("k"))[1] == data
    assert budget.held == 0
    assert not objects.leftovers()


async def test_who_trickles_holds_its_room_for_a_turn_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bedplate.storage.budget.SILENCE_S", 60.0)  # it is never silent
    objects = await make()
    budget, seconds = objects.core.budgets.receiving, 0.0
    objects.core.monotonic = lambda: seconds
    data, more = pattern(MIB), asyncio.Semaphore(0)

    async def trickle() -> AsyncIterator[bytes]:
        for at in range(0, MIB, 64 << 10):
            await more.acquire()
            yield data[at : at + (64 << 10)]

    upload = asyncio.create_task(objects.put("k", trickle()))
    more.release()
    async with asyncio.timeout(PATIENCE_S):
        while not budget.held:
            assert not upload.done(), upload.exception()
            await asyncio.sleep(0)
    with budget.share() as other:
        waiting = asyncio.create_task(other.take(BYTES_MAX_DEFAULT))
        await asyncio.sleep(0)
        seconds += 10.0
        more.release()
        async with asyncio.timeout(PATIENCE_S):
            await waiting
    for _ in range(MIB // (64 << 10)):
        more.release()
    await upload
    assert (await objects.get("k"))[1] == data


async def test_what_the_disk_has_no_room_for_is_refused_before_its_data() -> None:
    objects = await make()
    objects.engine.room = 1000

    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("its data was asked for")
        yield b""

    with failing("DISK_FULL"):
        await objects.put("k", never(), size=1001)
    upload_id = await objects.begin("k")
    with failing("DISK_FULL"):
        await objects.part(upload_id, 1, never(), size=1001)
    await objects.put("k", pattern(1000), size=1000)


@pytest.mark.parametrize(
    ("reason", "field", "header"),
    [
        ("NAME_INVALID", "header.key", {"key": ""}),
        ("BUCKET_NOT_FOUND", "header.bucket", {"bucket": "none"}),
        ("CONDITION_FAILED", "header.conditions.if_match", {"conditions": {"if_match": "x"}}),
        ("SIZE_MISMATCH", "header.size", {"size": 9}),
        ("CHECKSUM_MISMATCH", "header.crc32c", {"crc32c": 1}),
    ],
)
async def test_an_upload_names_fields_of_its_header(
    reason: str, field: str, header: dict[str, Any]
) -> None:
    objects = await make()
    with pytest.raises(BedplateError) as caught:
        await objects.put(**{"key": "k", "data": b"data"} | header)
    assert (caught.value.reason, caught.value.field) == (reason, field)


async def test_a_full_queue_slows_an_upload_down_and_nothing_else() -> None:
    objects = await make()
    refusals = 5

    async def refuse(method: Method, request: bytes) -> None:
        nonlocal refusals
        if len(request) > MIB and refusals:
            refusals -= 1
            raise BedplateError("full", code=Code.RESOURCE_EXHAUSTED, reason="QUEUE_FULL")

    objects.engine.before = refuse
    await objects.put("k", pattern(10 * MIB))
    assert not refusals
    assert (await objects.get("k"))[1] == pattern(10 * MIB)


async def test_streams_out_of_shape_are_malformed() -> None:
    objects = await make()
    put = objects.handlers["PutObject"].stream_unary
    header = pb.PutObjectRequest(header=pb.PutObjectHeader(bucket="b", key="k"))
    data = pb.PutObjectRequest(chunk=pb.DataChunk(data=b"x"))
    long = pb.PutObjectRequest(chunk=pb.DataChunk(data=bytes(MIB + 1)))
    for stream in ([], [data], [header, header], [b"\xff"], [header, b"\xff"], [header, long]):

        async def messages(
            stream: Any = stream,
        ) -> AsyncIterator[bytes]:
            for message in stream:
                yield message if isinstance(message, bytes) else message.SerializeToString()

        with failing("MALFORMED_REQUEST"):
            await put(messages(), Context())


async def test_limits_hold_exactly() -> None:
    objects = await make(key_bytes_max=10, metadata_bytes_max=8, size_max=2 * MIB)
    await objects.put("k" * 10, pattern(2 * MIB), user_metadata={"abcd": "efgh"})
    with failing("NAME_INVALID"):
        await objects.put("k" * 11)
    with failing("METADATA_TOO_LARGE"):
        await objects.put("k", user_metadata={"abcd": "efghi"})
    with failing("OBJECT_TOO_LARGE"):
        await objects.put("k", pattern(2 * MIB + 1))
    with failing("OBJECT_TOO_LARGE"):
        await objects.put("k", b"", size=2 * MIB + 1)
    for key in ("", "a\0b"):
        with failing("NAME_INVALID"):
            await objects.put(key)
    for bucket in ("", "a/b", "a\0b", "x" * 256):
        with failing("NAME_INVALID"):
            await objects.put("k", bucket=bucket)
    with failing("FIELD_INVALID"):
        await objects.put("k", content_type="x" * 256)
    with failing("FIELD_INVALID"):
        await objects.put("k", user_metadata={"": "v"})


async def test_errors_name_the_field() -> None:
    objects = await make()
    with pytest.raises(Exception, match="NUL") as caught:
        await objects.put("a\0b")
    assert caught.value.field == "header.key"  # type: ignore[attr-defined]


async def test_conditions_on_reads_and_writes() -> None:
    objects = await make()
    etag = (await objects.put("k", b"one")).info.etag
    for key, conditions in (
        ("new", pb.Conditions(if_match="*")),
        ("new", pb.Conditions(if_match=etag)),
        ("k", pb.Conditions(if_none_match="*")),
        ("k", pb.Conditions(if_none_match=etag)),
        ("k", pb.Conditions(if_match="0" * 32)),
    ):
        with failing("CONDITION_FAILED"):
            await objects.put(key, b"two", conditions=conditions)
        if key == "k":
            with failing("CONDITION_FAILED"):
                await objects.get(key, conditions=conditions)
        if conditions.if_match or key == "k":
            with failing("CONDITION_FAILED"):
                await objects.delete(key, conditions=conditions)
    await objects.get("k", conditions=pb.Conditions(if_match=etag, if_none_match="other"))
    await objects.put("k", b"two", conditions=pb.Conditions(if_match=etag))
    await objects.put("new", b"n", conditions=pb.Conditions(if_none_match="*"))
    with failing("CONDITION_FAILED"):
        await objects.put("k", b"three", conditions=pb.Conditions(if_match=etag))
    assert (await objects.get("k"))[1] == b"two"


async def test_the_etag_changes_with_every_write() -> None:
    objects = await make()
    etags = {(await objects.put("k", b"same")).info.etag for _ in range(10)}
    assert len(etags) == 10


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_of_two_creators_exactly_one_wins(size: int) -> None:
    objects = await make()
    conditions = pb.Conditions(if_none_match="*")
    outcomes = await asyncio.gather(
        *(objects.put("k", pattern(size, i), conditions=conditions) for i in range(8)),
        return_exceptions=True,
    )
    won = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, pb.PutObjectResponse)]
    assert len(won) == 1
    assert (await objects.get("k"))[1] == pattern(size, won[0])
    await objects.reap()
    assert objects.chunks() == -(-size // MIB)
    assert not objects.leftovers()


async def test_of_two_processes_exactly_one_wins() -> None:
    one = await make()
    others = [await make(one.engine) for _ in range(7)]

    async def take_turns(method: Method, request: bytes) -> None:
        await asyncio.sleep(0)

    one.engine.before = take_turns
    conditions = pb.Conditions(if_none_match="*")
    outcomes = await asyncio.gather(
        *(each.put("k", b"%d" % i, conditions=conditions) for i, each in enumerate([one, *others])),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, pb.PutObjectResponse) for outcome in outcomes) == 1


async def test_a_writer_that_never_wins_is_told_so() -> None:
    objects, other = await make(), None
    other = await make(objects.engine)
    busy = False

    async def interfere(method: object, request: bytes) -> None:
        nonlocal busy
        if method == 5 and not busy:  # before every transaction of ours, another one
            busy = True
            await other.put("k", b"theirs")
            busy = False

    objects.engine.before = interfere
    with failing("CONFLICT"):
        await objects.put("k", b"ours")
    objects.engine.before = None
    assert (await objects.get("k"))[1] == b"theirs"
