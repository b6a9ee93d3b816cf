"""What snapshots and repairs came to, since the daemon was started."""

from dataclasses import dataclass


@dataclass(slots=True)
class SnapshotCounters:
    """Of snapshots to and from other members, and of values fetched from them."""

    sent: int = 0
    send_failures: int = 0
    sent_bytes: int = 0  # manifests and values
    installed: int = 0
    install_failures: int = 0
    received_bytes: int = 0  # values
    repaired_values: int = 0
    repair_failures: int = 0  # nobody had any of what was asked for
