"""From a BedplateError to a gRPC status with google.rpc details: the one place where that happens.

grpc-status, grpc-message        code, message
grpc-status-details-bin          google.rpc.Status { ErrorInfo{reason, domain, metadata},
                                   BadRequest{field}       always with INVALID_ARGUMENT; field ""
                                                           is the message as a whole,
                                   RetryInfo{delay}        when trying again later may help }
"""

from typing import Final

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from bedplate.errors import BedplateError, Code

DOMAIN: Final = "bedplate"
DETAILS_KEY: Final = "grpc-status-details-bin"
_RETRY_MS = {Code.RESOURCE_EXHAUSTED: 1000, Code.UNAVAILABLE: 1000}
# Three copies of it, escaped, fit well into the 8 KiB of trailers that clients accept.
_MESSAGE_BYTES_MAX = 1024
_STATUS = {code.value[0]: code for code in grpc.StatusCode}


def grpc_code(code: Code) -> grpc.StatusCode:
    """The same code as grpcio names it."""
    return _STATUS[code]


def message(error: BedplateError) -> str:
    """What it says, cut where it quotes too much of what the client sent."""
    encoded = error.message.encode("utf-8", "replace")
    if len(encoded) <= _MESSAGE_BYTES_MAX:
        return error.message
    return encoded[:_MESSAGE_BYTES_MAX].decode("utf-8", "ignore") + "..."


def details(error: BedplateError) -> bytes:
    """The serialized google.rpc.Status for `grpc-status-details-bin`."""
    text = message(error)
    status = Status(code=error.code, message=text)
    _add(status, ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=dict(error.metadata)))
    if error.field or error.code is Code.INVALID_ARGUMENT:
        violation = BadRequest.FieldViolation(
            field=error.field, description=text, reason=error.reason
        )
        _add(status, BadRequest(field_violations=[violation]))
    retry_ms = error.retry_after_ms
    if retry_ms is None:
        retry_ms = _RETRY_MS.get(error.code)
    if retry_ms is not None:
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(retry_ms)
        _add(status, retry)
    return status.SerializeToString()


def _add(status: Status, detail: Message) -> None:
    packed = Any()
    packed.Pack(detail)
    status.details.append(packed)
