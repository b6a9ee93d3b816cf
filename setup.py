"""Builds what setuptools alone cannot; all metadata is in pyproject.toml.

    native/src/*.c  --make-->  libbedplate.a  --cffi (native/build.py)-->  bedplate/_native.*.so
    native/bench/   --make-->  bedplate/_bin/bedplate-bench
    proto/          --proto/generate.py-->  bedplate/api/<x>/v1/*_pb2*.py[i]

make follows the dependencies of C; everything here may therefore run again at any time and is quick
when nothing changed. Warnings are errors for developers, not for whoever installs with a compiler
that we have not met: WERROR=-Werror in the environment asks for them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
SOURCE_ROOT = ROOT / "daemon"


def make_native(target: str) -> None:
    """Run native/Makefile for one target, without the job server of a make that called us."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")
    }
    werror = "WERROR=" + os.environ.get("WERROR", "")
    jobs = f"-j{os.environ.get('JOBS', '2')}"
    command = ["make", "--no-print-directory", "-C", str(ROOT / "native"), jobs, werror, target]
    run(command, environment)


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a program that says itself what went wrong."""
    status = subprocess.run(command, env=environment, check=False).returncode
    if status != 0:
        raise SystemExit(f"{command[0]} gave exit status {status}")


class BuildExtension(build_ext):
    """bedplate._native, linked from a library that make keeps up to date."""

    def run(self) -> None:
        make_native("lib")
        super().run()


class BuildInto(Command):
    """A step of `build` whose files go to the wheel, or beside the sources when editable."""

    user_options = [("inplace", "i", "put the files beside the sources")]  # noqa: RUF012
    boolean_options = ["inplace"]  # noqa: RUF012

    def initialize_options(self) -> None:
        self.inplace = False
        self.editable_mode = False
        self.build_lib: str | None = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def destination(self) -> Path:
        assert self.build_lib is not None
        return SOURCE_ROOT if self.inplace or self.editable_mode else Path(self.build_lib)

    def get_source_files(self) -> list[str]:
        return []  # MANIFEST.in names them

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class BuildBench(BuildInto):
    """bedplate/_bin/bedplate-bench."""

    description = "build the native benchmark program"

    def run(self) -> None:
        if not (ROOT / "native" / "bench" / "bedplate_bench.c").exists():
            return  # TEMPORARY: until the benchmark is written
        make_native("bench")
        target = self.destination() / "bedplate" / "_bin" / "bedplate-bench"
        target.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place: the program may be running.
        partial = target.with_suffix(".partial")
        shutil.copy2(ROOT / "build" / "native" / "plain" / "bedplate-bench", partial)
        partial.replace(target)


class BuildStubs(BuildInto):
    """bedplate/api/<x>/v1."""

    description = "generate Python from the protocol definitions"

    def run(self) -> None:
        output = self.destination() / "bedplate" / "api"
        run([sys.executable, str(ROOT / "proto" / "generate.py"), str(output)])


class Build(build):
    sub_commands = [*build.sub_commands, ("build_bench", None), ("build_stubs", None)]  # noqa: RUF012


setup(
    cffi_modules=["native/build.py:ffibuilder"],
    cmdclass={
        "build": Build,
        "build_ext": BuildExtension,
        "build_bench": BuildBench,
        "build_stubs": BuildStubs,
    },
)
