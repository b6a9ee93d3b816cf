"""A store of a few lines, in memory, that can be told to break one promise now and then: what
proves that clients record, and the checker finds, what matters.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from bedplate.api.kv.v1 import kv_pb2 as pb

FLAWS = (
    "stale_read",  # shows the version before
    "lost_write",  # answers, and has forgotten
    "refused_and_done",  # says that nothing was done
    "acts_twice",  # no answer, and a repeat is done again
    "half_batch",  # the first write only
    "blind_compare",  # takes every compare for true
    "same_revision",  # gives one revision to two requests
    "turned_back",  # forgets the newest writes of all keys
    "wrong_key",  # stores under a neighbour's key
)
_ONE_IN = 60
Item = tuple[bytes, int]  # value, mod_revision


class BrokenStore:
    """With `flaw` "" it is a correct store."""

    def __init__(self, flaw: str, rng: random.Random) -> None:
        self.flaw = flaw
        self._rng = rng
        self._revision = 1
        self._items: dict[bytes, Item] = {}
        self._before: dict[bytes, Item | None] = {}
        self._answers: dict[str, Any] = {}
        self._refused: set[str] = set()
        self.flaws_shown = 0

    async def Get(self, request: Any, context: Any) -> Any:
        item = self._items.get(request.key)
        if request.key in self._before and self._now("stale_read"):
            item = self._before[request.key]
        reply = pb.GetResponse(revision=self._revision)
        if item is not None:
            reply.kv.CopyFrom(_kv(request.key, item))
        return reply

    async def Scan(self, request: Any, context: Any) -> Any:
        kvs = self._range(request.prefix)
        return pb.ScanResponse(
            revision=self._revision, read_revision=self._revision, kvs=kvs, count=len(kvs)
        )

    async def Put(self, request: Any, context: Any) -> Any:
        async def act(revision: int) -> Any:
            key = request.key[:-1] + b"b" if self._now("wrong_key") else request.key
            self._write({key: request.value}, revision)
            return pb.PutResponse(revision=revision)

        return await self._do(request, context, act)

    async def Delete(self, request: Any, context: Any) -> Any:
        async def act(revision: int) -> Any:
            deleted = self._write({request.key: None}, revision)
            return pb.DeleteResponse(revision=revision, deleted=deleted)

        return await self._do(request, context, act)

    async def Batch(self, request: Any, context: Any) -> Any:
        async def act(revision: int) -> Any:
            writes: dict[bytes, bytes | None] = {
                op.put.key or op.delete_key: op.put.value if op.HasField("put") else None
                for op in request.ops
            }
            deleted = sum(writes[k] is None and k in self._items for k in writes)
            if len(writes) > 1 and self._now("half_batch"):
                writes.popitem()
            self._write(writes, revision)
            return pb.BatchResponse(revision=revision, deleted=deleted)

        return await self._do(request, context, act)

    async def Txn(self, request: Any, context: Any) -> Any:
        async def act(revision: int) -> Any:
            holds = all(
                self._items.get(c.key, (b"", 0))[1] == c.mod_revision for c in request.compares
            )
            holds = holds or self._now("blind_compare")
            reply = pb.TxnResponse(revision=revision, succeeded=holds)
            for op in request.then_ops if holds else request.else_ops:
                result = reply.results.add()
                if op.HasField("scan"):
                    result.scan.kvs.extend(self._range(op.scan.prefix))
                elif op.HasField("put"):
                    self._write({op.put.key: op.put.value}, revision)
                else:
                    self._write({op.delete.key: None}, revision)
            return reply

        return await self._do(request, context, act)

    # ---- inside ----------------------------------------------------------------------------------

    async def _do(self, request: Any, context: Any, act: Callable[[int], Awaitable[Any]]) -> Any:
        if request.request_id in self._refused:
            await _refuse(context)
        if request.request_id in self._answers:
            return self._answers[request.request_id]
        if not self._now("same_revision"):
            self._revision += 1
        kept = dict(self._items)
        reply = await act(self._revision)
        if self._now("lost_write"):
            self._items = kept
        if len(self._items) > 4 and self._now("turned_back"):
            newest = max(item[1] for item in self._items.values())
            self._items = {k: i for k, i in self._items.items() if i[1] < newest}
        if self._now("acts_twice"):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        self._answers[request.request_id] = reply
        if self._now("refused_and_done"):
            self._refused.add(request.request_id)
            await _refuse(context)
        return reply

    def _now(self, flaw: str) -> bool:
        shows = self.flaw == flaw and self._rng.randrange(_ONE_IN) == 0
        self.flaws_shown += shows
        return shows

    def _write(self, writes: dict[bytes, bytes | None], revision: int) -> int:
        deleted = 0
        for key, value in writes.items():
            self._before[key] = self._items.pop(key, None)
            deleted += value is None and self._before[key] is not None
            if value is not None:
                self._items[key] = (value, revision)
        return deleted

    def _range(self, prefix: bytes) -> list[Any]:
        return [
            _kv(key, item) for key, item in sorted(self._items.items()) if key.startswith(prefix)
        ]


def _kv(key: bytes, item: Item) -> Any:
    return pb.KeyValue(key=key, value=item[0], mod_revision=item[1])


async def _refuse(context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")


async def serve(store: BrokenStore) -> tuple[grpc.aio.Server, str]:
    """The server and its address."""
    server = grpc.aio.server()
    methods = {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(store, name),
            request_deserializer=getattr(pb, f"{name}Request").FromString,
            response_serializer=getattr(pb, f"{name}Response").SerializeToString,
        )
        for name in ("Get", "Scan", "Put", "Delete", "Batch", "Txn")
    }
    handler = grpc.method_handlers_generic_handler("bedplate.kv.v1.KVService", methods)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"
