"""`pip install .`: what the wheel holds, and that it works away from the source tree."""

import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "README.md", "buf.yaml")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.so", "bedplate-bench")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel from a copy of the sources; objects already compiled are taken along for speed."""
    tree = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        shutil.copy2(ROOT / name, tree / name)
    for name in ("native", "proto"):
        shutil.copytree(ROOT / name, tree / name, ignore=LEFT_OUT)
    shutil.copytree(ROOT / "daemon", tree / "daemon", ignore=LEFT_OUT)
    for stub_package in (tree / "daemon" / "bedplate" / "api").glob("*/"):
        shutil.rmtree(stub_package)
    shutil.copytree(ROOT / "build/native/plain", tree / "build/native/plain", ignore=LEFT_OUT)
    output = tmp_path_factory.mktemp("wheel")
    run_pip("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={output}", str(tree))
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    run_pip("install", "--no-deps", "--no-index", f"--target={target}", str(wheel))
    return target


def run_pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def run_installed(installed: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        command,
        env=environment,
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.timeout(400)
def test_the_wheel_holds_every_module_stub_and_binary(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    daemon = ROOT / "daemon"
    kept = [path for path in (daemon / "bedplate").rglob("*.py*") if "api" not in path.parts]
    expected = {str(path.relative_to(daemon)) for path in kept if path.suffix in (".py", ".pyi")}
    expected |= {"bedplate/py.typed", "bedplate/_bin/bedplate-bench"}
    for definition in (ROOT / "proto" / "bedplate").glob("*/v*/*.proto"):
        package = definition.parent.relative_to(ROOT / "proto" / "bedplate")
        for ending in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi"):
            expected.add(f"bedplate/api/{package}/{definition.stem}{ending}")
    assert expected - names == set()
    assert any(name.startswith("bedplate/_native.") for name in names)


def test_nothing_but_the_package_is_installed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {"bedplate", "bedplate-0.1.0.dist-info"}


def test_the_installed_package_is_complete_away_from_its_sources(installed: Path) -> None:
    program = (
        "import bedplate._native as native, bedplate.api.kv.v1.kv_pb2 as kv, bedplate.api.kv.v1."
        "kv_pb2_grpc\nprint(native.__file__, kv.__file__, kv.GetRequest.__module__, sep='\\n')"
    )
    finished = run_installed(installed, sys.executable, "-c", program)
    assert finished.returncode == 0, finished.stderr
    native, kv, module = finished.stdout.splitlines()
    assert Path(native).parent == installed / "bedplate"
    assert installed in Path(kv).parents
    assert module == "bedplate.api.kv.v1.kv_pb2"


@pytest.mark.parametrize("program", ["bedplated", "bedplate", "bedplate-bench"])
def test_every_program_is_on_the_path_and_answers_help(installed: Path, program: str) -> None:
    finished = run_installed(installed, str(installed / "bin" / program), "--help")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout


def test_the_c_library_shows_python_its_entry_point_and_nothing_else(installed: Path) -> None:
    (extension,) = (installed / "bedplate").glob("_native*.so")
    command = ["nm", "--dynamic", "--defined-only", "--format=posix", str(extension)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    symbols = {line.split()[0] for line in finished.stdout.splitlines()}
    assert {name for name in symbols if not name.startswith(("_init", "_fini"))} == {
        "PyInit__native"
    }


def test_stubs_of_removed_definitions_disappear(tmp_path: Path) -> None:
    stale = tmp_path / "gone" / "v1" / "gone_pb2.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    (tmp_path / "__init__.py").write_text("# kept by hand\n")
    subprocess.run([sys.executable, ROOT / "proto" / "generate.py", tmp_path], check=True)
    assert not stale.exists()
    assert (tmp_path / "__init__.py").read_text() == "# kept by hand\n"
    assert (tmp_path / "kv" / "v1" / "kv_pb2.py").exists()


class TestDeclarationsForCffi:
    declarations = staticmethod(
        cast(
            Callable[[str], str],
            runpy.run_path(str(ROOT / "native" / "build.py"))["declarations"],
        )
    )

    def test_are_what_stands_between_the_marks_on_the_same_lines(self) -> None:
        header = "#if X\n/* cffi: begin */\nint a;\n/* cffi: end */\nint b;\n"
        assert self.declarations(header).splitlines() == ["", "", "int a;", ""]

    @pytest.mark.parametrize(
        "header",
        [
            "int a;\n",
            "/* cffi: begin */\nint a;\n",
            "/* cffi: end */\n",
            "/* cffi: begin */\n/* cffi: begin */\nint a;\n/* cffi: end */\n",
        ],
    )
    def test_need_marks_in_pairs(self, header: str) -> None:
        with pytest.raises(ValueError, match="cffi"):
            self.declarations(header)
