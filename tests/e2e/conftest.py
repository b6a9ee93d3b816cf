"""What end-to-end tests share."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.daemon import clean_environment

Environment = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
def program_folder() -> Path:
    """Where the programs of this environment are."""
    return Path(sys.executable).parent


@pytest.fixture(scope="session")
def environment(program_folder: Path) -> Environment:
    """This process's variables, with our programs on PATH and without what an outer make left."""

    def make(**more: str) -> dict[str, str]:
        kept = {k: v for k, v in clean_environment().items() if not k.startswith("MAKE")}
        path = f"{program_folder}:{Path.home()}/.cache/bedplate/bin:{kept.get('PATH', '')}"
        return kept | {"PATH": path} | more

    return make
