"""One backup as a stream of BackupResponse: header, data, trailer."""

import time
from collections.abc import AsyncGenerator

from bedplate import __version__
from bedplate.api.admin.v1 import admin_pb2 as pb
from bedplate.errors import BedplateError, Code
from bedplate.native.errors import StoreError
from bedplate.native.operations import NativeBackup
from bedplate.native.store import crc32c
from bedplate.storage.engine import Engine
from bedplate.storage.threads import in_thread

_FORMAT_VERSION = 1  # native/src/backup.h
_MESSAGE_BYTES = 1 << 20
_BEHIND = ("NO_LEADER", "LEADER_LOST", "DISK_FULL", "LOG_POISONED")  # it has what it has
_KEY_BYTES = 40  # of a record, beside key and value


async def backup(engine: Engine) -> AsyncGenerator[pb.BackupResponse, None]:
    """Everything at the present revision. Raises StoreError."""
    behind = not await _is_present(engine)
    native, opened = engine.native, list[NativeBackup]()
    try:
        await in_thread(lambda: opened.append(NativeBackup(native)))
        source = opened[0]
        yield pb.BackupResponse(header=_header(engine, source.revision, behind))
        crc, size = 0, 0
        while data := await in_thread(lambda: source.read(_MESSAGE_BYTES)):
            crc, size = crc32c(data, crc), size + len(data)
            yield pb.BackupResponse(data=data)
        yield pb.BackupResponse(trailer=pb.BackupTrailer(bytes=size, crc32c=crc))
    finally:
        for source in opened:  # also one that was opened while this was being cancelled
            source.close()


async def _is_present(engine: Engine) -> bool:
    """Wait until this member has what the cluster has answered; False where it cannot know."""
    try:
        await engine.present()
    except StoreError as error:
        if error.reason not in _BEHIND:
            raise
        return False
    return True


def _header(engine: Engine, revision: int, behind: bool) -> pb.BackupHeader:
    status = engine.status()
    header = pb.BackupHeader(
        format_version=_FORMAT_VERSION,
        revision=revision,
        store_id=status.store_id.hex(),
        cluster_id=status.cluster_id.hex(),
        version=__version__,
        may_be_behind=behind,
        bytes_estimate=status.live_value_bytes + status.key_bytes + status.keys * _KEY_BYTES,
    )
    header.created_time.FromNanoseconds(time.time_ns())
    return header


def too_long(seconds_max: int) -> BedplateError:
    """What a client gets whose backup held back the reclaiming of space for long enough."""
    return BedplateError(
        f"the backup took longer than `admin.backup_seconds_max`, {seconds_max} s",
        code=Code.DEADLINE_EXCEEDED,
        reason="DEADLINE_PASSED",
    )
