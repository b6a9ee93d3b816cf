"""Listing against a naive model, page by page."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.native.store import Method
from tests.model.object_model import Listed, pages_of
from tests.unit.object_harness import Objects, failing, make

# Few characters, so that names share beginnings: control characters, separators, two to four bytes.
ALPHABET = "a/b\x01\x7f-é\uffff\U0001f600"
NAMES = st.text(ALPHABET, min_size=1, max_size=6)
PARTS = st.text(ALPHABET, max_size=3)


async def pages(objects: Objects, **fields: object) -> list[Listed]:
    found: list[Listed] = []
    token = b""
    while True:
        page = await objects.listing(page_token=token, **fields)
        found.append(([info.key for info in page.objects], list(page.common_prefixes)))
        token = page.next_page_token
        if not token:
            return found


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    names=st.sets(NAMES, max_size=30),
    prefix=PARTS,
    delimiter=st.one_of(st.just(""), st.just("/"), PARTS),
    after=PARTS,
    size=st.integers(1, 12),
)
async def test_listing_is_what_the_model_says(
    names: set[str], prefix: str, delimiter: str, after: str, size: int
) -> None:
    objects = await make()
    for name in names:
        await objects.put(name)
    found = await pages(
        objects, prefix=prefix, delimiter=delimiter, start_after=after, page_size=size
    )
    assert found == pages_of(names, prefix, delimiter, after, size)


async def test_a_page_has_a_thousand_entries_and_carries_what_a_listing_shows() -> None:
    objects = await make()
    for i in range(1001):
        await objects.put(f"{i:05}", b"x" * (i % 7), user_metadata={"m": "v"})
    first = await objects.listing()
    assert len(first.objects) == 1000
    info = first.objects[5]
    assert (info.bucket, info.key, info.size) == ("b", "00005", 5)
    assert not info.user_metadata
    head = await objects.head("00005")
    head.user_metadata.clear()
    assert info == head
    second = await objects.listing(page_token=first.next_page_token)
    assert [info.key for info in second.objects] == ["01000"]
    assert not second.next_page_token
    with failing("FIELD_INVALID"):
        await objects.listing(page_size=1001)


async def test_a_folded_prefix_costs_one_short_scan_however_much_is_below_it() -> None:
    objects = await make()
    for i in range(30):
        for j in range(100):
            await objects.put(f"dir{i:02}/{j:03}")
    objects.engine.requests.clear()
    scanned = 0

    async def count(method: Method, request: bytes) -> None:
        nonlocal scanned
        if method is Method.SCAN:
            scanned += kv_limit(request)

    objects.engine.before = count
    page = await objects.listing(delimiter="/", page_size=10)
    assert list(page.common_prefixes) == [f"dir{i:02}/" for i in range(10)]
    assert objects.engine.requests[Method.SCAN] <= 11
    assert scanned <= 11 * 8


def kv_limit(request: bytes) -> int:
    from bedplate.api.kv.v1 import kv_pb2

    return kv_pb2.ScanRequest.FromString(request).limit


async def test_a_page_is_one_snapshot() -> None:
    objects = await make()
    for name in ("a/1", "b/1", "c/1", "d/1"):
        for i in range(20):
            await objects.put(f"{name}{i}")
    scans = 0

    async def interfere(method: Method, request: bytes) -> None:
        nonlocal scans
        if method is not Method.SCAN:
            return
        scans += 1
        if scans == 3:
            objects.engine.before = None
            await objects.put("bb", b"")
            await objects.delete("d/10")

    objects.engine.before = interfere
    page = await objects.listing(delimiter="/")
    assert list(page.common_prefixes) == ["a/", "b/", "c/", "d/"]
    assert not page.objects


async def test_a_snapshot_that_is_compacted_away_is_taken_anew() -> None:
    objects = await make()
    for i in range(50):
        await objects.put(f"{i:02}/x")
    scans = 0

    async def interfere(method: Method, request: bytes) -> None:
        nonlocal scans
        scans += method is Method.SCAN
        if scans == 4:
            scans += 1
            objects.engine.revision += 1
            objects.engine.compact()

    objects.engine.before = interfere
    page = await objects.listing(delimiter="/")
    assert len(page.common_prefixes) == 50


@pytest.mark.parametrize("mutate", ["cut", "flip", "foreign", "noise", "prefix", "after"])
async def test_a_token_that_is_not_of_this_listing_is_refused(mutate: str) -> None:
    objects = await make()
    for i in range(5):
        await objects.put(f"k{i}")
    token = (await objects.listing(page_size=2, prefix="k")).next_page_token
    fields = {"prefix": "k"}
    match mutate:
        case "cut":
            token = token[:-1]
        case "flip":
            token = token[:3] + bytes([token[3] ^ 1]) + token[4:]
        case "foreign":
            request = pb.ListBucketsRequest(page_size=1)
            await objects.call("CreateBucket", pb.CreateBucketRequest(bucket="c"))
            token = (await objects.call("ListBuckets", request)).next_page_token
        case "noise":
            token = b"\xff"
        case "prefix":
            fields = {"prefix": "k1"}
        case "after":
            fields = {"prefix": "k", "start_after": "k0"}
    with failing("PAGE_TOKEN_INVALID"):
        await objects.listing(page_token=token, **fields)


async def test_a_listing_goes_on_although_its_last_name_is_gone() -> None:
    objects = await make()
    for name in ("a", "b", "c", "d"):
        await objects.put(name)
    first = await objects.listing(page_size=2)
    await objects.delete("b")
    await objects.delete("c")
    await objects.put("bb")
    second = await objects.listing(page_size=2, page_token=first.next_page_token)
    assert [info.key for info in second.objects] == ["bb", "d"]


async def test_overlong_parts_of_names_are_refused() -> None:
    objects = await make()
    for name in ("prefix", "delimiter", "start_after"):
        with failing("FIELD_INVALID"):
            await objects.listing(**{name: "x" * 1025})
