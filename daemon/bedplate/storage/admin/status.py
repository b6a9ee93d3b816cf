"""The engine's counters as a GetStatusResponse. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bedplate.api.admin.v1 import admin_pb2 as pb
from bedplate.native.status import Status


class ServiceReport(Protocol):
    """Whether a service is served; server.app.ServiceReport is one."""

    @property
    def name(self) -> str: ...
    @property
    def served(self) -> bool: ...
    @property
    def detail(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What a status shows beside the engine's counters."""

    version: str
    role: str = "leader"  # or follower, candidate, learner
    index_memory_max: int = 0  # bytes, 0: no limit
    services: Sequence[ServiceReport] = ()
    missing_extras: Sequence[str] = field(default=())


def status_response(status: Status, facts: Facts, started_ns: int) -> pb.GetStatusResponse:
    """`started_ns` is Unix time in nanoseconds."""
    index_bytes = status.index_bytes + status.history_bytes  # as the engine's limit counts
    index_full = 0 < facts.index_memory_max <= index_bytes
    response = pb.GetStatusResponse(
        version=facts.version,
        store_id=status.store_id.hex(),
        cluster_id=status.cluster_id.hex(),
        member_id=status.member_id,
        role=f"MEMBER_ROLE_{facts.role.upper()}",
        revision=status.revision,
        compaction_revision=status.compaction_revision,
        log=_log(status),
        index=pb.IndexStatus(
            keys=status.keys,
            versions=status.versions,
            memory_bytes=index_bytes,
            memory_bytes_max=facts.index_memory_max,
            full=index_full,
            state_hash="".join(f"{lane:016x}" for lane in status.state_hash),
        ),
        checkpoint=pb.CheckpointStatus(
            index=status.checkpoint_index,
            bytes=status.checkpoint_bytes,
            age_ms=status.checkpoint_age_ms,
        ),
        recovery=pb.RecoveryStatus(
            duration_ms=status.recovery_ms,
            entries_replayed=status.recovery_entries,
            bytes_replayed=status.recovery_log_bytes,
            discarded_tail_bytes=status.recovery_discarded_bytes,
            checkpoint_keys=status.recovery_checkpoint_keys,
        ),
        disk=pb.DiskStatus(
            free_bytes=status.disk_free_bytes,
            total_bytes=status.disk_total_bytes,
            reserve_bytes=status.disk_reserve_bytes,
            full=bool(status.disk_full),
        ),
        poisoned=bool(status.poisoned),
        read_only=bool(status.poisoned or status.disk_full or index_full),
        services=_services(facts.services),
        missing_extras=sorted(facts.missing_extras),
        watches=status.watches,
        leases=status.leases,
    )
    response.started_time.FromNanoseconds(started_ns)
    return response


def _log(status: Status) -> pb.LogStatus:
    interval = status.durability_interval_ms
    return pb.LogStatus(
        term=status.term,
        last_index=status.last_index,
        durable_index=status.durable_index,
        committed_index=status.committed_index,
        applied_index=status.applied_index,
        bytes=status.log_bytes + status.settled_bytes,
        live_share=status.live_share,
        log_segments=status.log_segments,
        settled_segments=status.settled_segments,
        durability=f"interval:{interval}" if interval else "fsync",
    )


def _services(reports: Iterable[ServiceReport]) -> list[pb.ServiceStatus]:
    return [
        pb.ServiceStatus(name=report.name, served=report.served, detail=report.detail)
        for report in sorted(reports, key=lambda report: report.name)
    ]
