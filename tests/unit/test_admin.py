"""AdminService without a daemon: steps in threads, one at a time, and what is made of findings."""

import asyncio
import threading
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest

from bedplate.api.admin.v1 import admin_pb2 as pb
from bedplate.errors import BedplateError
from bedplate.native.operations import Finding
from bedplate.native.status import Status
from bedplate.server.extras import EXTRAS
from bedplate.storage.admin.status import Facts, status_response
from bedplate.storage.admin.steps import Operations
from bedplate.storage.admin.verify import finding_message
from bedplate.storage.threads import in_thread

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
PATIENCE_S = 30.0
BYTES = {"store_id": b"\1" * 16, "cluster_id": b"\2" * 16}
TUPLES = {"sync_buckets": (), "group_buckets": (), "state_hash": (1, 2)}
ZERO = Status(**{f.name: 0 for f in fields(Status)} | BYTES | TUPLES)  # type: ignore[arg-type]


class TestSteps:
    async def test_a_step_gives_its_result_or_its_error(self) -> None:
        assert await in_thread(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await in_thread(lambda: 1 // 0)

    async def test_cancelled_often_it_still_ends_behind_the_step(self) -> None:
        entered, let_go, ended = threading.Event(), threading.Event(), threading.Event()

        def step() -> None:
            entered.set()
            let_go.wait(PATIENCE_S)
            ended.set()

        task = asyncio.create_task(in_thread(step))
        await asyncio.to_thread(entered.wait, PATIENCE_S)
        for _ in range(3):
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=0.01)
            assert not done
        let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()


class TestOperations:
    async def test_there_is_one_of_a_kind_at_a_time(self) -> None:
        operations = Operations()
        async with operations.running("verify"), operations.running("backup"):
            with pytest.raises(BedplateError) as failure:
                await self.begin(operations, "verify")
            assert failure.value.reason == "VERIFY_RUNNING"
        await self.begin(operations, "verify")

    async def test_a_drain_ends_them_and_lets_none_begin(self) -> None:
        operations, begun = Operations(), asyncio.Event()

        async def work() -> None:
            async with operations.running("backup"):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await begun.wait()
        operations.drain()
        await operations.ended()
        with pytest.raises(BedplateError) as failure:
            await task
        assert failure.value.reason == "STORE_CLOSED"
        with pytest.raises(BedplateError) as failure:
            await self.begin(operations, "verify")
        assert failure.value.reason == "STORE_CLOSED"
        await operations.ended()

    async def begin(self, operations: Operations, kind: str) -> None:
        async with operations.running(kind):
            pass


class TestStatus:
    @pytest.mark.parametrize(
        ("status", "read_only"),
        [
            (ZERO, False),
            (replace(ZERO, poisoned=1), True),
            (replace(ZERO, disk_full=1), True),
            (replace(ZERO, index_bytes=60, history_bytes=39), False),
            (replace(ZERO, index_bytes=60, history_bytes=40), True),
        ],
    )
    def test_says_when_no_write_is_taken(self, status: Status, read_only: bool) -> None:
        facts = Facts(version="1", index_memory_max=100)
        assert status_response(status, facts, 0).read_only is read_only

    def test_an_index_without_limit_is_never_full(self) -> None:
        response = status_response(replace(ZERO, index_bytes=1 << 40), Facts(version="1"), 0)
        assert not response.index.full

    def test_identities_are_hexadecimal(self) -> None:
        response = status_response(ZERO, Facts(version="1"), 5_000_000_000)
        assert (response.store_id, response.cluster_id) == ("01" * 16, "02" * 16)
        assert response.index.state_hash == "0" * 15 + "1" + "0" * 15 + "2"
        assert response.started_time.seconds == 5
        assert response.log.durability == "fsync"


@pytest.mark.parametrize(
    ("file", "key", "kind", "shown"),
    [
        ("00000001.log", b"ukey", pb.FINDING_KIND_VALUE_DAMAGED, b"key"),
        ("00000001.set", b"oc\0\1", pb.FINDING_KIND_VALUE_DAMAGED, b""),
        ("00000001.log", b"", pb.FINDING_KIND_LOG_DAMAGED, b""),
        ("0000000000000001.ckpt", b"", pb.FINDING_KIND_CHECKPOINT_DAMAGED, b""),
        ("", b"", pb.FINDING_KIND_INDEX_DAMAGED, b""),
    ],
)
def test_a_finding_says_what_it_is_about(
    file: str, key: bytes, kind: "pb.FindingKind", shown: bytes
) -> None:
    message = finding_message(Finding(file=file, offset=9, revision=8, key=key, message="m"))
    assert (message.kind, message.key, message.revision, message.offset) == (kind, shown, 8, 9)
    assert message.file == (f"store/{file}" if file else "")


def test_the_extras_are_those_of_the_distribution() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    assert EXTRAS.keys() == extras.keys() - {"test"}
