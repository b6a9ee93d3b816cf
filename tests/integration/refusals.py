"""What a refused call says: code, reason, field and metadata out of grpc-status-details-bin."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status


@dataclass(frozen=True, slots=True)
class Refusal:
    code: grpc.StatusCode
    reason: str
    field: str
    metadata: dict[str, str]
    retry_ms: int | None
    message: str
    fields: list[str]  # of google.rpc.BadRequest; "" is the message as a whole


def refusal(error: grpc.RpcError) -> Refusal:
    """The details of a failed call, all of which must be of this contract."""
    call: Any = error  # what grpc raises is both
    status = rpc_status.from_call(call)
    assert status is not None, error
    info, fields, retry_ms = ErrorInfo(), list[str](), None
    for packed in status.details:
        violations, retry = BadRequest(), RetryInfo()
        if packed.Unpack(violations):
            fields = [violation.field for violation in violations.field_violations]
        elif packed.Unpack(retry):
            retry_ms = retry.retry_delay.ToMilliseconds()
        else:
            assert packed.Unpack(info), packed
    assert info.domain == "bedplate"
    assert info.reason
    field = fields[0] if fields else ""
    metadata = dict(info.metadata)
    return Refusal(call.code(), info.reason, field, metadata, retry_ms, status.message, fields)


def refused(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Refusal:
    """Call, which must fail."""
    with pytest.raises(grpc.RpcError) as failure:
        call(*arguments, **keywords)
    return refusal(failure.value)
