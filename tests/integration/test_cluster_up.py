"""`bedplate cluster up` on a directory that it knows: what it starts, what not, what it says."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cluster_calls import succeeds
from tests.integration.daemon import eventually
from tests.integration.daemon_cluster import SMALL, bedplate, free_addresses

pytestmark = pytest.mark.timeout(180)
SETTINGS = [part for setting in SMALL for part in ("--set", setting)]


class Local:
    """A directory of `cluster up`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._pids: set[int] = set()  # of all that ever were

    def up(self, *options: str) -> tuple[int, dict[str, Any], str]:
        """Exit code, the members that it prints, what it says beside them."""
        where = str(self.directory)
        code, said, complained = bedplate("--json", "cluster", "up", "--detach", where, *options)
        self._pids.update(self.pids().values())
        return code, json.loads(said) if said else {}, complained

    def down(self) -> tuple[int, str, str]:
        return bedplate("cluster", "down", str(self.directory))

    def pids(self) -> dict[str, int]:
        return {file.parent.name: int(file.read_text()) for file in self.directory.glob("n?/pid")}

    def kill(self, name: str) -> None:
        pid = self.pids()[name]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not running(pid))

    def end(self) -> None:
        if self.directory.exists():
            self.down()
        for pid in self._pids:
            if running(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # should `down` have missed one


def running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"bedplate.server.main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def members(server: str) -> list[dict[str, Any]]:
    code, said, complained = bedplate("--json", "--server", server, "cluster", "status")
    assert code == 0, complained
    found: list[dict[str, Any]] = json.loads(said)["members"]
    return found


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    made = Local(tmp_path / "local")
    yield made
    made.end()


def test_a_removed_member_is_not_started_and_the_others_are(local: Local) -> None:
    """Until its address is added anew, and it has a new data directory."""
    code, nodes, complained = local.up(*SETTINGS)
    assert code == 0, complained
    (leader,) = [m["address"] for m in members(nodes["n1"]["grpc"]) if m["leader"]]
    (gone,) = [name for name, node in nodes.items() if node["grpc"] == leader]
    others = {name: node for name, node in nodes.items() if name != gone}
    server, *_ = [node["grpc"] for node in others.values()]
    pid = local.pids()[gone]
    assert succeeds("--server", server, "cluster", "remove", leader)
    eventually(lambda: not running(pid))
    assert local.down() == (0, "stopped 2 daemons\n", "")

    code, started, complained = local.up(*SETTINGS)
    assert (code, started) == (0, others), complained
    assert f"{gone} does not run: the cluster has removed it" in complained
    assert local.pids().keys() == others.keys()
    assert succeeds("--server", server, "kv", "put", "k", "v")
    code, _, complained = local.up()
    assert code == 1
    assert "the cluster runs already: " in complained

    assert succeeds("--server", server, "cluster", "add", f"{gone}={leader}")
    shutil.rmtree(local.directory / gone / "data")
    code, started, complained = local.up()
    assert (code, started) == (0, nodes), complained
    eventually(lambda: succeeds("--server", server, "cluster", "promote", gone))
    assert local.down() == (0, "stopped 3 daemons\n", "")


def test_one_killed_member_is_started_again_beside_the_others(local: Local) -> None:
    code, nodes, complained = local.up(*SETTINGS)
    assert code == 0, complained
    before = local.pids()
    local.kill("n3")
    code, _, complained = local.up(*SETTINGS)
    assert code == 1
    assert "--set is for all of them, and n1 runs" in complained
    code, again, complained = local.up()
    assert (code, again) == (0, nodes), complained
    assert f"n1 runs already, as process {before['n1']}\n" in complained
    after = local.pids()
    assert (after["n1"], after["n2"]) == (before["n1"], before["n2"])
    assert running(after["n3"])
    code, _, complained = local.up()
    assert code == 1
    assert "the cluster runs already: n1 is process " in complained

    # One that was dead when it was removed is told when it is started.
    local.kill("n3")
    server = nodes["n1"]["grpc"]
    eventually(lambda: succeeds("--server", server, "cluster", "remove", nodes["n3"]["grpc"]))
    code, left, complained = local.up()
    assert (code, list(left)) == (0, ["n1", "n2"]), complained
    assert "n3 does not run: the cluster has removed it" in complained
    code, _, complained = local.up()
    assert code == 1
    assert "the cluster runs already: n1 is process " in complained
    assert local.down() == (0, "stopped 2 daemons\n", "")


def test_members_are_known_by_the_names_that_up_prints(local: Local) -> None:
    code, nodes, complained = local.up(*SETTINGS)
    assert code == 0, complained
    server = nodes["n1"]["grpc"]
    named = {node["grpc"]: name for name, node in nodes.items()}
    eventually(lambda: {m["address"]: m["name"] for m in members(server)} == named)
    (follower, *_) = [m["name"] for m in members(server) if not m["leader"]]
    assert succeeds("--server", server, "cluster", "transfer", follower)
    assert [m["name"] for m in members(server) if m["leader"]] == [follower]

    (address,) = free_addresses(1)
    code, _, complained = bedplate("--server", server, "cluster", "add", f"n1={address}")
    assert code == 1
    assert "CHANGE_REFUSED: the name n1 is taken, by the member at " in complained
    code, _, complained = bedplate("--server", server, "cluster", "remove", "n7")
    assert code == 1
    assert '"n7" names 0 members' in complained
    assert f", n2, at {nodes['n2']['grpc']}" in complained
    code, said, complained = bedplate("--server", server, "cluster", "add", f"fourth={address}")
    assert code == 0, complained
    assert f" --grpc {address} --http 127.0.0.1:0 --set cluster.join={server}\n" in said
    assert said.endswith(": bedplate cluster promote fourth\n")


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("foo.bar=1", "unknown configuration key foo"),
        ("log.segment_size=4MiB", "log.segment_size: input should be greater than or equal to"),
        ("foo", "expected SECTION.KEY=VALUE"),
    ],
)
def test_what_keeps_a_cluster_from_going_up_is_said_and_nothing_is_left(
    local: Local, setting: str, why: str
) -> None:
    code, _, complained = local.up("--set", setting)
    assert code == 1
    assert why in complained
    assert not local.directory.exists()


def test_a_cluster_that_does_not_go_up_again_stays_and_names_its_log(local: Local) -> None:
    code, _, complained = local.up("--nodes", "1", *SETTINGS)
    assert code == 0, complained
    local.down()
    code, _, complained = local.up("--set", "foo.bar=1")
    assert code == 1
    log = local.directory / "n1" / "log"
    assert "n1 ended with code 2: unknown configuration key foo " in complained
    assert complained.endswith(f"; see {log}\n")
    assert (local.directory / "n1" / "data" / "store").is_dir()
    code, _, complained = local.up("--nodes", "3")
    assert code == 1
    assert "holds a cluster of 1: use --nodes 1" in complained


def test_a_cluster_that_another_command_starts_is_left_alone(local: Local) -> None:
    local.directory.mkdir()
    other = os.open(local.directory, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        code, _, complained = local.up("--nodes", "1", *SETTINGS)
    finally:
        os.close(other)
    assert code == 1
    assert "another `bedplate cluster up` starts daemons in " in complained
    assert list(local.directory.iterdir()) == []
