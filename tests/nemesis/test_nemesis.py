"""Real daemons under faults: three minutes here, `make nemesis` for longer, `make nemesis-bites` to
see that it finds what is broken.

A failure prints the command that repeats it, and the directory with histories, pictures and data.
BEDPLATE_NEMESIS_SEED tries another order.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SEED = os.environ.get("BEDPLATE_NEMESIS_SEED", "1")
ROOT = Path(__file__).parents[2]


def nemesis(directory: Path, *options: str) -> str:
    """Run it; what it said."""
    words = [sys.executable, "-m", "tests.nemesis.run", "--directory", str(directory)]
    words += ["--seed", SEED, *options]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BEDPLATE_")}
    finished = subprocess.run(
        words,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


@pytest.mark.timeout(420)
def test_a_cluster_keeps_its_promises_under_every_fault(checker: Path, tmp_path: Path) -> None:
    said = nemesis(tmp_path, "--times", "1")
    assert "pause_leader" in said
    assert "clock_jumps" in said or os.environ.get("BEDPLATE_TEST_STRICT") != "1", "no libfaketime"


@pytest.mark.usefixtures("namespaces")
@pytest.mark.timeout(300)
def test_a_cluster_keeps_its_promises_when_the_kernel_drops_packets(
    checker: Path, tmp_path: Path
) -> None:
    kinds = ("cut_leader_off", "cut_one_way", "cut_a_pair", "split", "wake_alone", "kill_leader")
    nemesis(tmp_path, "--times", "1", "--network", "namespaces", "--only", *kinds)


@pytest.mark.timeout(120)
def test_a_leader_that_is_alone_shows_and_decides_nothing(checker: Path, tmp_path: Path) -> None:
    kinds = ("wake_alone", "cut_leader_off")
    nemesis(tmp_path, "--times", "3", "--fault-seconds", "1", "--only", *kinds)


@pytest.mark.timeout(200)
def test_a_single_daemon_keeps_its_promises_under_every_fault(
    checker: Path, tmp_path: Path
) -> None:
    nemesis(tmp_path, "--times", "1", "--members", "1")
