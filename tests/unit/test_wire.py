"""The engine's own protobuf decoder understands what google.protobuf understands.

`bp_wire_describe_request` decodes a request and encodes what it understood as protobuf of the same
message, in one normal form; `normal` brings a message into that form with google.protobuf.
"""

import random

import pytest
from google.protobuf.message import DecodeError, Message

from bedplate._native import ffi, lib
from bedplate.native.store import Method
from tests.unit.kv_messages import MAKERS, normal

MALFORMED = "MALFORMED_REQUEST"
SEEDS = range(8)


def describe(method: int, request: bytes) -> tuple[bytes, str]:
    """What the engine understood of a request of the user keyspace, or the reason it gave."""
    reply, error = ffi.new("struct bp_reply *"), ffi.new("struct bp_error *")
    code = lib.bp_wire_describe_request(method, ord("u"), request, len(request), reply, error)
    if code != 0:
        return b"", ffi.string(lib.bp_reason_name(error.reason)).decode()
    try:
        return bytes(ffi.buffer(reply.data, reply.size)), ""
    finally:
        lib.bp_reply_free(reply)


def parsed(message: Message, encoded: bytes) -> Message | None:
    """`encoded` as a message of that type, known fields only; None when it is none."""
    copy = type(message)()
    try:
        copy.ParseFromString(encoded)
    except DecodeError:
        return None
    copy.DiscardUnknownFields()
    return copy


def understood(method: int, message: Message, encoded: bytes) -> bool:
    """Both understand the same, or both refuse it, or it breaks a rule that protobuf knows not."""
    described, reason = describe(method, encoded)
    want = parsed(message, encoded)
    if reason:
        # The engine may stop at a broken rule before it meets the damage, never the reverse.
        assert want is None or reason != MALFORMED
        return False
    assert want is not None, "the engine accepted what google.protobuf refuses"
    # A page token is not described: it has moved the range.
    if not getattr(want, "page_token", b""):
        assert parsed(message, described) == normal(want)
    return True


each_method = pytest.mark.parametrize("method", MAKERS, ids=lambda method: f"method-{method:d}")


@each_method
@pytest.mark.parametrize("seed", SEEDS)
def test_random_messages_are_understood_as_protobuf_does(method: int, seed: int) -> None:
    rng = random.Random(f"plain {method:d} {seed}")
    for _ in range(40):
        message = MAKERS[method](rng)
        assert understood(method, message, message.SerializeToString())


@each_method
@pytest.mark.parametrize("seed", SEEDS)
def test_two_messages_in_a_row_merge_as_protobuf_does(method: int, seed: int) -> None:
    rng = random.Random(f"merge {method:d} {seed}")
    accepted = 0
    for _ in range(40):
        first, second = MAKERS[method](rng), MAKERS[method](rng)
        accepted += understood(
            method, first, first.SerializeToString() + second.SerializeToString()
        )
    assert accepted > 0


@each_method
@pytest.mark.parametrize("seed", SEEDS)
def test_unknown_fields_change_nothing(method: int, seed: int) -> None:
    rng = random.Random(f"unknown {method:d} {seed}")
    # Field 20 as a varint, eight bytes, bytes, a group that holds a field 1, and four bytes.
    extras = [
        b"\xa0\x01\xff\x7f",
        b"\xa1\x01" + bytes(8),
        b"\xa2\x01\x03abc",
        b"\xa3\x01\x0a\x01x\xa4\x01",
        b"\xa5\x01" + bytes(4),
    ]
    for _ in range(20):
        message = MAKERS[method](rng)
        rng.shuffle(extras)
        encoded = extras[0] + extras[1] + message.SerializeToString() + b"".join(extras[2:])
        assert understood(method, message, encoded)


def mutated(rng: random.Random, encoded: bytes) -> bytes:
    """One to three small accidents."""
    data = bytearray(encoded)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                del data[at : at + 1]
            case 2:
                data[at:at] = rng.randbytes(1)
            case 3:
                del data[at:]
    return bytes(data)


@each_method
@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_messages_are_refused_when_protobuf_refuses_them(method: int, seed: int) -> None:
    rng = random.Random(f"damaged {method:d} {seed}")
    refused = 0
    for _ in range(150):
        message = MAKERS[method](rng)
        encoded = mutated(rng, message.SerializeToString()[:2000])
        refused += not understood(method, message, encoded)
    assert refused > 0


def test_damage_and_broken_rules_have_different_reasons() -> None:
    assert describe(Method.PUT, b"\x0a\x7fshort")[1] == MALFORMED
    assert describe(Method.PUT, b"")[1] == "KEY_EMPTY"
