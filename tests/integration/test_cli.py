"""`bedplate` against a real daemon: every command, binary data, and how failures read."""

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bedplate.cli.kv import prefix_end
from bedplate.server.auth import read_tokens
from bedplate.server.config import reference
from tests.integration.command import Ended, Run, failed, runner
from tests.integration.conftest import MakeDaemon
from tests.integration.daemon import Daemon, clean_environment
from tests.integration.test_auth_tls import certificate

NOT_TEXT = bytes(range(1, 256))


@pytest.fixture
def run(
    shared_daemon: Daemon,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    return runner(capfdbinary, monkeypatch, shared_daemon.grpc)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def ok(ended: Ended) -> list[str]:
    assert ended.code == 0, ended.err
    return ended.lines


class TestKeys:
    def test_bytes_come_back_as_they_went_in(self, run: Run, name: str, tmp_path: Path) -> None:
        file = tmp_path / "value"
        file.write_bytes(NOT_TEXT)
        key = name.encode() + NOT_TEXT
        ok(run("kv", "put", key, "--file", file))
        assert run("kv", "get", key).out == NOT_TEXT
        ok(run("kv", "put", key, "--file", "-", stdin=NOT_TEXT[::-1]))
        assert run("kv", "get", key).out == NOT_TEXT[::-1]
        (line,) = ok(run("kv", "scan", name, "--keys-only"))
        assert line.isprintable()
        entry = json.loads(run("--json", "kv", "scan", name).out)
        assert "key_base64" in entry
        assert "key" not in entry

    def test_old_revisions_are_read(self, run: Run, name: str) -> None:
        first = json.loads(run("--json", "kv", "put", name, "old").out)["revision"]
        ok(run("kv", "put", name, "new"))
        assert run("kv", "get", name, "--revision", str(first)).out == b"old"
        assert ok(run("kv", "scan", name, "--revision", str(first))) == [f"{name}\told"]

    def test_a_missing_key_is_one_line_and_exit_1(self, run: Run, name: str) -> None:
        assert failed(run("kv", "get", name)) == f"no such key: {name}"

    def test_compare_and_set(self, run: Run, name: str) -> None:
        first = json.loads(run("--json", "kv", "put", name, "1", "--if-absent").out)["revision"]
        for condition in (["--if-absent"], ["--if-revision", str(first + 1)], ["--if-value", "x"]):
            assert "CONDITION_FAILED" in failed(run("kv", "put", name, "2", *condition))
        assert run("kv", "get", name).out == b"1"
        second = json.loads(run("--json", "kv", "put", name, "2", "--if-value", "1").out)
        ok(run("kv", "put", name, "3", "--if-revision", str(second["revision"])))
        assert run("kv", "get", name).out == b"3"

    def test_scans_are_limited_reversed_and_counted(self, run: Run, name: str) -> None:
        for i in range(5):
            ok(run("kv", "put", f"{name}/{i}", str(i)))
        keys = [f"{name}/{i}" for i in range(5)]
        assert ok(run("kv", "scan", name, "--keys-only")) == keys
        assert ok(run("kv", "scan", name, "--keys-only", "--reverse", "--limit", "2")) == [
            keys[4],
            keys[3],
        ]
        span = ("--start", keys[1], "--end", keys[3])
        assert ok(run("kv", "scan", "--keys-only", *span)) == keys[1:3]
        assert ok(run("kv", "scan", name, "--count")) == ["5"]

    def test_deletes_take_a_key_a_range_or_a_prefix(self, run: Run, name: str) -> None:
        for i in range(5):
            ok(run("kv", "put", f"{name}/{i}", ""))
        assert ok(run("kv", "delete", f"{name}/0"))[0].startswith("deleted 1,")
        ended = run("kv", "delete", f"{name}/1", "--range-end", f"{name}/3")
        assert ok(ended)[0].startswith("deleted 2,")
        assert ok(run("kv", "delete", name, "--prefix"))[0].startswith("deleted 2,")
        assert ok(run("kv", "delete", name))[0].startswith("deleted 0,")

    @pytest.mark.parametrize(
        ("prefix", "end"),
        [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"a\0", b"a\x01")],
    )
    def test_a_prefix_ends_before_the_next_key(self, prefix: bytes, end: bytes) -> None:
        assert prefix_end(prefix) == end

    def test_a_watch_prints_changes_in_order(self, run: Run, name: str) -> None:
        first = json.loads(run("--json", "kv", "put", name, "1").out)["revision"]
        ok(run("kv", "delete", name))
        lines = ok(run("kv", "watch", name, "--revision", str(first), "--limit", "2"))
        assert lines[0] == f"{first}\tput\t{name}\t1"
        assert lines[1].split("\t")[1:] == ["delete", name]

    def test_keys_go_with_their_lease(self, run: Run, name: str) -> None:
        (lease,) = ok(run("kv", "lease", "grant", "600"))
        ok(run("kv", "put", name, "x", "--lease", lease))
        shown = ok(run("kv", "lease", "show", lease))
        assert shown[0].endswith("of 600 s, 1 keys")
        assert shown[1] == name
        assert ok(run("kv", "lease", "keepalive", lease, "--once")) == ["renewed for 600 s"]
        assert ok(run("kv", "lease", "revoke", lease))[0].startswith("deleted 1,")
        assert failed(run("kv", "get", name))
        assert "LEASE_NOT_FOUND" in failed(run("kv", "lease", "keepalive", lease, "--once"))


