"""Reference counts, overwriting under readers, and what the reaper gives back."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.errors import BedplateError, Code
from bedplate.native.store import Method
from bedplate.storage.objects import keys
from bedplate.storage.objects.records import BlobRecord
from tests.unit.object_harness import MIB, Context, Objects, failing, make, pattern

LARGE = 20 * MIB  # more chunks than ride in a transaction


@pytest.mark.parametrize("size", [MIB, LARGE])
async def test_overwriting_and_deleting_give_all_space_back(size: int) -> None:
    objects = await make()
    for i in range(3):
        await objects.put("k", pattern(size, i))
    await objects.reap()
    assert objects.chunks() == size // MIB
    assert await objects.delete("k")
    await objects.reap()
    assert objects.engine.present() == [keys.bucket(b"b")]


@pytest.mark.parametrize("size", [MIB, LARGE])
async def test_a_copy_shares_the_data_until_the_last_is_gone(size: int) -> None:
    objects = await make()
    original = await objects.put("a", pattern(size), content_type="x/y", user_metadata={"m": "1"})
    copy = await objects.copy("a", "c")
    assert objects.chunks() == size // MIB
    assert copy.etag != original.info.etag
    assert (copy.size, copy.crc32c) == (size, original.info.crc32c)
    assert (copy.content_type, dict(copy.user_metadata)) == ("x/y", {"m": "1"})
    await objects.delete("a")
    await objects.reap()
    assert (await objects.get("c"))[1] == pattern(size)
    await objects.delete("c")
    await objects.reap()
    assert objects.engine.present() == [keys.bucket(b"b")]


async def test_copying_over_itself_replaces_metadata() -> None:
    objects = await make()
    old = await objects.put("a", b"data", user_metadata={"m": "1"})
    with failing("FIELD_INVALID"):
        await objects.copy("a", "a", content_type="new/type")
    info = await objects.copy("a", "a", replace_metadata=True, content_type="new/type")
    assert info.etag != old.info.etag
    assert (info.content_type, dict(info.user_metadata)) == ("new/type", {})
    assert (await objects.get("a"))[1] == b"data"
    await objects.delete("a")
    assert objects.engine.present() == [keys.bucket(b"b")]


async def test_copying_over_another_copy_keeps_one_reference_each() -> None:
    objects = await make()
    await objects.put("a", b"data")
    for _ in range(3):
        await objects.copy("a", "c")
    [blob] = objects.engine.present(b"r")
    entry = await objects.core.store.get(blob)
    assert entry is not None
    assert BlobRecord.decode(entry.value).references == 2


async def test_copy_checks_both_sides() -> None:
    objects = await make()
    etag = (await objects.put("a", b"data")).info.etag
    with failing("OBJECT_NOT_FOUND"):
        await objects.copy("nothing", "c")
    with failing("CONDITION_FAILED"):
        await objects.copy("a", "c", source_conditions=pb.Conditions(if_match="x"))
    with failing("CONDITION_FAILED"):
        await objects.copy("a", "c", conditions=pb.Conditions(if_match="*"))
    with failing("BUCKET_NOT_FOUND"):
        await objects.call(
            "CopyObject",
            pb.CopyObjectRequest(source_bucket="b", source_key="a", bucket="no", key="c"),
        )
    conditions = pb.Conditions(if_match=etag)
    await objects.copy("a", "c", source_conditions=conditions)


async def test_a_source_deleted_while_it_is_copied_is_never_lost() -> None:
    objects = await make()
    await objects.put("a", b"data")

    async def delete_first(method: Method, request: bytes) -> None:
        if method is Method.TXN:
            objects.engine.before = None
            assert await objects.delete("a")

    objects.engine.before = delete_first
    with failing("OBJECT_NOT_FOUND"):
        await objects.copy("a", "c")
    assert objects.engine.present() == [keys.bucket(b"b")]


async def test_a_source_changed_while_it_is_copied_is_judged_again() -> None:
    objects = await make()
    etag = (await objects.put("a", b"data")).info.etag

    async def change_first(method: Method, request: bytes) -> None:
        if method is Method.TXN:
            objects.engine.before = None
            await objects.copy("a", "a", replace_metadata=True)

    objects.engine.before = change_first
    with failing("CONDITION_FAILED"):
        await objects.copy("a", "c", source_conditions=pb.Conditions(if_match=etag))


@pytest.mark.parametrize("how", ["overwrite", "delete"])
@pytest.mark.parametrize("size", [12 * MIB, LARGE])
async def test_a_reader_finishes_the_version_it_began(how: str, size: int) -> None:
    objects = await make()
    await objects.put("k", pattern(size, 1))

    async def interfere(written: int) -> None:
        if written == 2:  # the header and a message are out
            if how == "overwrite":
                await objects.put("k", pattern(size, 2))
            else:
                await objects.delete("k")
            await objects.reap()
            objects.engine.compact()
            objects.core.reclaim.clear()

    header, data = await objects.get("k", context=Context(on_write=interfere))
    assert data == pattern(size, 1)
    assert header.info.size == size
    assert objects.core.reclaim.is_set()  # the reaper is told that the reader is done
    await objects.reap()
    assert objects.chunks() == (size // MIB if how == "overwrite" else 0)
    assert not objects.leftovers()


async def test_a_reader_whose_pin_ran_out_reads_history_while_it_lasts() -> None:
    objects = await make()
    await objects.put("k", pattern(LARGE))
    now = 0.0
    objects.core.monotonic = lambda: now

    async def interfere(written: int) -> None:
        nonlocal now
        if written == 2:
            now += 1e6
            await objects.delete("k")
            await objects.reap()
            assert not objects.chunks()
        if written == 10 and compacting:
            objects.engine.compact()

    compacting = False
    assert (await objects.get("k", context=Context(on_write=interfere)))[1] == pattern(LARGE)
    await objects.put("k", pattern(LARGE))
    compacting = True
    with failing("OBJECT_CHANGED"):
        await objects.get("k", context=Context(on_write=interfere))


async def test_a_restart_finds_what_a_crash_left() -> None:
    objects = await make()
    await objects.put("kept", pattern(2 * MIB))
    await objects.put("gone", pattern(LARGE))
    stored = asyncio.Event()

    async def stop_half_way() -> AsyncIterator[bytes]:
        for i in range(30):
            yield pattern(MIB, i)
        stored.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(objects.put("half", stop_half_way()))
    await stored.wait()
    await objects.delete("gone")  # a garbage record that nobody collects
    restarted = await make(objects.engine)
    assert objects.engine.present(b"u")
    assert objects.engine.present(b"g")
    await restarted.reap()
    assert restarted.chunks() == 2
    assert not restarted.leftovers()
    assert (await restarted.get("kept"))[1] == pattern(2 * MIB)
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await restarted.reap()
    assert restarted.chunks() == 2


async def test_a_revoked_upload_stores_nothing_more_and_fails() -> None:
    objects = await make()
    resume = asyncio.Event()
    waiting = asyncio.Event()

    async def pause() -> AsyncIterator[bytes]:
        for i in range(3):
            yield pattern(MIB, i)
        waiting.set()
        await resume.wait()
        yield pattern(MIB)

    upload = asyncio.create_task(objects.put("k", pause()))
    await waiting.wait()
    objects.core.uploads.clear()  # as if the call were dead
    await objects.reap()
    resume.set()
    with failing("CONFLICT"):
        await upload
    assert not objects.chunks()
    assert not objects.leftovers()


async def test_an_upload_revoked_at_its_commit_fails() -> None:
    objects = await make()

    async def revoke(method: Method, request: bytes) -> None:
        if method is Method.GET:  # the commit reads the object first: every chunk is stored
            objects.engine.before = None
            objects.core.uploads.clear()
            await objects.reap()

    objects.engine.before = revoke
    with failing("CONFLICT"):
        await objects.put("k", pattern(3 * MIB))
    assert objects.engine.present() == [keys.bucket(b"b")]


async def test_an_upload_that_stalls_too_long_is_removed() -> None:
    objects = await make(upload_idle_max=60)
    now = 0.0
    objects.core.monotonic = lambda: now
    waiting, resume = asyncio.Event(), asyncio.Event()

    async def stall() -> AsyncIterator[bytes]:
        for i in range(3):
            yield pattern(MIB, i)
        waiting.set()
        await resume.wait()

    upload = asyncio.create_task(objects.put("k", stall()))
    await waiting.wait()
    now = 60.0
    await objects.reap()
    assert objects.engine.present(b"u")
    now = 61.0
    await objects.reap()
    assert not objects.engine.present(b"u")
    resume.set()
    with failing("CONFLICT"):
        await upload


async def test_a_full_disk_takes_deletes_and_dead_uploads_back() -> None:
    objects = await make()
    for key in ("a", "b", "c"):
        await objects.put(key, pattern(LARGE))

    async def fill() -> AsyncIterator[bytes]:
        for i in range(20):
            if i == 19:
                objects.engine.disk_full = True
            yield pattern(MIB, i)

    with failing("DISK_FULL"):
        await objects.put("k", fill())
    await objects.reap()
    assert objects.chunks() == 3 * 20
    assert (await objects.get("a"))[1] == pattern(LARGE)
    assert await objects.delete("a")
    request = pb.DeleteObjectsRequest(
        bucket="b", objects=[pb.ObjectToDelete(key="b"), pb.ObjectToDelete(key="c")]
    )
    response = await objects.call("DeleteObjects", request)
    assert [result.deleted for result in response.results] == [True, True]
    assert objects.engine.present() == [keys.bucket(b"b")]


async def test_the_reaper_deletes_in_bounded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bedplate.storage.objects.reaper.STEP_KEYS", 8)
    objects = await make()
    await objects.put("k", pattern(LARGE))
    await objects.delete("k")
    objects.engine.requests.clear()
    await objects.module.reaper.collect()
    assert objects.engine.requests[Method.DELETE] == 4  # 8 + 8 + 4 chunks, and the record
    assert objects.engine.present() == [keys.bucket(b"b")]


async def test_the_reaper_works_when_woken_and_survives_refusals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objects = await make()
    await objects.put("k", pattern(LARGE))
    refusals, done = 1, asyncio.Event()

    async def refuse_once(method: Method, request: bytes) -> None:
        nonlocal refusals
        if method is Method.DELETE and refusals:
            refusals -= 1
            raise BedplateError("full", code=Code.RESOURCE_EXHAUSTED, reason="QUEUE_FULL")
        if method is Method.DELETE and not objects.chunks():  # the record goes last
            done.set()

    monkeypatch.setattr("bedplate.storage.objects.reaper._RETRY_SECONDS", (0.001, 1.0))
    objects.engine.before = refuse_once
    running = asyncio.create_task(objects.module.run())
    await objects.delete("k")
    async with asyncio.timeout(5):
        await done.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_delete_objects_tells_each_result() -> None:
    objects = await make()
    for i in range(600):
        await objects.put(f"k{i}", b"%d" % i)
    await objects.copy("k0", "copy")
    wanted = [pb.ObjectToDelete(key=f"k{i}") for i in range(600)]
    wanted += [
        pb.ObjectToDelete(key="copy"),
        pb.ObjectToDelete(key="missing"),
        pb.ObjectToDelete(key="picky", conditions=pb.Conditions(if_match="*")),
    ]
    revision = objects.engine.revision
    response = await objects.call(
        "DeleteObjects", pb.DeleteObjectsRequest(bucket="b", objects=wanted)
    )
    assert [result.key for result in response.results] == [each.key for each in wanted]
    assert all(result.deleted for result in response.results[:601])
    missing, picky = response.results[601:]
    assert (missing.deleted, missing.HasField("error")) == (False, False)
    assert (picky.error.reason, picky.error.code) == ("CONDITION_FAILED", 9)
    assert objects.engine.present() == [keys.bucket(b"b")]
    assert objects.engine.revision - revision <= 4


async def test_delete_objects_checks_its_list() -> None:
    objects = await make()

    async def delete(*names: str, bucket: str = "b") -> None:
        wanted = [pb.ObjectToDelete(key=name) for name in names]
        await objects.call("DeleteObjects", pb.DeleteObjectsRequest(bucket=bucket, objects=wanted))

    with failing("FIELD_INVALID"):
        await delete()
    with failing("DUPLICATE_KEY"):
        await delete("a", "a")
    with failing("TOO_MANY_OPS"):
        await delete(*map(str, range(1001)))
    with failing("BUCKET_NOT_FOUND"):
        await delete("a", bucket="other")


async def test_a_key_that_races_does_not_stop_the_others() -> None:
    objects = await make()
    for key in ("a", "b", "c"):
        await objects.put(key, b"old")

    async def overwrite(method: Method, request: bytes) -> None:
        if method is Method.TXN:
            objects.engine.before = None
            await objects.put("b", b"new")

    objects.engine.before = overwrite
    wanted = [pb.ObjectToDelete(key=key) for key in "abc"]
    response = await objects.call(
        "DeleteObjects", pb.DeleteObjectsRequest(bucket="b", objects=wanted)
    )
    assert [result.deleted for result in response.results] == [True] * 3
    assert objects.engine.present() == [keys.bucket(b"b")]


@pytest.mark.parametrize("seed", range(5))
async def test_counts_are_exact_after_a_storm(seed: int) -> None:
    """Random puts, copies and deletes from two processes at once; in the end every blob record
    counts its objects, and no chunk is left without one.
    """
    one = await make()
    sides = [one, await make(one.engine)]
    rng = random.Random(seed)
    names = [f"k{i}" for i in range(6)]

    async def act(side: Objects) -> None:
        for _ in range(60):
            source, target = rng.choices(names, k=2)
            match rng.randrange(3):
                case 0:
                    await side.put(
                        target, pattern(rng.choice([0, 9, 2 * MIB]), rng.random().__hash__())
                    )
                case 1:
                    if (await side.listing(prefix=source)).objects:
                        with_luck = side.copy(source, target)
                        await asyncio.gather(with_luck, return_exceptions=True)
                case 2:
                    await side.delete(target)

    await asyncio.gather(*map(act, sides), act(sides[0]))
    for side in sides:
        await side.reap()
    counted: dict[str, int] = {}
    for info in (await one.listing()).objects:
        _, data = await one.get(info.key)
        assert len(data) == info.size
        record = await one.core.store.get(keys.object_(keys.Name(b"b", info.key.encode())))
        assert record is not None
        blob = record.value[1:17].hex()
        counted[blob] = counted.get(blob, 0) + 1
    for key in one.engine.present(b"r"):
        entry = await one.core.store.get(key)
        assert entry is not None
        assert BlobRecord.decode(entry.value).references == counted.pop(key[1:].hex())
    assert not counted
    blobs = {key[1:17] for key in one.engine.present(b"r")}
    assert {key[1:17] for key in one.engine.present(b"c")} <= blobs
    assert not one.leftovers()
