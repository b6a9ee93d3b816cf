"""Connections to other members, and what they say when they refuse.

Each is a connection of its own, so that entries never stand in a heartbeat's way, and is noticed to
be dead within seconds when the other host vanishes without a word.
"""

from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from bedplate.errors import BedplateError, Code

MESSAGE_BYTES_MAX: Final = 16 << 20  # of one frame between members
_DETAILS = "grpc-status-details-bin"
_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),  # else two channels would share a connection
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.min_reconnect_backoff_ms", 2000),  # also the time that connecting may take
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
# What a server needs so that these pings do not count as an attack.
SERVER_OPTIONS: Final = (
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """How this member shows the others that it is one: PEM bytes, a token, both or neither."""

    token: str = ""
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def channel(self, address: str) -> grpc.aio.Channel:
        """A connection to HOST:PORT. Nothing is sent before the first call."""
        if self.ca is None:
            return grpc.aio.insecure_channel(address, _OPTIONS)
        credentials = grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)
        return grpc.aio.secure_channel(address, credentials, _OPTIONS)


def refusal(error: grpc.aio.AioRpcError) -> BedplateError:
    """What a failed call says, as it was raised on the other side."""
    code = Code(error.code().value[0])
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            info, bad = ErrorInfo(), BadRequest()
            _unpack(value, info, bad)
            if info.reason:
                violations = bad.field_violations
                return BedplateError(
                    error.details() or "",
                    code=code,
                    reason=info.reason,
                    field=violations[0].field if violations else "",
                    metadata=dict(info.metadata),
                )
    return BedplateError(error.details() or code.name, code=code, reason="")


def _unpack(details: bytes, *wanted: Message) -> None:
    """Fill in what of this the details hold."""
    for packed in Status.FromString(details).details:
        for message in wanted:
            packed.Unpack(message)