class TestObjects:
    @pytest.fixture
    def bucket(self, run: Run, name: str) -> str:
        ok(run("object", "mb", name))
        return f"object://{name}"

    def test_a_file_comes_back_byte_for_byte(self, run: Run, bucket: str, tmp_path: Path) -> None:
        data = NOT_TEXT * 20_000  # several messages
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(data)
        ok(run("object", "put", source, f"{bucket}/a/"))
        ok(run("object", "get", f"{bucket}/a/source", target))
        assert target.read_bytes() == data
        part = run("object", "get", f"{bucket}/a/source", "-", "--offset", "10", "--length", "5")
        assert part.out == data[10:15]
        assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}

    def test_pipes_work_both_ways(self, run: Run, bucket: str) -> None:
        ok(run("object", "put", "-", f"{bucket}/pipe", stdin=NOT_TEXT))
        assert run("object", "get", f"{bucket}/pipe", "-").out == NOT_TEXT

    def test_listing_folds_at_slashes(self, run: Run, bucket: str, name: str) -> None:
        for key in ("a/1", "a/2", "b"):
            ok(run("object", "put", "-", f"{bucket}/{key}", stdin=b"x"))
        assert name in ok(run("object", "ls"))
        assert [line.split()[-1] for line in ok(run("object", "ls", bucket))] == ["a/", "b"]
        assert [line.split()[-1] for line in ok(run("object", "ls", "-r", bucket))] == [
            "a/1",
            "a/2",
            "b",
        ]
        assert ok(run("object", "rm", "-r", f"{bucket}/a/")) == ["deleted 2"]
        assert ok(run("object", "rm", f"{bucket}/b")) == ["deleted 1"]
        ok(run("object", "rb", bucket))
        assert "BUCKET_NOT_FOUND" in failed(run("object", "rb", bucket))

    def test_metadata_and_copies(self, run: Run, bucket: str) -> None:
        put = ("object", "put", "-", f"{bucket}/x", "--content-type", "text/plain")
        ok(run(*put, "--metadata", "a=b=c", stdin=b"text"))
        ok(run("object", "cp", f"{bucket}/x", f"{bucket}/copies/"))
        info = json.loads(run("--json", "object", "head", f"{bucket}/copies/x").out)
        assert (info["size"], info["content_type"]) == (4, "text/plain")
        assert info["user_metadata"] == {"a": "b=c"}

    def test_conditions_are_kept(self, run: Run, bucket: str) -> None:
        once = ("object", "put", "-", f"{bucket}/x", "--if-none-match", "*")
        ok(run(*once, stdin=b"1"))
        assert "CONDITION_FAILED" in failed(run(*once, stdin=b"2"))
        assert "CONDITION_FAILED" in failed(
            run("object", "rm", f"{bucket}/x", "--if-match", "other")
        )
        assert run("object", "get", f"{bucket}/x", "-").out == b"1"

    def test_a_failed_get_leaves_no_file(self, run: Run, bucket: str, tmp_path: Path) -> None:
        target = tmp_path / "target"
        assert "OBJECT_NOT_FOUND" in failed(run("object", "get", f"{bucket}/none", target))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "arguments",
        [
            ("get", "elsewhere"),
            ("get", "s3://bucket/key"),
            ("get", "object://bucket"),
            ("put", "-", "object://bucket/a/"),
            ("mb", "a/b"),
            ("put", "-", "object://bucket/a", "--metadata", "x"),
            ("mb", "object://bucket/key"),
            ("head", b"object://bucket/\xff"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, run: Run, arguments: tuple[str, ...]) -> None:
        failed(run("object", *arguments), code=2)

    def test_a_file_that_is_not_there_is_a_failure(self, run: Run) -> None:
        failed(run("object", "put", "/no/such/file", "object://bucket/key"))

    def test_nothing_of_the_users_is_touched_beside_the_file(
        self, run: Run, bucket: str, tmp_path: Path
    ) -> None:
        ok(run("object", "put", "-", f"{bucket}/k", stdin=b"new"))
        target, mine = tmp_path / "copy", tmp_path / "copy.partial"
        mine.write_bytes(b"mine")
        ok(run("object", "get", f"{bucket}/k", target))
        assert "OBJECT_NOT_FOUND" in failed(run("object", "get", f"{bucket}/none", target))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
            "copy": b"new",
            "copy.partial": b"mine",
        }


