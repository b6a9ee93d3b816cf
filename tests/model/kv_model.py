"""What the KV service promises, in the simplest Python that says it: a list of (revision, state
before, state after) and nothing else.

Every write is `apply(revision, effects)`; everything that can be read is computed from the states.
Errors are raised as Refused(reason).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bedplate.api.kv.v1 import kv_pb2 as pb


class Refused(Exception):
    """The store must refuse this, with this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one key."""

    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease_id: int


State = dict[bytes, Version]


@dataclass(frozen=True, slots=True)
class Put:
    """What a put does to its key; keep_lease takes the lease the key has."""

    value: bytes
    lease_id: int = 0
    keep_lease: bool = False


Effects = Mapping[bytes, Put | None]  # None: deleted


@dataclass(frozen=True, slots=True)
class Range:
    """Keys from start to end (empty: no end), or with a prefix."""

    start: bytes = b""
    end: bytes = b""
    prefix: bytes = b""

    def __contains__(self, key: bytes) -> bool:
        if self.prefix:
            return key.startswith(self.prefix)
        return self.start <= key and (not self.end or key < self.end)

    @property
    def valid(self) -> bool:
        return not self.end or self.start < self.end

    @property
    def fields(self) -> dict[str, Any]:
        """As ScanRequest, ScanOp and WatchRequest take it."""
        return {"start": self.start, "end": self.end, "prefix": self.prefix}


def delete_range(key: bytes, range_end: bytes) -> Range:
    """What DeleteRequest's two fields mean."""
    if not range_end:
        return Range(key, key + b"\0")
    return Range(key, b"" if range_end == b"\0" else range_end)


@dataclass(slots=True)
class Change:
    """What one write changed."""

    revision: int
    before: State
    after: State

    @property
    def keys(self) -> list[bytes]:
        return sorted(
            key
            for key in self.before.keys() | self.after.keys()
            if self.before.get(key) != self.after.get(key)
        )


@dataclass
class KVModel:
    """The store as its clients may see it."""

    revision: int = 0
    compacted: int = 0
    state: State = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    leases: set[int] = field(default_factory=set)

    # ---- writes ----------------------------------------------------------------------------------

    def check_leases(self, effects: Effects) -> None:
        for put in effects.values():
            if put is not None and put.lease_id and put.lease_id not in self.leases:
                raise Refused("LEASE_NOT_FOUND")

    def apply(self, revision: int, effects: Effects) -> None:
        """One request took effect at a revision that must be new."""
        assert revision > self.revision
        before = self.state
        self.state = dict(before)
        for key, put in effects.items():
            held = self.state.pop(key, None)
            if put is None:
                continue
            self.state[key] = Version(
                put.value,
                held.create_revision if held else revision,
                revision,
                held.version + 1 if held else 1,
                (held.lease_id if held else 0) if put.keep_lease else put.lease_id,
            )
        self.revision = revision
        self.changes.append(Change(revision, before, self.state))

    def covered(self, keys: Range) -> dict[bytes, None]:
        """The effects of deleting a range."""
        return {key: None for key in sorted(self.state) if key in keys}

    def attached(self, lease: int) -> set[bytes]:
        return {key for key, version in self.state.items() if version.lease_id == lease}

    # ---- reads -----------------------------------------------------------------------------------

    def at(self, revision: int) -> State:
        """The state at a revision; 0 is now."""
        if revision == 0:
            return self.state
        if revision > self.revision:
            raise Refused("REVISION_IN_FUTURE")
        if revision < self.compacted:
            raise Refused("REVISION_COMPACTED")
        state: State = {}
        for change in self.changes:
            if change.revision > revision:
                break
            state = change.after
        return state

    def scan(self, keys: Range, revision: int, reverse: bool) -> list[tuple[bytes, Version]]:
        state = self.at(revision)
        found = sorted((key, version) for key, version in state.items() if key in keys)
        return found[::-1] if reverse else found

    def events(
        self, keys: Range, after: int
    ) -> list[tuple[int, bytes, Version | None, Version | None]]:
        """(revision, key, version, previous) of every change after a revision."""
        return [
            (change.revision, key, change.after.get(key), change.before.get(key))
            for change in self.changes
            if change.revision > after
            for key in change.keys
            if key in keys
        ]

    def holds(self, compare: pb.Compare) -> bool:
        version = self.state.get(compare.key)
        target = compare.WhichOneof("target") or ""
        operators: dict[int, Callable[[object, object], bool]] = {
            pb.COMPARE_OPERATOR_UNSPECIFIED: lambda a, b: a == b,
            pb.COMPARE_OPERATOR_EQUAL: lambda a, b: a == b,
            pb.COMPARE_OPERATOR_NOT_EQUAL: lambda a, b: a != b,
            pb.COMPARE_OPERATOR_GREATER: lambda a, b: a > b,  # type: ignore[operator]
            pb.COMPARE_OPERATOR_LESS: lambda a, b: a < b,  # type: ignore[operator]
        }
        if target == "value" and version is None:
            return False
        stored = getattr(version, target) if version is not None else 0
        return operators[compare.operator](stored, getattr(compare, target))


def message(key: bytes, version: Version, with_value: bool = True) -> pb.KeyValue:
    """A version as the contract shows it."""
    return pb.KeyValue(
        key=key,
        value=version.value if with_value else b"",
        create_revision=version.create_revision,
        mod_revision=version.mod_revision,
        version=version.version,
        lease_id=version.lease_id,
    )
