"""The base of every error that reaches a client: a canonical code, a stable reason, one sentence.

Layers raise BedplateError, or a subclass of theirs; `bedplate.server.status` alone turns them into
a gRPC status. Match on `reason`, never on the text.
"""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Code(IntEnum):
    """Canonical status codes; the numbers are google.rpc.Code's and the C engine's."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class BedplateError(Exception):
    """Something a caller is told about.

    `field` is the offending request field as a proto path ("ops[3].put.key") or "". `metadata` goes
    into google.rpc.ErrorInfo as it stands. `retry_after_ms` is how long a client should wait before
    it tries again; None leaves it to the code's default.
    """

    def __init__(
        self,
        message: str,
        *,
        code: Code,
        reason: str,
        field: str = "",
        metadata: Mapping[str, str] = _NOTHING,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.field = field
        self.metadata = metadata
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        return self.message


class StartupError(BedplateError):
    """The daemon cannot start; the message is the one line that says why and what to do."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message, code=Code.FAILED_PRECONDITION, reason=reason)
