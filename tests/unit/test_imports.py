"""What importing the package promises, beyond the layers that import-linter checks."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "daemon" / "bedplate"

FORBIDDEN_AFTER_IMPORT = """
import sys
import bedplate
print(*sorted({"grpc", "structlog"} & set(sys.modules)))
"""


def test_importing_bedplate_needs_neither_grpc_nor_structlog() -> None:
    command = [sys.executable, "-c", FORBIDDEN_AFTER_IMPORT]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert finished.stdout.split() == []


VERBOSITY_AFTER_IMPORT = """
import os
import bedplate.server.main
print(os.environ["GRPC_VERBOSITY"])
"""


@pytest.mark.parametrize(("asked", "found"), [({}, "ERROR"), ({"GRPC_VERBOSITY": "INFO"}, "INFO")])
def test_grpc_says_nothing_among_the_daemons_records(asked: dict[str, str], found: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "GRPC_VERBOSITY"} | asked
    command = [sys.executable, "-c", VERBOSITY_AFTER_IMPORT]
    finished = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert finished.stdout.split() == [found]


def test_only_the_native_package_touches_the_c_library() -> None:
    offenders = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in ("native", "api")
        and "bedplate._native" in imported_modules(path)
    ]
    assert offenders == []


def test_an_import_of_the_c_library_is_noticed_in_every_spelling(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    for line in ("import bedplate._native", "from bedplate import _native"):
        path.write_text(line)
        assert "bedplate._native" in imported_modules(path)
    path.write_text("from bedplate._native import lib")
    assert "bedplate._native" in imported_modules(path)


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports, or that a name it imports may be."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            modules.add(node.module)
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return modules
