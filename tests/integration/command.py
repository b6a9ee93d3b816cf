"""`bedplate` in this process: what it printed and how it ended."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bedplate.cli.main import main


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()


Run = Callable[..., Ended]


def runner(
    capture: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, server: str
) -> Run:
    """A function that runs one command against `server`; `stdin` is what it reads."""
    monkeypatch.setenv("BEDPLATECTL_SERVER", server)

    def run(*arguments: str | bytes | Path, stdin: bytes = b"") -> Ended:
        capture.readouterr()
        read_end, write_end = os.pipe()
        os.write(write_end, stdin)  # less than a pipe holds
        os.close(write_end)
        with open(read_end) as standard_input, monkeypatch.context() as patch:
            patch.setattr("sys.stdin", standard_input)
            code = main([os.fsdecode(argument) for argument in arguments])
        captured = capture.readouterr()
        return Ended(code, captured.out, captured.err.decode())

    return run


def failed(ended: Ended, code: int = 1) -> str:
    """The one line on stderr of a command that failed, and printed nothing else."""
    assert ended.code == code, ended
    assert ended.out == b""
    (line,) = ended.err.splitlines()
    assert line.startswith("bedplate: ")
    return line.removeprefix("bedplate: ")
