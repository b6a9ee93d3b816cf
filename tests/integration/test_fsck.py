"""`bedplate fsck`: explains a stopped daemon's files, and salvages what is intact."""

from pathlib import Path

import pytest

from bedplate.api.kv.v1.kv_pb2 import PutRequest, ScanRequest
from tests.integration.command import Run, failed, runner
from tests.integration.conftest import MakeDaemon
from tests.integration.daemon import Daemon, run_to_end

KEYS = 20


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Run:
    return runner(capfdbinary, monkeypatch, "127.0.0.1:1")


@pytest.fixture
def stopped(start: MakeDaemon) -> Daemon:
    """A daemon that held KEYS keys and stopped clean."""
    daemon = start()
    kv = daemon.kv()
    for i in range(KEYS):
        kv.Put(PutRequest(key=f"k/{i:02}".encode(), value=f"value {i:02} ".encode() * 200))
    assert daemon.stop() == 0
    return daemon


def damage(daemon: Daemon, marker: bytes) -> tuple[Path, int]:
    """Flip a bit of the value that holds `marker`; file and offset."""
    (log,) = (daemon.data / "store").glob("*.log")
    data = log.read_bytes()
    at = data.index(marker)
    with log.open("r+b") as file:
        file.seek(at)
        file.write(bytes([data[at] ^ 1]))
    return log, at


def test_a_sound_store_is_sound(stopped: Daemon, command: Run) -> None:
    ended = command("fsck", "--data-dir", stopped.data)
    assert ended.code == 0, ended
    assert "nothing to do" in ended.lines[-1]


def test_damage_in_the_middle_refuses_the_start_and_is_explained(
    stopped: Daemon, command: Run, tmp_path: Path
) -> None:
    log, _ = damage(stopped, b"value 07 ")
    code, said = run_to_end(tmp_path, "--data-dir", str(stopped.data), "--grpc", "127.0.0.1:0")
    assert code == 2
    (line,) = said.splitlines()
    assert log.name in line
    assert "fsck" in line
    before = log.read_bytes()
    ended = command("fsck", "--data-dir", stopped.data)
    assert ended.code == 1
    assert any(log.name in line and "damaged" in line for line in ended.lines), ended
    assert log.read_bytes() == before


def test_a_rebuild_keeps_what_is_intact(stopped: Daemon, command: Run, tmp_path: Path) -> None:
    damage(stopped, b"value 07 ")
    target = tmp_path / "rebuilt" / "data"
    command("fsck", "--data-dir", stopped.data, "--rebuild", target)
    with Daemon(tmp_path / "rebuilt") as daemon:
        found = {pair.key: pair.value for pair in daemon.kv().Scan(ScanRequest()).kvs}
    assert len(found) >= 7
    for key, value in found.items():
        number = int(key.removeprefix(b"k/"))
        assert value == f"value {number:02} ".encode() * 200


def test_a_directory_in_use_is_left_alone(start: MakeDaemon, command: Run) -> None:
    daemon = start()
    assert "STORE_LOCKED" in failed(command("fsck", "--data-dir", daemon.data))


def test_what_is_no_store_is_said_to_be_none(command: Run, tmp_path: Path) -> None:
    assert "holds no store" in failed(command("fsck", "--data-dir", tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_rebuild_never_writes_over_something(
    stopped: Daemon, command: Run, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    line = failed(command("fsck", "--data-dir", stopped.data, "--rebuild", tmp_path / "full"))
    assert "not empty" in line
