"""bp_sim: machines in memory, and stores on them that do nothing unless they are stepped.

Deterministic in the seed: the same calls give the same bytes, also through power cuts.
"""

from dataclasses import replace
from typing import Any

from bedplate._native import ffi, lib
from bedplate.native.errors import check
from bedplate.native.options import Options, native_options
from bedplate.native.store import NativeStore

_NS_PER_MS = 1_000_000


class SimulatedMachine:
    """A disk and a clock. It outlives the stores that are opened on it."""

    def __init__(self, seed: int) -> None:
        """Raises MemoryError."""
        pointer = lib.bp_sim_new(seed)
        if pointer == ffi.NULL:
            raise MemoryError("no memory for a simulated machine")
        self._pointer = pointer

    def close(self) -> None:
        """Free it; stores on it must be closed or abandoned before."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            lib.bp_sim_free(pointer)

    def open(self, options: Options) -> "SteppedStore":
        """Open or make the store `options.dir`, stepped. Raises StoreError."""
        native = native_options(replace(options, manual=1))
        pointer, error = ffi.new("bp_store **"), ffi.new("struct bp_error *")
        check(lib.bp_open_sim(native.pointer, self._pointer, pointer, error), error)
        return SteppedStore(pointer[0])

    def advance(self, milliseconds: int) -> None:
        """Let time pass."""
        lib.bp_sim_advance_ns(self._pointer, milliseconds * _NS_PER_MS)

    def power_cut(self, keep_per_1024: int = 0) -> None:
        """Cut the power: of what was not synced that share is kept, sector by sector. Stores on it
        are to be abandoned.
        """
        lib.bp_sim_power_cut(self._pointer, keep_per_1024)

    def cut_after(self, written_bytes: int) -> None:
        """Everything fails from that many written bytes on, until `power_cut`; 0: never."""
        lib.bp_sim_cut_after_bytes(self._pointer, written_bytes)

    def limit(self, disk_bytes: int) -> None:
        """The size of the disk; 0: no limit."""
        lib.bp_sim_set_capacity(self._pointer, disk_bytes)

    def flip(self, path: str, offset: int, bit: int) -> None:
        """Damage one bit of a file. Raises OSError."""
        code = lib.bp_sim_flip(self._pointer, path.encode(), offset, bit)
        if code < 0:
            raise OSError(-code, f"{path} has no byte {offset}")

    def file_size(self, path: str) -> int:
        """Raises OSError."""
        size = ffi.new("uint64_t *")
        code = lib.bp_sim_file_size(self._pointer, path.encode(), size)
        if code < 0:
            raise OSError(-code, f"no file {path}")
        return int(size[0])

    @property
    def lost_sectors(self) -> int:
        """How many unsynced sectors power cuts have not kept so far."""
        return int(lib.bp_sim_lost_sectors(self._pointer))

    def lie_about_syncs(self, lies: bool) -> None:
        """A test's control: a sync does nothing."""
        lib.bp_sim_set_sync_lies(self._pointer, lies)


class SteppedStore(NativeStore):
    """A store without threads: it works when, and as far as, it is told to."""

    def __init__(self, pointer: Any) -> None:
        super().__init__(pointer)

    def abandon(self) -> None:
        """Free it as a crash would leave it: nothing is finished."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            lib.bp_store_abandon(pointer)

    def arm(self, failpoints: str) -> None:
        """Arm failpoints, as Options.failpoints. Raises StoreError."""
        error = ffi.new("struct bp_error *")
        check(lib.bp_sim_arm(self.pointer, failpoints.encode(), error), error)

    def step_drive(self) -> int:
        """A single member: drive everything queued; how many requests were answered."""
        return int(lib.bp_step_drive(self.pointer))

    def step_log(self) -> int:
        """Write what was handed over; 0 when there is nothing, or nothing can be written."""
        return int(lib.bp_step_log(self.pointer))

    def step_apply(self) -> int:
        """Apply a round of what is committed and durable; 0 when there is nothing."""
        return int(lib.bp_step_apply(self.pointer))

    def tick(self) -> None:
        """What the clock demands: expiry, compaction, marks, the reserve."""
        lib.bp_step_tick(self.pointer)

    def checkpoint(self, *, force: bool = False) -> None:
        """Write a checkpoint if one is due. Raises StoreError."""
        error = ffi.new("struct bp_error *")
        check(lib.bp_step_checkpoint(self.pointer, force, error), error)

    def clean(self) -> bool:
        """One bounded step of trimming and cleaning; whether there is more to do."""
        return bool(lib.bp_step_clean(self.pointer))
