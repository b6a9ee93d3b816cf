"""Scrub, backup, restore and fsck. Everything here blocks: call it from a thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bedplate._native import ffi, lib
from bedplate.errors import Code
from bedplate.native.errors import check, store_error, text
from bedplate.native.options import Options, native_options
from bedplate.native.store import NativeStore

_FINDING, _MORE, _END = 1, 0, 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One damaged place."""

    file: str
    offset: int
    revision: int  # of the damaged version, 0 unknown
    key: bytes  # as stored, its first byte the keyspace; empty: not about a key
    message: str


@dataclass(frozen=True, slots=True)
class ScrubStep:
    """One bounded step of a scrub: bytes checked so far, and what the step found, if anything."""

    bytes_done: int
    finding: Finding | None


@contextmanager
def scrubbing(store: NativeStore) -> Iterator[Iterator[ScrubStep]]:
    """Check every retained value and checkpoint, step by step. Raises StoreError, MemoryError."""
    scrub = lib.bp_scrub_new(store.pointer)
    if scrub == ffi.NULL:
        raise MemoryError("no memory for a scrub")
    try:
        yield _scrub_steps(scrub)
    finally:
        lib.bp_scrub_free(scrub)


def _scrub_steps(scrub: Any) -> Iterator[ScrubStep]:
    finding, done = ffi.new("struct bp_finding *"), ffi.new("uint64_t *")
    error = ffi.new("struct bp_error *")
    while (code := lib.bp_scrub_next(scrub, finding, done, error)) != _END:
        if code not in (_MORE, _FINDING):
            raise store_error(error)
        yield ScrubStep(int(done[0]), _finding(finding) if code == _FINDING else None)


def _finding(finding: Any) -> Finding:
    return Finding(
        file=text(finding.file),
        offset=finding.offset,
        revision=finding.revision,
        key=bytes(ffi.buffer(finding.key, finding.key_size)),
        message=text(finding.message),
    )


class NativeBackup:
    """A consistent snapshot as a stream of bytes, pinned at `revision` until closed."""

    def __init__(self, store: NativeStore) -> None:
        """Raises StoreError."""
        backup, revision = ffi.new("bp_backup **"), ffi.new("uint64_t *")
        self._error = ffi.new("struct bp_error *")
        check(lib.bp_backup_new(store.pointer, backup, revision, self._error), self._error)
        self._pointer = backup[0]
        self.revision = int(revision[0])

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; empty at the end. Raises StoreError."""
        buffer, n = ffi.new("uint8_t[]", size), ffi.new("uint64_t *")
        check(lib.bp_backup_next(self._pointer, buffer, size, n, self._error), self._error)
        return bytes(ffi.buffer(buffer, n[0]))

    def close(self) -> None:
        """Free it; not while `read` runs."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            lib.bp_backup_free(pointer)


def restore(options: Options, backup_path: str) -> None:
    """Make a store in the new directory `options.dir` from a backup file. Raises StoreError."""
    native, error = native_options(options), ffi.new("struct bp_error *")
    path = backup_path.encode("utf-8", "surrogateescape")
    check(lib.bp_restore(native.pointer, path, error), error)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a directory became: a new cluster with one member, its writes from `revision` on."""

    cluster_id: bytes
    member_id: int
    revision: int


def recover(options: Options) -> Recovered:
    """Make the store that no daemon has open a cluster of its own, every entry it holds committed.
    Raises StoreError, and then the store is as it was.
    """
    native, error = native_options(options), ffi.new("struct bp_error *")
    recovered = ffi.new("struct bp_recovered *")
    check(lib.bp_recover(native.pointer, recovered, error), error)
    return Recovered(
        bytes(ffi.buffer(recovered.cluster_id)), recovered.member_id, recovered.revision
    )


@dataclass(frozen=True, slots=True)
class FsckReport:
    """What an offline check of a directory says, one line a fact."""

    sound: bool
    text: str


def fsck(directory: str, rebuild_directory: str | None = None) -> FsckReport:
    """Explain a directory that no daemon has open; with `rebuild_directory`, salvage what is intact
    into that new directory. Raises StoreError when it cannot be examined at all.
    """
    report, error = ffi.new("struct bp_reply *"), ffi.new("struct bp_error *")
    target = ffi.NULL
    if rebuild_directory is not None:
        target = ffi.new("char[]", rebuild_directory.encode("utf-8", "surrogateescape"))
    code = lib.bp_fsck(directory.encode("utf-8", "surrogateescape"), target, report, error)
    try:
        if code not in (0, Code.DATA_LOSS):
            raise store_error(error)
        written = bytes(ffi.buffer(report.data, report.size)) if report.size else b""
    finally:
        lib.bp_reply_free(report)
    return FsckReport(code == 0, written.decode("utf-8", "backslashreplace"))
