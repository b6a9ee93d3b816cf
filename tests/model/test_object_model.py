"""Random histories of the object service on the real engine against a model: buckets, objects,
conditions, copies, listings, multipart uploads, restarts; and no space is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.errors import BedplateError
from bedplate.native.store import crc32c
from tests.model.bounds import bounded
from tests.model.object_model import (
    CHUNK,
    NO_CONDITIONS,
    Blob,
    Conditions,
    Listed,
    Object,
    ObjectModel,
    Part,
    Upload,
    part_of,
)
from tests.model.object_requests import (
    GONE,
    KEYS,
    Lie,
    Place,
    buckets,
    completion,
    hows,
    keys,
    lies,
    message,
    nothing,
    parts,
    payloads,
    places,
    seldom_b,
    several_parts,
    wishes,
)
from tests.model.stepped_objects import SteppedObjects
from tests.model.stepped_store import SteppedStore, scratch
from tests.unit.object_harness import Context


class ObjectMachine(RuleBasedStateMachine):
    """The service beside the model."""

    uploads = Bundle("uploads")

    def __init__(self) -> None:
        super().__init__()
        self._directory = scratch()
        self.service = SteppedObjects(SteppedStore(Path(self._directory.name)))
        self.model = ObjectModel()
        self.etags: set[str] = set()
        self.completed: dict[str, tuple[list[tuple[int, str]], pb.ObjectInfo]] = {}
        self.create_bucket("b")

    def teardown(self) -> None:
        self.service.close()
        self._directory.cleanup()

    # ---- asking ----------------------------------------------------------------------------------

    def call(self, method: str, request: Any, refusals: set[str]) -> Any:
        """A unary call; None when it was refused, as it must be if there are reasons to."""
        return self.attempt(lambda: self.service.objects.call(method, request), refusals)

    def attempt(self, call: Callable[[], Coroutine[Any, Any, Any]], refusals: set[str]) -> Any:
        reply, refused = None, ""
        try:
            reply = self.service.run(call())
        except BedplateError as error:
            refused = error.reason
        assert refused in (refusals or {""})
        return reply

    def conditions(self, wish: tuple[str, str], held: Object | None) -> Conditions:
        """Etags as they are now."""
        current = held.etag if held else GONE
        return Conditions(*(current if etag == "current" else etag for etag in wish))

    def place(self, where: Place) -> tuple[str, str]:
        """A number is the object of that number, if there are any."""
        if not isinstance(where, int):
            return where
        present = [(b, key) for b, held in sorted(self.model.buckets.items()) for key in held]
        return present[where % len(present)] if present else ("b", KEYS[0])

    def note(self, info: pb.ObjectInfo, bucket: str, held: Object) -> None:
        """An object was written: it is shown as it is, under an etag of its own."""
        assert held.etag not in self.etags
        self.etags.add(held.etag)
        self.model.buckets[bucket][info.key] = held
        self.check_info(info, bucket, info.key)

    def check_info(self, info: pb.ObjectInfo, bucket: str, key: str, listed: bool = False) -> None:
        held = self.model.buckets[bucket][key]
        assert (info.bucket, info.key, info.etag) == (bucket, key, held.etag)
        assert (info.size, info.crc32c) == (len(held.data), crc32c(held.data))
        assert info.content_type == (held.content_type or "application/octet-stream")
        assert dict(info.user_metadata) == ({} if listed else held.metadata)
        assert info.part_count == held.part_count

    # ---- buckets ---------------------------------------------------------------------------------

    @rule(bucket=seldom_b)
    def create_bucket(self, bucket: str) -> None:
        refusals = {"BUCKET_EXISTS"} if bucket in self.model.buckets else set()
        if self.call("CreateBucket", pb.CreateBucketRequest(bucket=bucket), refusals):
            self.model.buckets[bucket] = {}

    @rule(bucket=seldom_b, again=st.booleans())
    def delete_bucket(self, bucket: str, again: bool) -> None:
        refusals = self.model.cannot_delete_bucket(bucket)
        if self.call("DeleteBucket", pb.DeleteBucketRequest(bucket=bucket), refusals):
            del self.model.buckets[bucket]
            if again or bucket == "b":
                self.create_bucket(bucket)

    # ---- objects ---------------------------------------------------------------------------------

    @rule(writes=st.lists(st.tuples(buckets, keys, payloads), min_size=1, max_size=4))
    def put_some(self, writes: list[tuple[str, str, bytes]]) -> None:
        for bucket, key, data in writes:
            self.put(bucket, key, data, ("", ""), Lie(""), False)

    @rule(bucket=buckets, key=keys, data=payloads, wish=wishes, lie=lies, typed=st.booleans())
    def put(
        self, bucket: str, key: str, data: bytes, wish: tuple[str, str], lie: Lie, typed: bool
    ) -> None:
        conditions = self.conditions(wish, self.model.held(bucket, key))
        refusals = self.model.cannot_write(bucket, key, conditions) | lie.refusals
        described = {"content_type": "text/x", "user_metadata": {"m": key}} if typed else {}
        reply = self.attempt(
            lambda: self.service.objects.put(
                key,
                data,
                bucket=bucket,
                checksums=True,
                context=Context(alive=lie.name != "broken"),
                conditions=message(conditions),
                **lie.fields(data),
                **described,
            ),
            refusals,
        )
        if reply:
            metadata = {"m": key} if typed else {}
            blob = Blob((len(data),))
            held = Object(data, reply.info.etag, blob, "text/x" if typed else "", metadata)
            self.note(reply.info, bucket, held)

    @rule(
        where=places,
        wish=wishes,
        offset=st.sampled_from([0, 0, 1, 10, CHUNK - 1, CHUNK]),
        length=st.sampled_from([0, 1, 9, CHUNK]),
        suffix=st.sampled_from([0, 0, 0, 5, CHUNK + 3]),
    )
    def get(
        self, where: Place, wish: tuple[str, str], offset: int, length: int, suffix: int
    ) -> None:
        bucket, key = self.place(where)
        if suffix:
            offset = length = 0
        held = self.model.held(bucket, key)
        conditions = self.conditions(wish, held)
        refusals = self.model.cannot_read(bucket, key, conditions)
        expected = part_of(held.data, offset, length, suffix) if held else b""
        if expected is None:
            refusals |= {"RANGE_NOT_SATISFIABLE"}
        wanted = pb.ByteRange(offset=offset, length=length, suffix_length=suffix)
        reply = self.attempt(
            lambda: self.service.objects.get(
                key, bucket=bucket, range=wanted, conditions=message(conditions)
            ),
            refusals,
        )
        if reply:
            header, data = reply
            assert data == expected
            self.check_info(header.info, bucket, key)

    @rule(where=places, wish=wishes)
    def head(self, where: Place, wish: tuple[str, str]) -> None:
        bucket, key = self.place(where)
        conditions = self.conditions(wish, self.model.held(bucket, key))
        request = pb.HeadObjectRequest(bucket=bucket, key=key, conditions=message(conditions))
        refusals = self.model.cannot_read(bucket, key, conditions)
        if reply := self.call("HeadObject", request, refusals):
            self.check_info(reply.info, bucket, key)

    @rule(where=places, wish=wishes)
    def delete(self, where: Place, wish: tuple[str, str]) -> None:
        bucket, key = self.place(where)
        held = self.model.held(bucket, key)
        conditions = self.conditions(wish, held)
        request = pb.DeleteObjectRequest(bucket=bucket, key=key, conditions=message(conditions))
        refusals = self.model.cannot_write(bucket, key, conditions)
        if reply := self.call("DeleteObject", request, refusals):
            assert reply.deleted == (held is not None)
            self.model.buckets[bucket].pop(key, None)

    @rule(bucket=buckets, chosen=st.dictionaries(keys, wishes, min_size=1, max_size=3))
    def delete_many(self, bucket: str, chosen: dict[str, tuple[str, str]]) -> None:
        wanted = {
            key: self.conditions(wish, self.model.held(bucket, key)) for key, wish in chosen.items()
        }
        request = pb.DeleteObjectsRequest(
            bucket=bucket,
            objects=[
                pb.ObjectToDelete(key=key, conditions=message(conditions))
                for key, conditions in wanted.items()
            ],
        )
        reply = self.call("DeleteObjects", request, self.model.no_bucket(bucket))
        if reply is None:
            return
        for result, (key, conditions) in zip(reply.results, wanted.items(), strict=True):
            held = self.model.held(bucket, key)
            failed = conditions.refusals(held)
            assert result.key == key
            assert ({result.error.reason} if result.HasField("error") else set()) == failed
            assert result.deleted == (held is not None and not failed)
            if not failed:
                self.model.buckets[bucket].pop(key, None)

    @rule(
        where=places,
        to=st.tuples(buckets, keys),
        source_wish=wishes,
        wish=wishes,
        replace=st.booleans(),
    )
    def copy(
        self,
        where: Place,
        to: tuple[str, str],
        source_wish: tuple[str, str],
        wish: tuple[str, str],
        replace: bool,
    ) -> None:
        origin = self.place(where)
        held = self.model.held(*origin)
        source_conditions = self.conditions(source_wish, held)
        conditions = self.conditions(wish, self.model.held(*to))
        refusals = self.model.cannot_read(*origin, source_conditions)
        refusals |= self.model.cannot_write(*to, conditions)
        request = pb.CopyObjectRequest(
            source_bucket=origin[0],
            source_key=origin[1],
            source_conditions=message(source_conditions),
            bucket=to[0],
            key=to[1],
            conditions=message(conditions),
            replace_metadata=replace,
            content_type="text/copy" if replace else "",
        )
        reply = self.call("CopyObject", request, refusals)
        if reply and held:
            kind, metadata = ("text/copy", {}) if replace else (held.content_type, held.metadata)
            made = Object(held.data, reply.info.etag, held.blob, kind, metadata, held.part_count)
            self.note(reply.info, to[0], made)

    # ---- listings --------------------------------------------------------------------------------

    @rule(
        bucket=buckets,
        prefix=st.sampled_from(["", "", "a", "a/", "é", "zz"]),
        delimiter=st.sampled_from(["", "/", "/b"]),
        after=st.sampled_from(["", "", "a/1", "a/zzz", "b"]),
        size=st.integers(1, 4),
    )
    def listing(self, bucket: str, prefix: str, delimiter: str, after: str, size: int) -> None:
        refusals = self.model.no_bucket(bucket)
        request = pb.ListObjectsRequest(
            bucket=bucket, prefix=prefix, delimiter=delimiter, start_after=after, page_size=size
        )
        found: list[Listed] = []
        while True:
            reply = self.call("ListObjects", request, refusals)
            if reply is None:
                return
            for info in reply.objects:
                self.check_info(info, bucket, info.key, listed=True)
            found.append(([info.key for info in reply.objects], list(reply.common_prefixes)))
            request.page_token = reply.next_page_token
            if not request.page_token:
                break
        assert found == self.model.listing(bucket, prefix, delimiter, after, size)

    # ---- multipart uploads -----------------------------------------------------------------------

    @rule(target=uploads, bucket=buckets, key=keys, typed=st.booleans())
    def begin(self, bucket: str, key: str, typed: bool) -> str:
        kind = "text/parts" if typed else ""
        request = pb.CreateMultipartUploadRequest(bucket=bucket, key=key, content_type=kind)
        reply = self.call("CreateMultipartUpload", request, self.model.no_bucket(bucket))
        if reply is None:
            return GONE
        self.model.uploads[reply.upload_id] = Upload(bucket, key, kind)
        upload_id: str = reply.upload_id
        return upload_id

    @rule(upload_id=uploads, sent=several_parts)
    def send_parts(self, upload_id: str, sent: dict[int, bytes]) -> None:
        for number, data in sent.items():
            self.part(upload_id, number, data, Lie("none"))

    @rule(bucket=buckets, key=keys, sent=several_parts, how=hows)
    def upload(self, bucket: str, key: str, sent: dict[int, bytes], how: str) -> None:
        """All of it at once; what could not be completed stays."""
        upload_id = self.begin(bucket, key, typed=False)
        self.send_parts(upload_id, sent)
        self.complete(upload_id, how, ("", ""), again=True)

    @rule(upload_id=uploads, number=st.integers(1, 4), data=parts, lie=lies)
    def part(self, upload_id: str, number: int, data: bytes, lie: Lie) -> None:
        upload = self.model.uploads.get(upload_id)
        where = upload or Upload("b", "a", "")
        reply = self.attempt(
            lambda: self.service.objects.part(
                upload_id,
                number,
                data,
                bucket=where.bucket,
                key=where.key,
                **lie.fields(data),
            ),
            (set() if upload else {"UPLOAD_NOT_FOUND"}) | lie.refusals - {"STREAM_BROKEN"},
        )
        if reply and upload:
            assert (reply.part_number, reply.size) == (number, len(data))
            assert reply.crc32c == crc32c(data)
            upload.parts[number] = Part(data, reply.etag)

    @rule(
        upload_id=uploads,
        how=hows,
        wish=st.one_of(nothing, nothing, nothing, wishes),
        again=st.booleans(),
    )
    def complete(self, upload_id: str, how: str, wish: tuple[str, str], again: bool) -> None:
        upload = self.model.uploads.get(upload_id)
        if upload is None:
            self.complete_again(upload_id)
            return
        listed = [(number, upload.parts[number].etag) for number in sorted(upload.parts)]
        chosen = {
            "some": listed[1:],
            "reversed": listed[::-1],
            "none": [],
            "stale": [(number, "gone") for number, _ in listed],
        }.get(how, listed)
        conditions = self.conditions(wish, self.model.held(upload.bucket, upload.key))
        request = completion(upload, upload_id, chosen, conditions)
        refusals = self.model.cannot_complete(upload, chosen, conditions)
        reply = self.call("CompleteMultipartUpload", request, refusals)
        if reply is None:
            return
        used = [upload.parts[number].data for number, _ in chosen]
        blob = Blob(tuple(map(len, used)))
        held = Object(
            b"".join(used), reply.info.etag, blob, upload.content_type, {}, part_count=len(used)
        )
        del self.model.uploads[upload_id]
        self.note(reply.info, upload.bucket, held)
        self.completed[upload_id] = (chosen, reply.info)
        if again:
            self.complete_again(upload_id)

    def complete_again(self, upload_id: str) -> None:
        """After success the first result; of what was never completed, nothing."""
        listed, first = self.completed.get(upload_id, ([(1, "x")], pb.ObjectInfo()))
        where = Upload(first.bucket or "b", first.key or "a", "")
        request = completion(where, upload_id, listed, NO_CONDITIONS)
        refusals = set() if upload_id in self.completed else {"UPLOAD_NOT_FOUND"}
        if reply := self.call("CompleteMultipartUpload", request, refusals):
            assert reply.info == first

    @rule(upload_id=consumes(uploads))
    def abort(self, upload_id: str) -> None:
        upload = self.model.uploads.pop(upload_id, None)
        where = upload or Upload("b", "a", "")
        request = pb.AbortMultipartUploadRequest(
            bucket=where.bucket, key=where.key, upload_id=upload_id
        )
        self.call("AbortMultipartUpload", request, set() if upload else {"UPLOAD_NOT_FOUND"})

    @rule(upload_id=uploads, size=st.integers(1, 3))
    def list_parts(self, upload_id: str, size: int) -> None:
        upload = self.model.uploads.get(upload_id)
        where = upload or Upload("b", "a", "")
        request = pb.ListPartsRequest(
            bucket=where.bucket, key=where.key, upload_id=upload_id, page_size=size
        )
        found: list[tuple[int, str, int]] = []
        while True:
            reply = self.call("ListParts", request, set() if upload else {"UPLOAD_NOT_FOUND"})
            if reply is None or upload is None:
                return
            found += [(part.part_number, part.etag, part.size) for part in reply.parts]
            request.page_token = reply.next_page_token
            if not request.page_token:
                break
        assert found == [
            (number, part.etag, len(part.data)) for number, part in sorted(upload.parts.items())
        ]

    @rule(bucket=buckets, prefix=st.sampled_from(["", "a", "a/"]), size=st.integers(1, 3))
    def list_uploads(self, bucket: str, prefix: str, size: int) -> None:
        request = pb.ListMultipartUploadsRequest(bucket=bucket, prefix=prefix, page_size=size)
        found: list[tuple[bytes, str]] = []
        while True:
            reply = self.call("ListMultipartUploads", request, self.model.no_bucket(bucket))
            if reply is None:
                return
            found += [(upload.key.encode(), upload.upload_id) for upload in reply.uploads]
            request.page_token = reply.next_page_token
            if not request.page_token:
                break
        assert found == sorted(
            (upload.key.encode(), upload_id)
            for upload_id, upload in self.model.uploads.items()
            if upload.bucket == bucket and upload.key.startswith(prefix)
        )

    # ---- what changes nothing that clients see ---------------------------------------------------

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        if crash:
            self.service.store.crash()
        else:
            self.service.store.reopen()
        self.service.begin()

    @rule()
    def checkpoint_and_clean(self) -> None:
        self.service.store.checkpoint()
        self.service.store.clean()

    @rule()
    def reclaim(self) -> None:
        """What nobody needs is gone, and nothing else."""
        self.service.run(self.service.objects.reap())
        engine = self.service.engine
        assert engine.present(b"u") == engine.present(b"g") == 0
        assert engine.present(b"c") == self.model.chunks

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        assert self.service.engine.present(b"c") >= self.model.chunks
        reply = self.call("ListBuckets", pb.ListBucketsRequest(), set())
        assert [info.bucket for info in reply.buckets] == sorted(self.model.buckets)
        for bucket, held in self.model.buckets.items():
            reply = self.call("ListObjects", pb.ListObjectsRequest(bucket=bucket), set())
            assert [info.key for info in reply.objects] == sorted(held, key=str.encode)
            for info in reply.objects:
                self.check_info(info, bucket, info.key, listed=True)


TestObjects = ObjectMachine.TestCase
TestObjects.settings = bounded(examples=100, steps=40)
