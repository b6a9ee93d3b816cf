"""Clients that remember everything: what they asked, what came back, and when.

    answered     ok
    refused      failed: the store said that it did nothing, at every try
    no answer    unknown: done, not done, or done later

A client repeats a write without answer at another member, under the same request id, and gives up
after some tries. Patient readers ask one member only and wait long: they are still there when a
paused member goes on, and must not be told what was true before the pause.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from bedplate.api.kv.v1 import kv_pb2 as pb
from bedplate.api.kv.v1.kv_pb2_grpc import KVServiceStub
from tests.faults.recorder import reason_of
from tests.nemesis.groups import Group, Groups
from tests.nemesis.history import FAILED, OK, UNKNOWN, Damaged, Operation, Recorder, now
from tests.nemesis.invent import invent, request, result

TRIES_MAX = 5
CALL_TIMEOUTS_S = (0.3, 1.0, 1.0, 3.0)
PATIENT_TIMEOUT_S = 15.0
PATIENT_READS_MAX, PATIENT_READS_PER_S = 32, 8.0
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.min_reconnect_backoff_ms", 300),
    ("grpc.enable_retries", 0),
)
# Reasons that promise that nothing was done, and codes that promise nothing.
NOT_DONE = frozenset(
    {
        "NO_LEADER",
        "STORE_RECOVERING",
        "DISK_FULL",
        "INDEX_FULL",
        "QUEUE_FULL",
        "OUT_OF_MEMORY",
    }
)
FORGOTTEN = "REVISION_COMPACTED"  # what a repeated txn saw
NEVER_SENT = "failed to connect to all addresses"  # gRPC's words, with retries off
PROMISE_NOTHING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
)


class Members:
    """Stubs of the members that clients may ask, by number. They come and go."""

    def __init__(self, credentials: grpc.ChannelCredentials | None = None) -> None:
        self._credentials = credentials
        self._channels: dict[int, tuple[str, grpc.aio.Channel, Any]] = {}
        self._retired: list[grpc.aio.Channel] = []

    def set(self, member: int, address: str) -> None:
        """From now on the member answers at this address; "": it does not."""
        if member in self._channels:
            if self._channels[member][0] == address:
                return
            # Not closed yet: that would cancel calls under way, and with them the clients' tasks.
            self._retired.append(self._channels.pop(member)[1])
        if address:
            channel = (
                grpc.aio.insecure_channel(address, OPTIONS)
                if self._credentials is None
                else grpc.aio.secure_channel(address, self._credentials, OPTIONS)
            )
            self._channels[member] = (address, channel, KVServiceStub(channel))

    @property
    def numbers(self) -> list[int]:
        return sorted(self._channels)

    def stub(self, member: int) -> Any:
        """None when there is no such member any more."""
        held = self._channels.get(member)
        return held[2] if held else None

    def channel(self, member: int) -> grpc.aio.Channel:
        return self._channels[member][1]

    async def close(self) -> None:
        for channel in (*self._retired, *(held[1] for held in self._channels.values())):
            await channel.close()


@dataclass(slots=True)
class Load:
    """What all clients share. `surprises` are answers that no fault explains."""

    members: Members
    groups: Groups
    recorder: Recorder
    operations_per_s: float  # of each client
    prefix: str = ""  # of the names of what is written, to tell it from earlier loads'
    surprises: list[str] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledged: int = 0
    ballast_bytes: int = 0  # written, and checked by nobody
    reading: dict[int, int] = field(default_factory=dict)  # patient reads under way, by member
    read: dict[int, int] = field(default_factory=dict)  # patient reads answered, by member


class Client:
    """One operation at a time, at any member."""

    def __init__(self, load: Load, number: int, rng: random.Random) -> None:
        self._load = load
        self._number = number
        self._rng = rng
        self._sent = 0

    async def run(self) -> None:
        try:
            await self._work()
        finally:
            if not self._load.stopped.is_set():
                self._load.surprises.append(f"client {self._number} ended early")

    async def _work(self) -> None:
        while not self._load.stopped.is_set():
            self._sent += 1
            group = self._load.groups.pick()
            name = f"{self._load.prefix}{self._number}.{self._sent}"
            await self._do(invent(self._rng, self._number, name, group), group)
            await self._pause(self._rng.expovariate(self._load.operations_per_s))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._load.stopped.wait()
        except TimeoutError:
            return

    async def _do(self, operation: Operation, group: Group) -> None:
        name = f"{self._number}.{self._sent}.{self._rng.getrandbits(64):x}"
        method, message = request(self._rng, operation, group, name)
        operation.call = now()
        perhaps_done = False
        for attempt in range(TRIES_MAX):
            operation.member = self._member(operation.member, again=attempt > 0)
            stub = self._load.members.stub(operation.member)
            timeout = self._rng.choice(CALL_TIMEOUTS_S)
            outcome = await _call(self._load, operation, group, stub, method, message, timeout)
            if outcome == OK:
                break
            perhaps_done |= outcome == UNKNOWN
            await self._pause(self._rng.uniform(0.02, 0.3))
        else:
            # A read has no effect: not answered is as good as never asked.
            operation.outcome = UNKNOWN if perhaps_done and operation.is_write else FAILED
        operation.end = now()
        self._load.recorder.add(operation)

    def _member(self, before: int, *, again: bool) -> int:
        numbers = self._load.members.numbers
        others = [number for number in numbers if not again or number != before]
        return self._rng.choice(others or numbers)


class PatientReaders:
    """Gets from every member, whatever happens to it. New ones are sent while old ones wait: what a
    paused leader finds when it goes on was asked after others had written.
    """

    def __init__(self, load: Load, number: int, rng: random.Random) -> None:
        """`number`: of the clients that these are, one a member, in histories."""
        self._load = load
        self._number = number
        self._rng = rng

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while not self._load.stopped.is_set():
                for member in self._load.members.numbers:
                    if self._load.reading.get(member, 0) < PATIENT_READS_MAX:
                        tasks.create_task(self._read(member))
                await asyncio.sleep(self._rng.expovariate(PATIENT_READS_PER_S))

    async def _read(self, member: int) -> None:
        load = self._load
        stub = load.members.stub(member)
        group = self._load.groups.pick()
        operation = Operation(
            self._number + member, "get", group.name, key=self._rng.choice(group.keys)
        )
        operation.member, operation.call = member, now()
        method, message = request(self._rng, operation, group, "")
        load.reading[member] = load.reading.get(member, 0) + 1
        try:
            operation.outcome = await _call(
                load, operation, group, stub, method, message, PATIENT_TIMEOUT_S
            )
        finally:
            load.reading[member] -= 1
        operation.end = now()
        if operation.outcome == OK:
            load.read[member] = load.read.get(member, 0) + 1
            load.recorder.add(operation)


async def _call(
    load: Load,
    operation: Operation,
    group: Group,
    stub: Any,
    method: str,
    message: Any,
    timeout: float,
) -> str:
    """One try: its outcome."""
    if stub is None:
        return FAILED
    try:
        reply = await getattr(stub, method)(message, timeout=timeout)
        operation.result = result(operation, group, reply)
    except grpc.aio.AioRpcError as error:
        reason = reason_of(error)
        if reason in NOT_DONE or NEVER_SENT in (error.details() or ""):
            return FAILED
        if error.code() not in PROMISE_NOTHING and reason != FORGOTTEN:
            load.surprises.append(
                f"member {operation.member}, {method}: {error.code().name} {reason} "
                f"{error.details()}"
            )
        return UNKNOWN
    except Damaged as damage:
        load.surprises.append(f"member {operation.member}, {method}: damaged value: {damage}")
        return UNKNOWN
    operation.outcome = OK
    load.acknowledged += operation.is_write
    return OK


class Ballast:
    """Large writes that nobody checks: they make logs long, so that there are checkpoints, cleaning
    and snapshots.
    """

    def __init__(self, load: Load, rng: random.Random, bytes_per_s: int) -> None:
        self._load = load
        self._rng = rng
        self._interval = 20 * 16_000 / bytes_per_s

    async def run(self) -> None:
        while not self._load.stopped.is_set():
            keys = self._rng.sample(range(200), 20)
            value = self._rng.randbytes(16_000)
            ops = [pb.BatchOp(put=pb.PutOp(key=b"ballast/%d" % k, value=value)) for k in keys]
            stub = self._load.members.stub(self._rng.choice(self._load.members.numbers or [0]))
            try:
                if stub is not None:
                    await stub.Batch(pb.BatchRequest(ops=ops), timeout=3.0)
                    self._load.ballast_bytes += len(ops) * len(value)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (*PROMISE_NOTHING, grpc.StatusCode.RESOURCE_EXHAUSTED):
                    self._load.surprises.append(f"ballast: {error.code().name} {error.details()}")
            await asyncio.sleep(self._interval)


def start(
    load: Load,
    group: asyncio.TaskGroup,
    seed: int,
    clients: int,
    ballast_bytes_per_s: int,
) -> None:
    """Start everything; `load.stopped` ends it."""
    for number in range(clients):
        group.create_task(Client(load, number, random.Random(f"{seed} client {number}")).run())
    rng = random.Random(f"{seed} readers")
    group.create_task(PatientReaders(load, clients, rng).run())
    if ballast_bytes_per_s:
        rng = random.Random(f"{seed} ballast")
        group.create_task(Ballast(load, rng, ballast_bytes_per_s).run())