class TestFailures:
    def test_a_daemon_that_is_not_there(
        self, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = runner(capfdbinary, monkeypatch, "127.0.0.1:1")
        line = failed(run("status"))
        assert line.startswith("cannot reach the daemon: ")
        assert "127.0.0.1:1" in line

    @pytest.mark.parametrize(
        "arguments",
        [
            ("kv", "gett"),
            ("kv", "get"),
            ("--timeout", "x", "status"),
            ("--server", "127.0.0.1", "status"),
            ("kv", "get", "k", "--no"),
            ("kv", "get", "k", "--revision", str(2**64)),
            ("kv", "put", "k", "v", "--lease", str(2**64)),
            ("kv", "put", "k", "v", "--if-revision", str(2**64)),
            ("kv", "watch", "k", "--revision", str(2**64)),
            ("kv", "lease", "revoke", str(2**64)),
            ("kv", "lease", "grant", str(2**63)),
            ("compact", str(2**64)),
            ("verify", "--rate", str(2**64)),
            ("object", "get", "object://b/k", "-", "--offset", str(2**64)),
        ],
    )
    def test_what_is_not_understood_is_one_line_and_exit_2(
        self, run: Run, arguments: tuple[str, ...]
    ) -> None:
        ended = run(*arguments)
        assert ended.code == 2
        assert ended.out == b""
        (line,) = ended.err.splitlines()
        assert line.startswith("bedplate: ")
        assert "--help" in line

    def test_a_reader_that_leaves_ends_the_command_quietly(
        self, shared_daemon: Daemon, run: Run, name: str
    ) -> None:
        for i in range(3):
            ok(run("kv", "put", f"{name}/{i}", "v" * 100_000))
        read_end, write_end = os.pipe()
        os.close(read_end)
        for options in ([], ["--keys-only"]):  # more than is buffered, and less
            finished = subprocess.run(
                [sys.executable, "-m", "bedplate.cli.main", "kv", "scan", name, *options],
                env=clean_environment() | {"BEDPLATECTL_SERVER": shared_daemon.grpc},
                stdout=write_end,
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )
            assert (finished.returncode, finished.stderr) == (0, b"")
        os.close(write_end)


def test_tls_and_a_certificate_of_ones_own(
    start: MakeDaemon,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate(tmp_path, "authority")
    certificate(tmp_path, "server", "authority")
    certificate(tmp_path, "client", "authority")
    pem = {name: str(tmp_path / f"{name}.pem") for name in ("authority", "server", "client")}
    daemon = start(
        f"tls.cert={pem['server']}",
        f"tls.key={tmp_path / 'server.key'}",
        f"tls.client_ca={pem['authority']}",
    )
    run = runner(capfdbinary, monkeypatch, daemon.grpc)
    trusting = ("--tls-ca", pem["authority"])
    mine = ("--tls-cert", pem["client"], "--tls-key", tmp_path / "client.key")
    ok(run(*trusting, *mine, "kv", "scan"))
    for options in ((), trusting):
        assert failed(run(*options, "kv", "scan")).startswith("cannot reach the daemon: ")
    assert "need each other" in failed(run(*trusting, *mine[:2], "kv", "scan"), code=2)


class TestTokens:
    def test_a_token_made_here_opens_what_its_scopes_say(
        self,
        start: MakeDaemon,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfdbinary: pytest.CaptureFixture[bytes],
    ) -> None:
        run = runner(capfdbinary, monkeypatch, "")
        tokens, secret = tmp_path / "tokens", tmp_path / "secret"
        create = ("token", "create", "ci", "--scope", "kv:read", "--scope", "admin:*")
        secret.write_bytes(run(*create, "--file", tokens).out)
        assert stat.S_IMODE(tokens.stat().st_mode) == 0o600
        assert secret.read_text().strip() not in tokens.read_text()
        daemon = start(f"auth.tokens_file={tokens}")
        run = runner(capfdbinary, monkeypatch, daemon.grpc)
        assert "TOKEN_MISSING" in failed(run("kv", "scan"))
        assert "TOKEN_UNKNOWN" in failed(run("--token", "guess", "kv", "scan"))
        ok(run("--token-file", secret, "kv", "scan"))
        ok(run("--token", secret.read_text().strip(), "status"))
        assert "SCOPE_MISSING" in failed(run("--token-file", secret, "kv", "put", "k", "v"))

    def test_a_second_token_is_added_to_the_file(self, run: Run, tmp_path: Path, name: str) -> None:
        tokens = tmp_path / "tokens"
        for who in ("one", "two"):
            secret = run("token", "create", who, "--scope", "kv:*", "--file", tokens).lines[0]
            tokens.write_text(tokens.read_text().rstrip("\n"))  # as some editors leave it
        found = {token.name: token for token in read_tokens(tokens)}
        assert list(found) == ["one", "two"]
        assert found["two"].sha256 == hashlib.sha256(secret.encode()).digest()

    def test_a_file_that_others_read_is_refused(self, run: Run, tmp_path: Path) -> None:
        tokens = tmp_path / "tokens"
        tokens.touch(mode=0o644)
        line = failed(run("token", "create", "x", "--scope", "kv:*", "--file", tokens))
        assert "chmod 600" in line
        assert tokens.read_bytes() == b""

    @pytest.mark.parametrize(("who", "scope"), [("x", "kv:reed"), ("a b", "kv:read")])
    def test_unknown_scopes_and_odd_names_are_refused(self, run: Run, who: str, scope: str) -> None:
        failed(run("token", "create", who, "--scope", scope), code=2)


def test_config_prints_what_the_daemon_prints(run: Run) -> None:
    assert run("config").out.decode() == reference()
