"""Random requests for the model test of objects: names, data, conditions, and what clients get
wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.native.store import crc32c
from tests.model.object_model import CHUNK, Conditions, Upload

KEYS = ["a", "a/1", "a/b/3", "a\x01", "é/1", "\U0001f600"]  # few, so that they meet
Place = tuple[str, str] | int  # a bucket and a key, or an object by its number
GONE = "00" * 16  # an id that nothing has

buckets = st.sampled_from(["b", "b", "b", "b", "c"])
seldom_b = st.sampled_from(["b", "c", "c", "c", "c"])  # else it is seldom there
keys = st.sampled_from(KEYS)
sizes = st.sampled_from([0, 1, 9, 10, 11, 100, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
places = st.one_of(st.tuples(buckets, keys), st.integers(0, 9), st.integers(0, 9))
payloads = st.builds(lambda size, byte: bytes([byte]) * size, sizes, st.integers(0, 255))
etags = st.sampled_from(["", "", "*", "current", GONE])
nothing = st.just(("", ""))
wishes = st.one_of(nothing, nothing, st.tuples(etags, etags))  # if_match, if_none_match
parts = st.builds(
    lambda size, byte: bytes([byte]) * size,
    st.sampled_from([9, 10, 11, 50, 50, CHUNK + 1]),
    st.integers(0, 255),
)
several_parts = st.dictionaries(st.integers(1, 4), parts, min_size=1)
hows = st.sampled_from(["all", "all", "all", "some", "reversed", "none", "stale"])


@dataclass(frozen=True, slots=True)
class Lie:
    """What a client may get wrong about the data it sends."""

    name: str

    def fields(self, data: bytes) -> dict[str, int]:
        """Of the header."""
        known: dict[str, dict[str, int]] = {
            "none": {"size": len(data), "crc32c": crc32c(data)},
            "size": {"size": len(data) + 1},
            "checksum": {"crc32c": crc32c(data) ^ 1},
        }
        return known.get(self.name, {})

    @property
    def refusals(self) -> set[str]:
        reasons = {"size": "SIZE_MISMATCH", "checksum": "CHECKSUM_MISMATCH"}
        reasons["broken"] = "STREAM_BROKEN"
        return {reasons[self.name]} if self.name in reasons else set()


lies = st.sampled_from([""] * 5 + ["none", "size", "checksum", "broken"]).map(Lie)


def message(conditions: Conditions) -> pb.Conditions:
    return pb.Conditions(if_match=conditions.if_match, if_none_match=conditions.if_none_match)


def completion(
    upload: Upload, upload_id: str, listed: list[tuple[int, str]], conditions: Conditions
) -> pb.CompleteMultipartUploadRequest:
    return pb.CompleteMultipartUploadRequest(
        bucket=upload.bucket,
        key=upload.key,
        upload_id=upload_id,
        parts=[pb.CompletedPart(part_number=number, etag=etag) for number, etag in listed],
        conditions=message(conditions),
    )
