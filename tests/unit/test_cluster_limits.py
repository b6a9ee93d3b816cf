"""Every number of [cluster] and [raft]: accepted at its limits, refused beyond them."""

from pathlib import Path
from typing import Any

import pytest

from bedplate.consensus.config import ClusterConfig, RaftConfig
from bedplate.consensus.member import settings
from bedplate.server.config import ConfigError, load

KIB, MIB = 1 << 10, 1 << 20

# section, key, the least, the most; None: there is no limit
NUMBERS = [
    ("cluster", "heartbeat_ms", 10, 10_000),
    ("cluster", "election_ms", 100, 100_000),
    ("cluster", "leader_wait_ms", 0, 600_000),
    ("cluster", "message_bytes_max", MIB, 8 * MIB),
    ("cluster", "window_bytes_max", 8 * MIB, None),
    ("raft", "retain_bytes", 64 * KIB, None),
    ("raft", "retain_bytes_max", MIB, None),
    ("raft", "snapshots_max", 1, 4),
    ("raft", "snapshot_stall_seconds", 1, 3600),
]
# How much of a text or a list there may be.
AMOUNTS: list[tuple[str, str, Any, Any]] = [
    ("cluster", "name", "n" * 64, "n" * 65),
    ("cluster", "member_name", "n" * 64, "n" * 65),
    (
        "cluster",
        "peers",
        ",".join(f"h{i}:1" for i in range(9)),
        ",".join(f"h{i}:1" for i in range(10)),
    ),
    (
        "cluster",
        "join",
        ",".join(f"h{i}:1" for i in range(64)),
        ",".join(f"h{i}:1" for i in range(65)),
    ),
]
# Whatever is written there is taken; what it names is checked where it is used.
OTHERS = {("cluster", key) for key in ("advertise", "ca", "token_file")}


def taken(section: str, key: str, value: Any) -> Any:
    return getattr(getattr(load(None, {section: {key: str(value)}}), section), key)


@pytest.mark.parametrize(("section", "key", "least", "most"), NUMBERS)
def test_a_number_is_taken_at_its_limits_and_refused_beyond(
    section: str, key: str, least: int, most: int | None
) -> None:
    assert taken(section, key, least) == least
    with pytest.raises(ConfigError):
        taken(section, key, least - 1)
    if most is not None:
        assert taken(section, key, most) == most
        with pytest.raises(ConfigError):
            taken(section, key, most + 1)


@pytest.mark.parametrize(("section", "key", "most", "more"), AMOUNTS)
def test_a_text_is_taken_at_its_limit_and_refused_beyond(
    section: str, key: str, most: str, more: str
) -> None:
    assert taken(section, key, most)
    with pytest.raises(ConfigError):
        taken(section, key, more)


def test_every_key_is_in_these_tables() -> None:
    named = {(section, key) for section, key, *_ in (*NUMBERS, *AMOUNTS)} | OTHERS
    keys = {("cluster", key) for key in ClusterConfig.model_fields}
    assert named == keys | {("raft", key) for key in RaftConfig.model_fields}


def test_a_path_may_be_empty_and_is_none_then() -> None:
    assert taken("cluster", "ca", "") is None
    assert taken("cluster", "token_file", "/t") == Path("/t")
    assert taken("cluster", "advertise", "h:1") == "h:1"


def test_milliseconds_become_ticks_of_a_heartbeat() -> None:
    given = {"heartbeat_ms": 50, "election_ms": 1000, "leader_wait_ms": 500}
    config = ClusterConfig.model_validate(given | {"window_bytes_max": 9 * MIB})
    raft, replica = settings(config, RaftConfig())
    assert (raft.heartbeat_ticks, raft.election_ticks) == (1, 20)
    assert (replica.tick_ms, replica.leader_wait_ticks) == (50, 10)
    assert raft.window_bytes_max == 9 * MIB


def test_writes_are_slowed_before_the_log_gives_up_what_it_keeps() -> None:
    kept = RaftConfig.model_validate({"retain_bytes": 2 * MIB, "retain_bytes_max": 9 * MIB})
    _, replica = settings(ClusterConfig(), kept)
    assert (replica.retain_bytes, replica.retain_bytes_max) == (2 * MIB, 9 * MIB)
