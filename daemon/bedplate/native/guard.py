"""The one check every call passes (native/src/guard.h), and its counters.

enter   token known, scope held, deadline ahead, request small enough
exit    code and latency
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from bedplate._native import ffi, lib
from bedplate.errors import Code
from bedplate.native.errors import StoreError, check, store_error, text

_ACCESSES: Final[Mapping[str, tuple[str, str, str]]] = MappingProxyType(
    {
        "kv": ("read", "write", "admin"),
        "object": ("read", "write", "admin"),
        "admin": ("read", "write", "admin"),
        "cluster": ("read", "peer", "admin"),
    }
)
# Every scope there is, by its bit.
SCOPES: Final[Mapping[str, int]] = MappingProxyType(
    {
        f"{service}:{access}": 1 << (i * 3 + k)
        for i, (service, accesses) in enumerate(_ACCESSES.items())
        for k, access in enumerate(accesses)
    }
)
_METHODS_MAX = 128
_UNKNOWN = _METHODS_MAX - 1  # never made known, so the guard refuses it


@dataclass(frozen=True, slots=True)
class Token:
    """One client: its name for logs, the SHA-256 of its token, and what it may do."""

    name: str
    sha256: bytes
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class MethodStats:
    """Counters of one method since the start."""

    name: str
    in_flight: int
    denied: int  # refused before they ran; also in `codes`
    codes: tuple[int, ...]  # calls that ended, by canonical code
    latency_sum_ns: int
    latency: tuple[int, ...]  # calls by latency bucket, see Guard.bounds_ns


class Guard:
    """Methods, tokens and counters. Without tokens everyone is let in. Safe from any thread."""

    def __init__(self) -> None:
        """Raises MemoryError."""
        pointer = lib.bp_guard_new()
        if pointer == ffi.NULL:
            raise MemoryError("no memory for the guard")
        self._pointer = ffi.gc(pointer, lib.bp_guard_free)
        self._numbers: dict[str, int] = {}
        self._scopes: dict[int, int] = {}
        self._has_tokens = False

    def add_method(self, name: str, scope: str | None, request_bytes_max: int = 0) -> None:
        """Make "package.Service/Method" known; scope None opens it to anyone, 0 is no limit."""
        number = len(self._numbers)
        if number >= _UNKNOWN:
            raise ValueError(f"more than {_UNKNOWN} methods")
        bit = SCOPES[scope] if scope is not None else 0
        error = ffi.new("struct bp_error *")
        code = lib.bp_guard_set_method(
            self._pointer, number, name.encode(), bit, request_bytes_max, error
        )
        check(code, error)
        self._numbers[name] = number
        self._scopes[number] = bit

    def number(self, name: str) -> int:
        """The number to enter with; that of a method nobody made known is refused there."""
        return self._numbers.get(name, _UNKNOWN)

    def set_tokens(self, tokens: Collection[Token]) -> None:
        """Replace all tokens at once. Raises StoreError, and then the old ones stay."""
        native = ffi.new("struct bp_guard_token[]", len(tokens))
        for slot, token in zip(native, tokens, strict=True):
            slot.hash = token.sha256
            slot.scopes = sum(SCOPES[scope] for scope in token.scopes)
            slot.name = token.name.encode()[: len(slot.name) - 1]
        error = ffi.new("struct bp_error *")
        check(lib.bp_guard_set_tokens(self._pointer, native, len(tokens), error), error)
        self._has_tokens = bool(tokens)

    def enter(
        self, number: int, token: bytes, request_bytes: int, now_ns: int, deadline_ns: int
    ) -> None:
        """Let a call in; `exit` must follow. token b"" is none, deadline_ns 0 is none.

        Raises StoreError when it may not run, and then `exit` must not follow.
        """
        digest = hashlib.sha256(token).digest() if token else ffi.NULL
        error = ffi.new("struct bp_error *")
        code = lib.bp_guard_enter(
            self._pointer, number, digest, request_bytes, now_ns, deadline_ns, error
        )
        if code != 0:
            raise store_error(error)

    def exit(self, number: int, code: int, latency_ns: int) -> None:
        """The call ended with a canonical code, 0 for OK."""
        lib.bp_guard_exit(self._pointer, number, code, latency_ns)

    def judge(self, number: int, token: bytes) -> StoreError | None:
        """Why a call with this token, let in earlier, would not be let in now; None if it would."""
        scope = self._scopes.get(number, 0)
        if not (self._has_tokens and scope):
            return None
        _, scopes = self._find(token)
        if scopes is None:
            return StoreError(
                "the token was revoked", code=Code.UNAUTHENTICATED, reason="TOKEN_UNKNOWN"
            )
        if not scopes & scope:
            return StoreError(
                "the token lost the scope for this call",
                code=Code.PERMISSION_DENIED,
                reason="SCOPE_MISSING",
            )
        return None

    def identify(self, token: bytes) -> str:
        """The name of a token's client, "" for nobody."""
        return self._find(token)[0]

    def _find(self, token: bytes) -> tuple[str, int | None]:
        """The name and the scopes of a token; None when it is unknown."""
        if not token:
            return "", None
        name, scopes = ffi.new("char[64]"), ffi.new("uint32_t *")
        digest = hashlib.sha256(token).digest()
        known = lib.bp_guard_identify(self._pointer, digest, name, scopes)
        return (text(name), int(scopes[0])) if known else ("", None)

    def snapshot(self) -> Iterable[MethodStats]:
        """The counters of every known method; each exact, together not one instant."""
        stats = ffi.new("struct bp_guard_stats *")
        for number in self._numbers.values():
            if lib.bp_guard_snapshot(self._pointer, number, stats):
                yield _read(stats)

    @property
    def bounds_ns(self) -> tuple[int, ...]:
        """Upper bounds of the latency buckets but the last, which has none."""
        buckets = len(ffi.new("struct bp_guard_stats *").latency)
        return tuple(int(lib.bp_guard_bucket_bound(i)) for i in range(buckets - 1))


def _read(stats: Any) -> MethodStats:
    return MethodStats(
        name=text(stats.name),
        in_flight=stats.in_flight,
        denied=stats.denied,
        codes=tuple(stats.codes),
        latency_sum_ns=stats.latency_sum_ns,
        latency=tuple(stats.latency),
    )
