"""Generates `bedplate.api` from the protocol definitions beside this file.

    proto/bedplate/<x>/v1/<y>.proto  ->  DIR/<x>/v1/<y>_pb2.py, .pyi, <y>_pb2_grpc.py, .pyi

Usage: python proto/generate.py DIR. What protoc imports as `bedplate.<x>.v1` is imported from
`bedplate.api.<x>.v1` instead, so that the contract's names leave the package's own names free.
Files are written only where they differ; those that no definition makes any more are removed.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.resources import files
from pathlib import Path

PROTO = Path(__file__).parent.resolve()
# A generated module where it is named, dotted or in a from-import; never a message or method.
MODULE = re.compile(r"\bbedplate\.(?=\w+\.v\d+(?:\.| import )\w+_pb2\b)")


def main(output: Path) -> None:
    """Make `output` hold exactly the stubs of the current definitions."""
    definitions = sorted(PROTO.glob("bedplate/*/v*/*.proto"))
    if not definitions:
        raise SystemExit(f"no definitions below {PROTO}")
    with tempfile.TemporaryDirectory() as scratch:
        run_protoc(definitions, Path(scratch))
        generated = Path(scratch) / "bedplate"
        for path in generated.rglob("*_pb2*"):
            path.write_text(MODULE.sub("bedplate.api.", path.read_text()))
        for definition in definitions:
            package = definition.parent.relative_to(PROTO / "bedplate")
            (generated / package / "__init__.py").touch()
            (generated / package.parent / "__init__.py").touch()
        install(generated, output)


def run_protoc(definitions: list[Path], output: Path) -> None:
    well_known = files("grpc_tools") / "_proto"
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        *(f"--proto_path={PROTO}", f"--proto_path={well_known}"),
        *(f"--python_out={output}", f"--pyi_out={output}", f"--grpc_python_out={output}"),
        *(f"--plugin=protoc-gen-mypy_grpc={typing_plugin()}", f"--mypy_grpc_out=quiet:{output}"),
        *map(str, definitions),
    ]
    finished = subprocess.run(command, check=False)
    if finished.returncode != 0:
        raise SystemExit(finished.returncode)


def typing_plugin() -> str:
    """mypy-protobuf's plugin: beside this interpreter, or on the path of an isolated build."""
    name = "protoc-gen-mypy_grpc"
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} not found; pip install mypy-protobuf")
    return found


def install(generated: Path, output: Path) -> None:
    wanted = {path.relative_to(generated) for path in generated.rglob("*") if path.is_file()}
    output.mkdir(parents=True, exist_ok=True)
    for path in wanted:
        target = output / path
        content = (generated / path).read_bytes()
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for path in output.glob("*/**/*.py*"):
        if path.suffix in (".py", ".pyi") and path.relative_to(output) not in wanted:
            path.unlink()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
