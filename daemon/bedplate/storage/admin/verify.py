"""One scrub as VerifyResponses: findings as they are met, progress about once a second."""

import asyncio
import time
from collections.abc import AsyncGenerator

from bedplate.api.admin.v1 import admin_pb2 as pb
from bedplate.native.operations import Finding, ScrubStep, scrubbing
from bedplate.native.store import Keyspace
from bedplate.storage.engine import Engine
from bedplate.storage.threads import in_thread

STORE_FOLDER = "store"  # of the data directory, where the engine's files are
_PROGRESS_EVERY_S = 1.0


async def verify(
    engine: Engine, bytes_per_second_max: int
) -> AsyncGenerator[pb.VerifyResponse, None]:
    """Scrub everything. Raises StoreError when the scrub itself cannot go on, MemoryError."""
    begun = time.monotonic()
    shown, findings, done = begun, 0, 0
    with scrubbing(engine.native) as steps:
        while (step := await in_thread(lambda: next(steps, None))) is not None:
            done = step.bytes_done
            if step.finding is not None:
                findings += 1
                yield pb.VerifyResponse(finding=finding_message(step.finding))
            go_on_at = begun + done / bytes_per_second_max if bytes_per_second_max else begun
            while True:
                now = time.monotonic()
                if now - shown >= _PROGRESS_EVERY_S:
                    shown = now
                    yield pb.VerifyResponse(progress=_progress(engine, step))
                if now >= go_on_at:
                    break
                await asyncio.sleep(min(go_on_at - now, _PROGRESS_EVERY_S))
    summary = pb.VerifySummary(
        revision=engine.status().revision,
        bytes_checked=done,
        findings=findings,
        duration_ms=round((time.monotonic() - begun) * 1000),
    )
    yield pb.VerifyResponse(summary=summary)


def finding_message(finding: Finding) -> pb.Finding:
    """Keys as KVService knows them; what lies in another keyspace is not a client's key."""
    is_users = finding.key[:1] == bytes([Keyspace.USER])
    return pb.Finding(
        kind=_kind(finding),
        file=f"{STORE_FOLDER}/{finding.file}" if finding.file else "",
        offset=finding.offset,
        key=finding.key[1:] if is_users else b"",
        revision=finding.revision,
        message=finding.message,
    )


def _kind(finding: Finding) -> "pb.FindingKind":
    if finding.key:
        return pb.FINDING_KIND_VALUE_DAMAGED
    if not finding.file:
        return pb.FINDING_KIND_INDEX_DAMAGED
    if finding.file.endswith(".ckpt"):
        return pb.FINDING_KIND_CHECKPOINT_DAMAGED
    return pb.FINDING_KIND_LOG_DAMAGED


def _progress(engine: Engine, step: ScrubStep) -> pb.VerifyProgress:
    """What there is to check is about what there is on disk."""
    status = engine.status()
    total = status.live_value_bytes + status.log_bytes + 2 * status.checkpoint_bytes
    return pb.VerifyProgress(bytes_done=step.bytes_done, bytes_total=max(total, step.bytes_done))
