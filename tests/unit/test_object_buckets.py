"""Buckets: made, listed, and deleted without losing a race."""

import asyncio

import pytest

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.errors import BedplateError
from bedplate.native.store import Method
from bedplate.storage.objects import keys
from tests.unit.object_harness import MIB, Objects, failing, make, pattern


async def create(objects: Objects, name: str) -> None:
    await objects.call("CreateBucket", pb.CreateBucketRequest(bucket=name))


async def delete(objects: Objects, name: str = "b") -> None:
    await objects.call("DeleteBucket", pb.DeleteBucketRequest(bucket=name))


async def bucket_names(objects: Objects, **fields: object) -> list[str]:
    found: list[str] = []
    token = b""
    while True:
        request = pb.ListBucketsRequest(page_token=token, **fields)  # type: ignore[arg-type]
        page = await objects.call("ListBuckets", request)
        found += [info.bucket for info in page.buckets]
        token = page.next_page_token
        if not token:
            return found


async def test_buckets_are_made_once_and_listed_in_order() -> None:
    objects = await make()
    for name in ("a", "a b", "ä", "z\x01", "a\x01"):
        await create(objects, name)
    with failing("BUCKET_EXISTS"):
        await create(objects, "ä")
    expected = sorted(["b", "a", "a b", "ä", "z\x01", "a\x01"], key=str.encode)
    assert await bucket_names(objects) == expected
    assert await bucket_names(objects, page_size=2) == expected
    assert await bucket_names(objects, prefix="a", page_size=1) == ["a", "a\x01", "a b"]


async def test_only_an_empty_bucket_is_deleted() -> None:
    objects = await make()
    await objects.put("k", b"x")
    with failing("BUCKET_NOT_EMPTY"):
        await delete(objects)
    await objects.delete("k")
    upload_id = await objects.begin()
    with failing("BUCKET_NOT_EMPTY"):
        await delete(objects)
    await objects.call(
        "AbortMultipartUpload",
        pb.AbortMultipartUploadRequest(bucket="b", key="k", upload_id=upload_id),
    )
    await delete(objects)
    with failing("BUCKET_NOT_FOUND"):
        await delete(objects)
    with failing("BUCKET_NOT_FOUND"):
        await objects.listing()
    await objects.reap()
    assert not objects.engine.present()


async def test_names_that_look_alike_do_not_mix() -> None:
    objects = await make()
    await create(objects, "b\x01")
    await objects.put("x", b"1", bucket="b\x01")
    await objects.put("\x01x", b"2")
    assert [info.key for info in (await objects.listing()).objects] == ["\x01x"]
    await objects.delete("\x01x")
    await delete(objects)
    assert (await objects.get("x", bucket="b\x01"))[1] == b"1"


@pytest.mark.parametrize("size", [5, 3 * MIB])
async def test_a_put_cannot_slip_into_a_bucket_being_deleted(size: int) -> None:
    """The put arrives after the look into the bucket and before its end."""
    objects = await make()
    put: list[asyncio.Task[pb.PutObjectResponse]] = []
    seen = 0

    async def interfere(method: Method, request: bytes) -> None:
        nonlocal seen
        if method is Method.TXN and objects.core.closing:
            seen += 1
            if seen == 2:  # the bucket is marked; this is its end
                put.append(asyncio.create_task(objects.put("k", pattern(size))))
                for _ in range(50):
                    await asyncio.sleep(0)
                assert not put[0].done()

    objects.engine.before = interfere
    await delete(objects)
    with failing("BUCKET_NOT_FOUND"):
        await put[0]
    await objects.reap()
    assert not objects.engine.present()


async def test_a_put_during_a_deletion_that_fails_goes_through() -> None:
    objects = await make()
    put: list[asyncio.Task[pb.PutObjectResponse]] = []
    armed = True

    async def interfere(method: Method, request: bytes) -> None:
        nonlocal armed
        if method is Method.TXN and objects.core.closing and armed:
            armed = False
            await objects.put("first", b"1")  # after the cheap look, before the mark
            put.append(asyncio.create_task(objects.put("second", b"2")))

    objects.engine.before = interfere
    with failing("BUCKET_NOT_EMPTY"):
        await delete(objects)
    await put[0]
    assert {info.key for info in (await objects.listing()).objects} == {"first", "second"}
    assert not objects.leftovers()


async def test_a_mark_left_by_a_crash_is_removed() -> None:
    objects = await make()

    async def die(method: Method, request: bytes) -> None:
        if method is Method.TXN and objects.engine.present(keys.CLOSING):
            raise asyncio.CancelledError

    objects.engine.before = die
    with pytest.raises(asyncio.CancelledError):
        await delete(objects)
    objects.engine.before = None
    with pytest.raises(BedplateError):
        await objects.put("k", b"x")
    restarted = await make(objects.engine)
    await restarted.reap()
    await restarted.put("k", b"x")


async def test_deletions_of_one_bucket_at_once_have_one_winner() -> None:
    objects = await make()
    outcomes = await asyncio.gather(*(delete(objects) for _ in range(5)), return_exceptions=True)
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, BedplateError)]
    assert reasons == ["BUCKET_NOT_FOUND"] * 4
    assert not objects.engine.present()


@pytest.mark.parametrize("seed", range(20))
async def test_a_bucket_is_never_deleted_around_an_object(seed: int) -> None:
    """Puts and deletions of the bucket from two processes, interleaved by seed."""
    import random

    rng = random.Random(seed)
    one = await make()
    two = await make(one.engine)

    async def shuffle(method: Method, request: bytes) -> None:
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)

    one.engine.before = shuffle
    outcomes = await asyncio.gather(
        *(side.put(f"{i}", b"x") for i in range(3) for side in (one, two)),
        *(delete(side) for side in (one, two)),
        return_exceptions=True,
    )
    stored = [outcome for outcome in outcomes if isinstance(outcome, pb.PutObjectResponse)]
    one.engine.before = None
    if one.engine.present(b"m"):
        assert one.engine.present(b"b")
        assert {info.key for info in (await one.listing()).objects} == {
            response.info.key for response in stored
        }
    else:
        assert not stored
