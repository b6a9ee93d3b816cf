"""What goes wrong, as the one line that a user reads.

bedplate: NOT_FOUND BUCKET_NOT_FOUND: there is no bucket "photos"
          code      reason            what happened
"""

from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from bedplate.errors import BedplateError


class CommandError(Exception):
    """A command that failed; the message is the line."""


class NotUnderstood(CommandError):
    """A command line that means nothing."""


def describe(error: Exception) -> str:
    """The line for an error that a command ended with."""
    match error:
        case grpc.RpcError():
            return _describe_call(error)
        case BedplateError():
            return f"{error.reason}: {error.message}"
        case OSError(filename=str() | bytes() as name, strerror=str(reason)):
            return f"{reason}: {name!s}"
        case OSError(strerror=str(reason)):
            return reason
        case _:
            return str(error)


def reason_of(error: grpc.RpcError) -> str:
    """The stable reason of a failed call; "" when what failed is not the daemon."""
    call: Any = error  # what grpc raises is both
    status = rpc_status.from_call(call)
    info = ErrorInfo()
    for packed in status.details if status is not None else ():
        if packed.Unpack(info):
            return info.reason
    return ""


def _describe_call(error: grpc.RpcError) -> str:
    call: Any = error
    code, details = call.code().name, " ".join(str(call.details()).split())
    reason = reason_of(error)
    if reason:
        return f"{code} {reason}: {details}"
    if call.code() is grpc.StatusCode.UNAVAILABLE:
        return (
            f"cannot reach the daemon: {details.partition('last error: UNKNOWN: ')[2] or details}"
        )
    return f"{code}: {details}"
