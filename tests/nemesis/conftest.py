"""The history checker, built once, and what networks of namespaces need."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.nemesis.checker import NoGo, build
from tests.nemesis.network import enter


@pytest.fixture(scope="session")
def checker() -> Path:
    try:
        return build()
    except NoGo as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def namespaces() -> None:
    """They can be made here."""
    if shutil.which("ip") is None:
        pytest.skip("networks of namespaces need iproute2; tests/install-debian installs it")
    made = subprocess.run(enter(["true"]), capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"no user and network namespaces here: {made.stderr.strip()}")
