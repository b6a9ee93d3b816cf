"""Page tokens: where a listing goes on, bound to what is listed.

    token    version (1), digest (8), position
    digest   BLAKE2b over the listing's own fields and the position

The position is the smallest name not yet listed. The digest refuses what was damaged, cut or taken
from another listing; it is no secret: a token only ever chooses a place within its own range.
"""

from hashlib import blake2b

from bedplate.storage.objects.errors import ObjectError, Reason

_VERSION = b"\x01"
_DIGEST_SIZE = 8
_HEAD = len(_VERSION) + _DIGEST_SIZE
_TOKEN_MAX = 4096


def encode(position: bytes | None, *binding: bytes) -> bytes:
    """The token to go on at `position`; b"" for None, the end."""
    return b"" if position is None else _VERSION + _digest(position, binding) + position


def decode(token: bytes, *binding: bytes) -> bytes:
    """The position; b"" (the beginning) for an empty token. PAGE_TOKEN_INVALID."""
    if not token:
        return b""
    position = token[_HEAD:]
    sound = (
        _HEAD < len(token) <= _TOKEN_MAX
        and token[:1] == _VERSION
        and token[1:_HEAD] == _digest(position, binding)
    )
    if not sound:
        raise invalid_token()
    return position


def invalid_token() -> ObjectError:
    return ObjectError(
        Reason.PAGE_TOKEN_INVALID,
        "not a token of this listing: send back next_page_token, with the same other fields",
        "page_token",
    )


def _digest(position: bytes, binding: tuple[bytes, ...]) -> bytes:
    digest = blake2b(digest_size=_DIGEST_SIZE)
    for field in (*binding, position):
        digest.update(len(field).to_bytes(4, "big"))
        digest.update(field)
    return digest.digest()
