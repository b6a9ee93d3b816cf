"""Every way an object call fails, with its code: the stable part of the contract."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from types import MappingProxyType

from bedplate.errors import BedplateError, Code


class Reason(StrEnum):
    """google.rpc.ErrorInfo.reason of object calls. Never renamed, only added."""

    BUCKET_EXISTS = "BUCKET_EXISTS"
    BUCKET_NOT_EMPTY = "BUCKET_NOT_EMPTY"
    BUCKET_NOT_FOUND = "BUCKET_NOT_FOUND"
    CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"
    CONDITION_FAILED = "CONDITION_FAILED"
    CONFLICT = "CONFLICT"
    DUPLICATE_KEY = "DUPLICATE_KEY"
    FIELD_INVALID = "FIELD_INVALID"
    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    METADATA_TOO_LARGE = "METADATA_TOO_LARGE"
    NAME_INVALID = "NAME_INVALID"
    OBJECT_CHANGED = "OBJECT_CHANGED"
    OBJECT_NOT_FOUND = "OBJECT_NOT_FOUND"
    OBJECT_TOO_LARGE = "OBJECT_TOO_LARGE"
    PAGE_TOKEN_INVALID = "PAGE_TOKEN_INVALID"
    PART_NOT_FOUND = "PART_NOT_FOUND"
    PART_ORDER_INVALID = "PART_ORDER_INVALID"
    PART_TOO_SMALL = "PART_TOO_SMALL"
    RANGE_NOT_SATISFIABLE = "RANGE_NOT_SATISFIABLE"
    SIZE_MISMATCH = "SIZE_MISMATCH"
    TOO_MANY_OPS = "TOO_MANY_OPS"
    UPLOAD_NOT_FOUND = "UPLOAD_NOT_FOUND"
    VALUE_DAMAGED = "VALUE_DAMAGED"


CODES: Mapping[Reason, Code] = MappingProxyType(
    {
        Reason.BUCKET_EXISTS: Code.ALREADY_EXISTS,
        Reason.BUCKET_NOT_EMPTY: Code.FAILED_PRECONDITION,
        Reason.BUCKET_NOT_FOUND: Code.NOT_FOUND,
        Reason.CHECKSUM_MISMATCH: Code.INVALID_ARGUMENT,
        Reason.CONDITION_FAILED: Code.FAILED_PRECONDITION,
        Reason.CONFLICT: Code.ABORTED,
        Reason.DUPLICATE_KEY: Code.INVALID_ARGUMENT,
        Reason.FIELD_INVALID: Code.INVALID_ARGUMENT,
        Reason.MALFORMED_REQUEST: Code.INVALID_ARGUMENT,
        Reason.METADATA_TOO_LARGE: Code.INVALID_ARGUMENT,
        Reason.NAME_INVALID: Code.INVALID_ARGUMENT,
        Reason.OBJECT_CHANGED: Code.ABORTED,
        Reason.OBJECT_NOT_FOUND: Code.NOT_FOUND,
        Reason.OBJECT_TOO_LARGE: Code.INVALID_ARGUMENT,
        Reason.PAGE_TOKEN_INVALID: Code.INVALID_ARGUMENT,
        Reason.PART_NOT_FOUND: Code.INVALID_ARGUMENT,
        Reason.PART_ORDER_INVALID: Code.INVALID_ARGUMENT,
        Reason.PART_TOO_SMALL: Code.INVALID_ARGUMENT,
        Reason.RANGE_NOT_SATISFIABLE: Code.OUT_OF_RANGE,
        Reason.SIZE_MISMATCH: Code.INVALID_ARGUMENT,
        Reason.TOO_MANY_OPS: Code.INVALID_ARGUMENT,
        Reason.UPLOAD_NOT_FOUND: Code.NOT_FOUND,
        Reason.VALUE_DAMAGED: Code.DATA_LOSS,
    }
)


@contextmanager
def fields_within(path: str, *others: str) -> Iterator[None]:
    """Errors of the block name fields of the message at `path` ("header"), unless they begin with
    it already or with one of the others.
    """
    try:
        yield
    except BedplateError as error:
        if error.field and error.field.partition(".")[0] not in (path, *others):
            error.field = f"{path}.{error.field}"
        raise


class ObjectError(BedplateError):
    """An object call that failed: the code follows from the reason."""

    def __init__(self, reason: Reason, message: str, field: str = "") -> None:
        super().__init__(message, code=CODES[reason], reason=reason.value, field=field)
