"""README is true: its commands run, its targets, metrics, keys and links exist."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bedplate.server.config import load
from tests.e2e.configuration_table import table, written
from tests.e2e.conftest import Environment
from tests.e2e.readme import README, ROOT, Block, blocks, links, metrics, targets
from tests.integration.daemon import Daemon, eventually
from tests.integration.daemon_cluster import DaemonCluster, free_addresses

TEXT = README.read_text()
BLOCKS = blocks(TEXT)
CLUSTER = [block for block in BLOCKS if (block.language, block.mark) == ("sh", "cluster")]
RUN = [block for block in BLOCKS if block.language == "sh" and block.mark in ("", "server")]
PATIENCE_S = 120


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory to follow the page in, one block after the other."""
    path = tmp_path_factory.mktemp("readme")
    shutil.copy(README, path)
    return path


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


@pytest.mark.parametrize("block", RUN, ids=str)
def test_every_command_runs(
    block: Block, place: Path, daemon: Daemon, environment: Environment
) -> None:
    if "grpcurl" in block.text and not shutil.which("grpcurl", path=environment()["PATH"]):
        pytest.skip("grpcurl is missing; make tools-grpcurl builds it where Go is installed")
    script = block.text.replace("localhost:7420", daemon.grpc).replace(
        "localhost:7421", daemon.http
    )
    server = daemon.grpc if block.mark == "server" else "127.0.0.1:1"
    finished = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=place,
        env=environment(BEDPLATECTL_SERVER=server),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_the_tour_leaves_what_it_says(place: Path) -> None:
    """Runs behind the blocks above."""
    assert (place / "copy-of-readme").read_bytes() == README.read_bytes()
    assert (place / "restored" / "store").is_dir()
    assert (place / "tokens").stat().st_mode & 0o777 == 0o600
    assert (place / "ci.token").stat().st_size > 32
    assert (place / "ci.token").stat().st_mode & 0o077 == 0
    assert (place / "today.backup").stat().st_mode & 0o077 == 0


def test_the_commands_of_a_cluster_run(place: Path, environment: Environment) -> None:
    """One shell follows them from block to block, with small files and on free ports."""
    script = "\n".join(block.text for block in CLUSTER)
    small = "--detach --set log.segment_size=8MiB --set clean.disk_reserve=1MiB three"
    assert "--detach three" in script
    script = script.replace("--detach three", small)
    script = script.replace("--data-dir four", "--data-dir four --set log.segment_size=8MiB")
    for address, free in zip(("127.0.0.1:7450", "127.0.0.1:7451"), free_addresses(2), strict=True):
        assert address in script
        script = script.replace(address, free)
    process = subprocess.Popen(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=place,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        down = ["bedplate", "cluster", "down", str(place / "three")]
        subprocess.run(down, env=environment(), stdout=subprocess.DEVNULL, check=False)
    assert process.returncode == 0, said
    for line in ("cluster\n", " leads\n", "is a voter\n", "removed ", "stopped 3 daemons\n"):
        assert line in said
    assert said.count("\nrecovered; start it with: ") == 1
    assert (place / "from-backup" / "store").is_dir()


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    kinds = {(block.language, block.mark) for block in BLOCKS}
    assert kinds == {("sh", ""), ("sh", "server"), ("sh", "make"), ("sh", "cluster"), ("toml", "")}
    for block in BLOCKS:
        if block.mark == "make":
            assert all(line.startswith("make ") for line in block.text.splitlines()), block


def test_every_make_target_exists_and_every_target_has_its_line_of_help() -> None:
    finished = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    helped = {line.split()[1] for line in finished.stdout.splitlines()}
    assert {"demo", "serve", "test", "check", "bench"} <= targets(TEXT)
    assert targets(TEXT) - helped == set()


def test_make_serve_serves_and_stops(tmp_path: Path, environment: Environment) -> None:
    address_file = tmp_path / "address"
    server = {"GRPC": "127.0.0.1:0", "HTTP": "127.0.0.1:0", "DATA_DIR": str(tmp_path / "data")}
    settings = {f"BEDPLATE_SERVER__{key}": value for key, value in server.items()}
    settings["BEDPLATE_SERVER__ADDRESS_FILE"] = str(address_file)
    process = subprocess.Popen(
        ["make", "serve"], cwd=ROOT, env=environment(**settings), start_new_session=True
    )
    try:
        eventually(lambda: address_file.exists() or process.poll() is not None)
        found = json.loads(address_file.read_text())
        with grpc.insecure_channel(found["grpc"]) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="bedplate.kv.v1.KVService")
            serving = health_pb2.HealthCheckResponse.SERVING
            eventually(lambda: health.Check(request, wait_for_ready=True).status == serving)
        os.kill(found["pid"], signal.SIGTERM)  # make would only say that it was interrupted
        assert process.wait(PATIENCE_S) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=str)
def test_every_configuration_file_is_understood(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(block.text)
    assert load(file, {}) != load(None, {})


def test_the_configuration_table_is_that_of_the_code() -> None:
    assert written(TEXT) == table(), "run: .venv/bin/python -m tests.e2e.configuration_table"


def test_every_metric_exists(daemon: Daemon, tmp_path: Path) -> None:
    with DaemonCluster(tmp_path) as cluster:
        families = {
            line.split()[2]
            for one in (daemon, *cluster.daemons)
            for line in one.get("/metrics")[1].splitlines()
            if line.startswith("# TYPE ")
        }
    assert metrics(TEXT) - families == set()


def test_every_link_leads_somewhere() -> None:
    assert [link for link in links(TEXT) if not (ROOT / link).exists()] == []
