"""Snapshots between members: a manifest sent, the values fetched, both installed; and repair.

sender    NativeManifest.read .. -> stream        fetch(store, wanted) -> values
receiver  NativeInstall.manifest .. -> wanted / values .. -> finish -> close, and open the store

Everything here blocks: call it from a thread. One thread at a time uses one object.
"""

from dataclasses import dataclass
from typing import Any

from bedplate._native import ffi, lib
from bedplate.native.errors import check, store_error
from bedplate.native.store import NativeStore

_MORE, _WANTED, _ALL = 0, 1, 2


class NativeManifest:
    """All replicated state at `index` but the values, as bytes; kept from trimming until closed."""

    def __init__(self, store: NativeStore) -> None:
        """Raises StoreError; QUEUE_FULL when as many as may be are being sent."""
        manifest, index, term = (ffi.new(t) for t in ("bp_manifest **", "uint64_t *", "uint64_t *"))
        self._error = ffi.new("struct bp_error *")
        code = lib.bp_manifest_new(store.pointer, manifest, index, term, self._error)
        check(code, self._error)
        self._pointer = manifest[0]
        self.index = int(index[0])
        self.term = int(term[0])

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; empty at the end. Raises StoreError."""
        buffer, n = ffi.new("uint8_t[]", size), ffi.new("uint64_t *")
        check(lib.bp_manifest_next(self._pointer, buffer, size, n, self._error), self._error)
        return bytes(ffi.buffer(buffer, n[0]))

    def close(self) -> None:
        """Free it; not while `read` runs."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            lib.bp_manifest_free(pointer)


def fetch(store: NativeStore, wanted: bytes) -> bytes:
    """The values that another member asks for, below 3 MiB; what is gone here is left out.

    Raises StoreError: INVALID_ARGUMENT for bytes that are no such question.
    """
    error, values = ffi.new("struct bp_error *"), ffi.new("struct bp_reply *")
    check(lib.bp_fetch(store.pointer, wanted, len(wanted), values, error), error)
    return _take(values)


@dataclass(frozen=True, slots=True)
class InstallState:
    """How far an install has come; values are counted since the present manifest began."""

    complete: bool  # the manifest is here
    ready: bool  # all values are here: `finish` may be called
    done: bool  # finished: the store must be closed and opened again
    index: int
    term: int
    revision: int
    cluster_id: bytes
    state_hash: tuple[int, int]
    versions: int
    value_bytes: int
    held: int  # values that were here before
    held_bytes: int
    fetched: int
    fetched_bytes: int


class NativeInstall:
    """Another member's state on its way into a store, which goes on serving until `finish`."""

    def __init__(self, store: NativeStore) -> None:
        """Raises StoreError; QUEUE_FULL while another install of the store lives."""
        install = ffi.new("bp_install **")
        self._error = ffi.new("struct bp_error *")
        check(lib.bp_install_new(store.pointer, install, self._error), self._error)
        self._pointer = install[0]

    def manifest(self, data: bytes) -> None:
        """The next bytes of the manifest, in pieces of any size.

        Raises StoreError; the manifest is forgotten then, and a new one may follow.
        """
        code = lib.bp_install_manifest(self._pointer, data, len(data), self._error)
        check(code, self._error)

    def restart(self) -> None:
        """A new manifest follows; values that came are kept. Raises StoreError once finished."""
        check(lib.bp_install_restart(self._pointer, self._error), self._error)

    def wanted(self, *, ahead: bool = False) -> bytes | None:
        """What to ask of a member that has it (`fetch`); None: everything is here.

        `ahead`: answers to earlier questions are still to come, which are not asked again; empty
        when there is nothing else to ask. Without it, what did not come is asked for again.
        Verifies what this store has, so it may read much of it. Raises StoreError; on DISK_FULL it
        may be called again.
        """
        wanted = ffi.new("struct bp_reply *")
        pointer, error = self._pointer, self._error
        while (code := lib.bp_install_wanted(pointer, ahead, wanted, error)) == _MORE:
            pass
        if code == _ALL:
            return None
        if code != _WANTED:
            raise store_error(self._error)
        return _take(wanted)

    def values(self, data: bytes) -> int:
        """An answer to `wanted`; how many values it brought. 0: a new manifest is needed.

        Raises StoreError: DATA_LOSS for damaged bytes, of which nothing is taken.
        """
        taken = ffi.new("uint32_t *")
        code = lib.bp_install_values(self._pointer, data, len(data), taken, self._error)
        check(code, self._error)
        return int(taken[0])

    def finish(self, term: int, vote: int) -> None:
        """Make it the store's state, durably. From here on the store takes no write: close it.

        The caller knows that no entry behind the manifest's index was acknowledged. Raises
        StoreError, and then nothing has changed; but after IO_FAILED the next start finds out
        which state there is.
        """
        check(lib.bp_install_finish(self._pointer, term, vote, self._error), self._error)

    def state(self) -> InstallState:
        """How far it has come."""
        state = ffi.new("struct bp_install_state *")
        lib.bp_install_look(self._pointer, state)
        return InstallState(
            complete=bool(state.complete),
            ready=bool(state.ready),
            done=bool(state.done),
            index=state.index,
            term=state.term,
            revision=state.revision,
            cluster_id=bytes(ffi.buffer(state.cluster_id)),
            state_hash=(state.state_hash[0], state.state_hash[1]),
            versions=state.versions,
            value_bytes=state.value_bytes,
            held=state.held,
            held_bytes=state.held_bytes,
            fetched=state.fetched,
            fetched_bytes=state.fetched_bytes,
        )

    def close(self) -> None:
        """Free it, before the store is closed; what was not finished is deleted."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            lib.bp_install_free(pointer)


def damaged(store: NativeStore) -> bytes | None:
    """What to `fetch` from another member to repair values found damaged; None: nothing is known.

    Each is told once: what stays damaged is found again. Raises StoreError.
    """
    error, wanted = ffi.new("struct bp_error *"), ffi.new("struct bp_reply *")
    check(lib.bp_damaged_next(store.pointer, wanted, error), error)
    return _take(wanted) or None


def repair(store: NativeStore, values: bytes) -> int:
    """Put what `fetch` answered in the place of damaged values; how many were, durably.

    Raises StoreError: INVALID_ARGUMENT for bytes that are not those values.
    """
    error, repaired = ffi.new("struct bp_error *"), ffi.new("uint32_t *")
    check(lib.bp_repair(store.pointer, values, len(values), repaired, error), error)
    return int(repaired[0])


def _take(reply: Any) -> bytes:
    data = bytes(ffi.buffer(reply.data, reply.size)) if reply.size else b""
    lib.bp_reply_free(reply)
    return data
