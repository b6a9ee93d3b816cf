"""Bearer tokens: the file, its reading, and when the daemon may listen without one.

    # name  sha256 of the token, in hexadecimal                               scopes
    ci      9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  kv:read,object:read
    root    ...                                                               admin:*,kv:*,object:*

Only hashes are stored, so the file gives no token away. Tokens are random and long, so a plain hash
of them cannot be guessed back; `bedplate token create` makes them. A scope is layer:right, and
layer:* is every right of the layer.
"""

import hashlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from bedplate.address import Address
from bedplate.errors import StartupError
from bedplate.native.guard import SCOPES, Token

_HASH = re.compile(r"[0-9a-fA-F]{64}")
_SCOPE = re.compile(r"[a-z]+:(?:[a-z]+|\*)")


class TokensError(StartupError):
    """A tokens file that cannot be used; nothing of it is."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="TOKENS_INVALID")


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Every token of the file. Raises TokensError with the line; a file without any is an error,
    since the guard would take it to mean that everyone may come in.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise TokensError(f"cannot read auth.tokens_file {path}: {reason}") from error
    tokens = tuple(_tokens(path, text))
    if not tokens:
        raise TokensError(f"auth.tokens_file {path} names no token")
    if len({token.sha256 for token in tokens}) < len(tokens):
        raise TokensError(f"auth.tokens_file {path} names one token twice")
    return tokens


def _tokens(path: Path, text: str) -> Iterator[Token]:
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].split()
        if not content:
            continue
        where = f"auth.tokens_file {path}, line {number}"
        if len(content) != 3:
            raise TokensError(f"{where}: expected NAME SHA256 SCOPE[,SCOPE...]")
        name, digest, scopes = content
        if _HASH.fullmatch(digest) is None:
            raise TokensError(f"{where}: expected the SHA-256 of the token, 64 hexadecimal digits")
        yield Token(name, bytes.fromhex(digest), parse_scopes(where, scopes))


def member_tokens(token: str) -> tuple[Token, ...]:
    """The token of the cluster's members, if they have one, as one of the tokens."""
    if not token:
        return ()
    digest = hashlib.sha256(token.encode()).digest()
    return (Token("member", digest, frozenset({"cluster:peer"})),)


def parse_scopes(where: str, text: str) -> frozenset[str]:
    """Of "kv:read,object:*". Raises TokensError, which begins with `where`."""
    granted: set[str] = set()
    for scope in text.split(","):
        layer = scope.removesuffix("*")
        matching = [s for s in SCOPES if s == scope or (layer != scope and s.startswith(layer))]
        if _SCOPE.fullmatch(scope) is None or not matching:
            expected = " ".join(SCOPES)
            raise TokensError(f'{where}: unknown scope "{scope}"; there are {expected}')
        granted.update(matching)
    return frozenset(granted)


def check_exposure(
    addresses: Collection[Address], *, has_tokens: bool, allow_anonymous: bool
) -> None:
    """Refuse to listen beyond this machine without tokens. Raises StartupError."""
    for address in addresses:
        if not (address.is_loopback or has_tokens or allow_anonymous):
            raise StartupError(
                f"refusing to listen on {address} without tokens: set auth.tokens_file, or "
                "auth.allow_anonymous = true to let everyone in",
                reason="EXPOSED",
            )
