"""`bedplate object put -r` and `get -r`, and Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bedplate.api.kv.v1.kv_pb2 import PutRequest
from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub
from tests.integration.command import Run, failed, runner
from tests.integration.daemon import PATIENCE_S, Daemon

INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from bedplate.cli.main import main
sys.exit(main(["status"]))
"""


@pytest.fixture
def run(
    shared_daemon: Daemon,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    return runner(capfdbinary, monkeypatch, shared_daemon.grpc)


@pytest.fixture
def bucket(run: Run, request: pytest.FixtureRequest) -> str:
    name = str(request.node.name)
    assert run("object", "mb", name).code == 0
    return f"object://{name}"


def content(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_a_tree_comes_back_as_it_went_in(run: Run, bucket: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    names = ["a", "a.partial", "b/c", "b/d e/ä\n", "b/.hidden", "z*?[x]"]
    for i, name in enumerate(names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(os.urandom(i * 400_000))
    (source / "empty").mkdir()
    (source / "gone").symlink_to("nowhere")
    (source / "link").symlink_to("a.partial")
    put = run("object", "put", "-r", source, f"{bucket}/deep/er")
    assert put.code == 0
    assert len(put.lines) == len(names) + 1
    assert "gone" in put.err
    run("object", "put", __file__, f"{bucket}/deep/error")  # begins so, but lies elsewhere
    assert run("object", "get", "-r", f"{bucket}/deep/er", target).code == 0
    assert content(target) == content(source)
    assert run("object", "get", "-r", f"{bucket}", target / "all").code == 0
    assert content(target / "all" / "deep" / "er") == content(source)


def test_a_tree_replaces_nothing_if_told_so(run: Run, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    put = ("object", "put", "-r", tmp_path, bucket, "--if-none-match", "*")
    assert run(*put).code == 0
    (tmp_path / "a").write_text("2")
    assert "CONDITION_FAILED" in failed(run(*put))
    assert run("object", "get", f"{bucket}/a", "-").out == b"1"


@pytest.mark.parametrize(
    "key",
    ["../out", "b/../../out", "/out", "b//c", "b/.", "b/"],
    ids=lambda key: key.encode().hex(),
)
def test_a_key_that_is_no_path_below_is_refused(
    run: Run, shared_daemon: Daemon, bucket: str, tmp_path: Path, key: str
) -> None:
    objects = ObjectServiceStub(shared_daemon.channel())
    for name in ("before", key):
        header = pb.PutObjectHeader(bucket=bucket.removeprefix("object://"), key=f"p/{name}")
        objects.PutObject(iter([pb.PutObjectRequest(header=header)]))
    assert "no path" in failed(run("object", "get", "-r", f"{bucket}/p", tmp_path / "in"))
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_is_also_a_directory_is_refused(run: Run, bucket: str, tmp_path: Path) -> None:
    for key in ("a", "a-", "a/b"):
        assert run("object", "put", __file__, f"{bucket}/{key}").code == 0
    assert '"a" is an object and a directory' in failed(
        run("object", "get", "-r", bucket, tmp_path)
    )
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_leads_out_is_not_followed(run: Run, bucket: str, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "a").symlink_to(outside)
    assert run("object", "put", __file__, f"{bucket}/a/b").code == 0
    assert "leads out" in failed(run("object", "get", "-r", bucket, inside))
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("module", ["grpc", "typer", "bedplate.cli.app"])
def test_ctrl_c_during_the_imports_is_quiet(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, module],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")


def test_ctrl_c_during_a_command_is_quiet(shared_daemon: Daemon) -> None:
    revision = shared_daemon.kv().Put(PutRequest(key=b"k")).revision
    command = [sys.executable, "-m", "bedplate.cli.main", "kv", "watch", "k"]
    command += ["--revision", str(revision)]
    environment = os.environ | {"BEDPLATECTL_SERVER": shared_daemon.grpc}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        lines = [line for line in process.stderr.read().splitlines() if line]
        assert [line.split()[0] for line in lines] == [b"watching"]
