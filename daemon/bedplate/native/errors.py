"""struct bp_error as a Python exception."""

from typing import Any

from bedplate._native import ffi, lib
from bedplate.errors import BedplateError, Code

OLDEST_REVISION = "oldest_revision"


class StoreError(BedplateError):
    """The engine refused or failed a request; `sys_errno` is the errno of an I/O failure, or 0."""

    sys_errno: int = 0


def store_error(error: Any) -> StoreError:
    """From a filled `struct bp_error`."""
    metadata = {OLDEST_REVISION: str(error.revision)} if error.revision else {}
    raised = StoreError(
        text(error.message),
        code=Code(error.code),
        reason=text(lib.bp_reason_name(error.reason)),
        field=text(error.field),
        metadata=metadata,
    )
    raised.sys_errno = error.sys_errno
    return raised


def closed() -> StoreError:
    """What a call on a closed store gets."""
    return StoreError("the store is closed", code=Code.UNAVAILABLE, reason="STORE_CLOSED")


def text(pointer: Any) -> str:
    """A C string; bytes that are not UTF-8 are shown escaped."""
    return bytes(ffi.string(pointer)).decode("utf-8", "backslashreplace")


def check(code: int, error: Any) -> None:
    """Raise what a fallible call reported."""
    if code != 0:
        raise store_error(error)
