"""Errors as gRPC status details."""

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from bedplate.errors import BedplateError, Code
from bedplate.server.status import details, grpc_code, message


def unpack(error: BedplateError) -> dict[str, object]:
    status = Status.FromString(details(error))
    assert (status.code, status.message) == (error.code, error.message)
    found: dict[str, object] = {}
    for packed in status.details:
        for kind in (ErrorInfo, BadRequest, RetryInfo):
            message = kind()
            if packed.Unpack(message):
                found[kind.__name__] = message
    assert len(found) == len(status.details)
    return found


def test_the_reason_and_its_data_travel_as_error_info() -> None:
    error = BedplateError(
        "gone",
        code=Code.OUT_OF_RANGE,
        reason="REVISION_COMPACTED",
        metadata={"oldest_revision": "7"},
    )
    expected = ErrorInfo(
        reason="REVISION_COMPACTED", domain="bedplate", metadata={"oldest_revision": "7"}
    )
    assert unpack(error) == {"ErrorInfo": expected}


def test_a_field_is_a_violation() -> None:
    error = BedplateError(
        "too long", code=Code.INVALID_ARGUMENT, reason="KEY_TOO_LARGE", field="ops[3].put.key"
    )
    violations = unpack(error)["BadRequest"]
    assert isinstance(violations, BadRequest)
    (violation,) = violations.field_violations
    assert (violation.field, violation.description) == ("ops[3].put.key", "too long")
    assert violation.reason == "KEY_TOO_LARGE"


@pytest.mark.parametrize("echo", ["x", "\U0001f600", "\n"])
def test_what_a_client_sent_is_not_quoted_without_end(echo: str) -> None:
    error = BedplateError(
        echo * 100_000, code=Code.INVALID_ARGUMENT, reason="FIELD_INVALID", field="name"
    )
    escaped = 3 * len(message(error).encode())
    assert escaped + len(details(error)) * 4 / 3 < 8192  # what clients accept of trailers
    assert Status.FromString(details(error)).message.startswith(echo)


@pytest.mark.parametrize(
    ("code", "given", "expected_ms"),
    [
        (Code.RESOURCE_EXHAUSTED, None, 1000),
        (Code.UNAVAILABLE, None, 1000),
        (Code.UNAVAILABLE, 250, 250),
        (Code.ABORTED, 5, 5),
        (Code.NOT_FOUND, None, None),
    ],
)
def test_what_may_pass_says_when_to_try_again(
    code: Code, given: int | None, expected_ms: int | None
) -> None:
    error = BedplateError("later", code=code, reason="R", retry_after_ms=given)
    retry = unpack(error).get("RetryInfo")
    if expected_ms is None:
        assert retry is None
    else:
        assert isinstance(retry, RetryInfo)
        assert retry.retry_delay.ToMilliseconds() == expected_ms


def test_every_code_has_its_grpc_status() -> None:
    for code in Code:
        assert grpc_code(code).value[0] == code
    assert {grpc_code(code) for code in Code} == set(grpc.StatusCode) - {grpc.StatusCode.OK}
