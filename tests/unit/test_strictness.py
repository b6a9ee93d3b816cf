"""BEDPLATE_TEST_STRICT=1: a green run means that every test ran."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

EXCUSES = {
    "skip": "import pytest\ndef test_it():\n    pytest.skip('no etcd here')\n",
    "skip_mark": "import pytest\n@pytest.mark.skip('no etcd here')\ndef test_it(): ...\n",
    "module": "import pytest\npytest.skip('no etcd here', allow_module_level=True)\n",
    "import": "import pytest\npytest.importorskip('no_such_etcd')\ndef test_it(): ...\n",
    "xfail": "import pytest\n@pytest.mark.xfail(reason='etcd')\ndef test_it(): assert False\n",
    "xpass": "import pytest\n@pytest.mark.xfail(reason='etcd')\ndef test_it(): ...\n",
}


def run_pytest(folder: Path, strict: bool) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BEDPLATE_TEST_STRICT": "1" if strict else ""}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # only our rules count, and it is quicker
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull]
    return subprocess.run(
        [*command, f"--rootdir={folder}", str(folder)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(CONFTEST, tmp_path / "conftest.py")
    return tmp_path


@pytest.mark.parametrize("excuse", EXCUSES)
def test_an_excused_test_fails_a_strict_run(folder: Path, excuse: str) -> None:
    (folder / "test_excused.py").write_text(EXCUSES[excuse])
    finished = run_pytest(folder, strict=True)
    assert finished.returncode in (1, 2), finished.stdout
    assert "not allowed with BEDPLATE_TEST_STRICT=1" in finished.stdout
    assert "etcd" in finished.stdout


def test_excused_tests_pass_elsewhere(folder: Path) -> None:
    (folder / "test_ok.py").write_text("def test_it(): ...\n")
    for name, source in EXCUSES.items():
        (folder / f"test_{name}.py").write_text(source)
    finished = run_pytest(folder, strict=False)
    assert finished.returncode == 0, finished.stdout
    assert "1 passed, 4 skipped, 1 xfailed, 1 xpassed" in finished.stdout


def test_a_strict_run_without_excuses_passes(folder: Path) -> None:
    (folder / "test_ok.py").write_text("def test_it(): ...\n")
    finished = run_pytest(folder, strict=True)
    assert finished.returncode == 0, finished.stdout
    assert "1 passed" in finished.stdout
