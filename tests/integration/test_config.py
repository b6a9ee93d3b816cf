"""The command line of bedplated: one clear line for what it does not understand."""

import subprocess
import sys
from pathlib import Path

import pytest

from bedplate.server.config import TEST_VARIABLES, reference
from tests.integration.conftest import MakeDaemon
from tests.integration.daemon import clean_environment, run_to_end

ANYWHERE = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")


def bedplated(directory: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    finished = subprocess.run(
        [sys.executable, "-m", "bedplate.server.main", *arguments],
        env=clean_environment() | {"HOME": str(directory)} | environment,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return finished.returncode, finished.stdout, finished.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--set", "log.durabilty=x"),
            "unknown configuration key log.durabilty (command line)",
        ),
        (("--set", "nonsense"), "--set nonsense: expected SECTION.KEY=VALUE"),
        (("--config", "absent.toml"), "cannot read configuration file absent.toml"),
        (("--config", "bad.toml"), "unknown configuration key server.prot (file bad.toml)"),
        (("--config", "flat.toml"), "key server: expected a section of keys (file flat.toml)"),
        (
            ("--set", "tls.cert=bad.toml", "--set", "tls.key=bad.toml"),
            "no certificate and its unencrypted key in PEM: nothing of that kind is in it",
        ),
        (("--grpc", "7420"), "configuration key server.grpc: expected HOST:PORT"),
        (("--bogus",), "unrecognized arguments: --bogus"),
        (("--grpc", "0.0.0.0:0"), "refusing to listen on 0.0.0.0:0 without tokens"),
        (("--http", "0.0.0.0:0"), "refusing to listen on 0.0.0.0:0 without tokens"),
        (("--set", "auth.tokens_file=absent"), "cannot read auth.tokens_file absent"),
        (("--set", "tls.cert=absent"), "TLS needs tls.cert and tls.key: tls.key is not set"),
        (
            ("--set", "tls.cert=absent", "--set", "tls.key=absent"),
            "cannot read tls.key absent: No such file",
        ),
        (
            ("--set", "cluster.join=127.0.0.1:1", "--set", "log.durability=interval:10"),
            'log.durability is "interval:10"',
        ),
        (
            ("--set", "cluster.join=127.0.0.1:1", "--set", "cluster.advertise=127.0.0.1:1"),
            "cluster.join names nobody but this daemon, 127.0.0.1:1",
        ),
    ],
)
def test_one_line_names_what_is_wrong_and_nothing_is_made(
    tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    (tmp_path / "bad.toml").write_text("[server]\nprot = 1\n")
    (tmp_path / "flat.toml").write_text("server = 3\n")
    code, output = run_to_end(tmp_path, *ANYWHERE, *arguments)
    (line,) = output.splitlines()
    assert code == 2
    assert line.startswith("bedplated: ")
    assert expected in line
    assert not (tmp_path / ".local" / "state" / "bedplate" / "store").exists()


def test_a_bad_variable_is_named(tmp_path: Path) -> None:
    code, _, output = bedplated(tmp_path, BEDPLATE_SERVER__PROT="1")
    assert code == 2
    expected = "unknown configuration key server.prot (environment variable BEDPLATE_SERVER__PROT)"
    assert output == f"bedplated: {expected}\n"


@pytest.mark.parametrize("variable", ["BEDPLATE_AUTH_TOKENS_FILE", "BEDPLATE_FOO", "BEDPLATE_"])
def test_a_variable_that_is_none_of_ours_is_named(tmp_path: Path, variable: str) -> None:
    code, _, output = bedplated(tmp_path, **{variable: "1"})
    expected = f"unknown environment variable {variable}: expected BEDPLATE_<SECTION>__<KEY>"
    assert (code, output) == (2, f"bedplated: {expected}\n")


def test_what_the_tests_and_the_client_read_is_let_pass(tmp_path: Path) -> None:
    others = dict.fromkeys((*TEST_VARIABLES, "BEDPLATECTL_SERVER"), "1")
    assert bedplated(tmp_path, "--grpc", "x", **others)[2].startswith("bedplated: configuration")


def test_a_bad_failpoint_is_refused(tmp_path: Path) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    code, output = run_to_end(tmp_path, *data, *ANYWHERE, "--set", "failpoints.log.sync=nonsense@1")
    assert code == 2
    assert output == 'bedplated: "log.sync=nonsense@1": no such fault\n'
    assert not (tmp_path / "data").exists()


def test_the_reference_is_printed(tmp_path: Path) -> None:
    assert bedplated(tmp_path, "--print-config") == (0, reference(), "")


def test_a_file_configures_the_daemon(start: MakeDaemon, tmp_path: Path) -> None:
    file = tmp_path / "bedplate.toml"
    file.write_text('[telemetry]\nlog_calls = true\n[log]\nsegment_size = "8MiB"\n')
    daemon = start(arguments=("--config", str(file)))
    segment = next((daemon.data / "store").glob("*.log"))
    assert segment.stat().st_size == 8 << 20
