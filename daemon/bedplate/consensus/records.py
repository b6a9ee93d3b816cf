"""What the cluster remembers of its members: keys of the system keyspace, replicated like all.

    member/<id, 16 hexadecimal digits>  ->  MemberRecord { address, name, incarnation, .. }

A record without a member in the membership means nothing; the leader sweeps it away.
"""

from collections.abc import Collection
from typing import Final

from google.protobuf.message import DecodeError

from bedplate.api.cluster.v1.peer_pb2 import MemberRecord
from bedplate.api.kv.v1 import kv_pb2
from bedplate.native.store import Keyspace, Method
from bedplate.ports import KeyValue

PREFIX: Final = b"member/"


def key_of(member: int) -> bytes:
    """Where the record of a member is."""
    return PREFIX + f"{member:016x}".encode()


class MemberRecords:
    """Reads and writes them. All calls raise BedplateError; writes need a leader."""

    def __init__(self, store: KeyValue) -> None:
        self._store = store

    async def local(self) -> list[MemberRecord]:
        """As applied here, by id. Needs nobody else."""
        return await self._scan(kv_pb2.CONSISTENCY_SERIALIZABLE)

    async def newest(self) -> list[MemberRecord]:
        """As the cluster has them now, by id."""
        return await self._scan(kv_pb2.CONSISTENCY_LINEARIZABLE)

    async def write(self, record: MemberRecord) -> None:
        """Put it in the place of whatever is there."""
        request = kv_pb2.PutRequest(key=key_of(record.member_id), value=_bytes(record))
        await self._store.call(Method.PUT, Keyspace.SYSTEM, request.SerializeToString())

    async def replace(self, old: MemberRecord, new: MemberRecord) -> bool:
        """Put `new` if `old` still is what is there; whether it was."""
        key = key_of(old.member_id)
        request = kv_pb2.TxnRequest(
            compares=[kv_pb2.Compare(key=key, value=_bytes(old))],
            then_ops=[kv_pb2.TxnOp(put=kv_pb2.PutOp(key=key, value=_bytes(new)))],
        )
        reply = await self._store.call(Method.TXN, Keyspace.SYSTEM, request.SerializeToString())
        return kv_pb2.TxnResponse.FromString(reply).succeeded

    async def sweep(self, members: Collection[int]) -> None:
        """Remove the records of everybody else."""
        for record in await self.newest():
            if record.member_id not in members:
                request = kv_pb2.DeleteRequest(key=key_of(record.member_id))
                await self._store.call(Method.DELETE, Keyspace.SYSTEM, request.SerializeToString())

    async def _scan(self, consistency: kv_pb2.Consistency) -> list[MemberRecord]:
        request = kv_pb2.ScanRequest(prefix=PREFIX, consistency=consistency)
        reply = await self._store.call(Method.SCAN, Keyspace.SYSTEM, request.SerializeToString())
        found = (_record(kv.key, kv.value) for kv in kv_pb2.ScanResponse.FromString(reply).kvs)
        return [record for record in found if record is not None]


def watch_request() -> bytes:
    """A WatchRequest of everything that happens to records from now on."""
    return kv_pb2.WatchRequest(prefix=PREFIX).SerializeToString()


def _bytes(record: MemberRecord) -> bytes:
    return record.SerializeToString(deterministic=True)


def _record(key: bytes, value: bytes) -> MemberRecord | None:
    """None for what no member of this version wrote."""
    try:
        record = MemberRecord.FromString(value)
    except DecodeError:
        return None
    return record if key == key_of(record.member_id) else None
