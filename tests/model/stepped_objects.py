"""The object service on the stepped engine: its own code down to the log, without a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from bedplate.api.kv.v1 import kv_pb2
from bedplate.native.store import Keyspace, Method
from bedplate.storage.engine import Reply
from bedplate.storage.objects.config import ObjectsConfig
from tests.model.object_model import PART_MIN
from tests.model.stepped_store import SteppedStore
from tests.unit.object_harness import Objects

T = TypeVar("T")


class SteppedEngine:
    """What the object store needs of an engine; every call is done when it returns."""

    def __init__(self, store: SteppedStore) -> None:
        self._store = store

    async def call(self, method: Method, keyspace: Keyspace, request: bytes) -> bytes:
        return self._store.answer(method, keyspace, request)

    async def value(self, keyspace: Keyspace, key: bytes, **part: Any) -> Reply:
        return Reply(*self._store.value(keyspace, key, **part))

    def room_bytes(self) -> int:
        return 1 << 40

    def present(self, prefix: bytes) -> int:
        """Keys that begin so."""
        request = kv_pb2.ScanRequest(prefix=prefix, count_only=True).SerializeToString()
        reply = self._store.answer(Method.SCAN, Keyspace.OBJECT, request)
        return kv_pb2.ScanResponse.FromString(reply).count


class SteppedObjects:
    """The service through all lives of its store, called from outside of a loop."""

    def __init__(self, store: SteppedStore) -> None:
        self._loop = asyncio.new_event_loop()
        self.store = store
        self.begin()

    def begin(self) -> None:
        """A process that has just started on the store."""
        self.engine = SteppedEngine(self.store)
        config = ObjectsConfig.model_validate({"part_size_min": PART_MIN})
        self.objects = Objects(self.engine, config)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(call)

    def close(self) -> None:
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        self.store.close()
