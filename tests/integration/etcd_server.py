"""A real etcd for tests: a process on free ports, spoken to through the messages of etcd.proto,
compiled when needed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest

from tests.free_ports import free_ports
from tests.integration.daemon import PATIENCE_S

PROTO = Path(__file__).with_name("etcd.proto")


def find_etcd() -> str:
    """The newest etcd that was built for benchmarks, or the distribution's."""
    built = sorted((Path.home() / ".cache/bedplate/bin").glob("etcd-v*"))
    found = str(built[-1]) if built else shutil.which("etcd")
    if found is None:
        pytest.skip("no etcd; tests/install-debian installs it")
    return found


def compile_messages(directory: Path) -> tuple[ModuleType, ModuleType]:
    """The messages and the stubs."""
    out = (f"--python_out={directory}", f"--grpc_python_out={directory}")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO.parent}", *out, str(PROTO)]
    subprocess.run(command, check=True, timeout=PATIENCE_S)
    return _load(directory / "etcd_pb2.py"), _load(directory / "etcd_pb2_grpc.py")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # the stubs import the messages by this name
    spec.loader.exec_module(module)
    return module


class Etcd:
    """A one-member cluster with an empty store."""

    def __init__(self, directory: Path) -> None:
        self.messages, stubs = compile_messages(directory)
        client, peer = (f"http://127.0.0.1:{free_ports(1)[0]}" for _ in range(2))
        self._log = (directory / "etcd.log").open("w")
        self._process = subprocess.Popen(
            [
                *(find_etcd(), "--name=opinion", f"--data-dir={directory / 'etcd'}"),
                *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
                *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
                f"--initial-cluster=opinion={peer}",
            ],
            env={name: value for name, value in os.environ.items() if not name.startswith("ETCD_")},
            stdout=self._log,
            stderr=self._log,
        )
        self._channel = grpc.insecure_channel(client.removeprefix("http://"))
        self.kv: Any = stubs.KVStub(self._channel)
        self.watch: Any = stubs.WatchStub(self._channel)

    def __enter__(self) -> Etcd:
        grpc.channel_ready_future(self._channel).result(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._log.close()
        for name in ("etcd_pb2", "etcd_pb2_grpc"):
            sys.modules.pop(name, None)
