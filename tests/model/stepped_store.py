"""The engine in this process, stepped by the caller: no thread, so nothing happens that the test
did not do.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from bedplate._native import ffi, lib
from bedplate.api.kv.v1 import kv_pb2 as pb
from bedplate.native.errors import StoreError, check
from bedplate.native.options import Options
from bedplate.native.store import Keyspace, Method, NativeStore, read_outcome
from bedplate.native.watch import NativeWatch, Step

M = TypeVar("M", bound=Message)
SEGMENT = 8 << 20


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory in memory where there is one: what these tests ask needs no disk, and a disk that
    others keep busy would take most of their time.
    """
    memory = "/dev/shm"
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


class SteppedStore:
    """An open store under `root`; a crash moves it to the next directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lives = 0
        self._open()

    def call(self, method: Method, request: Message, reply: M) -> M:
        """One KV request; fills `reply`. Raises StoreError."""
        reply.ParseFromString(self.answer(method, Keyspace.USER, request.SerializeToString()))
        return reply

    def answer(self, method: int, keyspace: int, request: bytes) -> bytes:
        """One KV request as bytes; its reply's bytes. Raises StoreError."""
        cookie = self._take_cookie()
        self._store.submit_wire(self._queue, method, keyspace, request, cookie)
        return self._finish(cookie)[0]

    def value(self, keyspace: int, key: bytes, **part: Any) -> tuple[bytes, int]:
        """Part of a value, as NativeStore.submit_value takes it, and its CRC32C. Raises
        StoreError.
        """
        cookie = self._take_cookie()
        self._store.submit_value(self._queue, keyspace, key, cookie, **part)
        return self._finish(cookie)

    def compact(self, revision: int) -> int:
        """Raise the compaction revision; the revision that took."""
        cookie = self._take_cookie()
        self._store.submit_compact(self._queue, revision, cookie)
        return read_outcome(self._finish(cookie)[0]).revision

    def watch(self, request: pb.WatchRequest) -> SteppedWatch:
        """Raises StoreError."""
        native = self._store.open_watch(
            self._queue, Keyspace.USER, request.SerializeToString(), self._take_cookie()
        )
        return SteppedWatch(native)

    def checkpoint(self) -> None:
        error = ffi.new("struct bp_error *")
        check(lib.bp_step_checkpoint(self._store.pointer, 1, error), error)

    def clean(self) -> None:
        """Trim and clean until there is nothing to do."""
        while lib.bp_step_clean(self._store.pointer):
            pass

    def reopen(self) -> None:
        """Close, which syncs, and open again. Watches must be closed before."""
        self.close()
        self._open()

    def crash(self) -> None:
        """Go on with a copy of the files as they are now, as after a kill -9."""
        before = self._directory
        self._lives += 1
        shutil.copytree(before, self._directory)
        self.close()
        shutil.rmtree(before)
        self._open()

    def close(self) -> None:
        self._queue.close()
        self._store.close()

    @property
    def revision(self) -> int:
        return self._store.status().revision

    @property
    def state_hash(self) -> tuple[int, ...]:
        return self._store.status().state_hash

    @property
    def _directory(self) -> Path:
        return self._root / f"life{self._lives}"

    def _open(self) -> None:
        options = Options(dir=str(self._directory), manual=1, segment_size=SEGMENT)
        self._store = NativeStore.open(options)
        self._queue = self._store.queue()
        self._cookie = 0
        self._done: dict[int, tuple[bytes, int, StoreError | None]] = {}

    def _take_cookie(self) -> int:
        self._cookie += 1
        return self._cookie

    def _finish(self, cookie: int) -> tuple[bytes, int]:
        lib.bp_step_drive(self._store.pointer)
        while self._queue.take(self._note):
            pass
        reply, aux, error = self._done.pop(cookie)
        if error is not None:
            raise error
        return reply, aux

    def _note(self, cookie: int, reply: bytes, aux: int, error: StoreError | None) -> None:
        self._done[cookie] = (reply, aux, error)


class SteppedWatch:
    """A watch and what it has sent."""

    def __init__(self, native: NativeWatch) -> None:
        self._native = native
        self.last: pb.WatchCanceled | None = None

    def take(self) -> list[pb.WatchResponse]:
        """Everything there is now."""
        responses = []
        while self.last is None:
            step, data = self._native.next()
            if step is Step.WAIT:
                break
            response = pb.WatchResponse.FromString(data)
            if step is Step.LAST:
                self.last = response.canceled
            else:
                responses.append(response)
        return responses

    def close(self) -> None:
        self._native.close()
