"""Tokens, scopes, TLS and mTLS."""

import hashlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from bedplate.api.kv.v1.kv_pb2 import (
    GetRequest,
    GrantLeaseRequest,
    PipelineOp,
    PipelineRequest,
    PutRequest,
    ScanRequest,
    WatchRequest,
)
from bedplate.api.object.v1 import object_pb2 as pb
from bedplate.api.object.v1.object_pb2_grpc import ObjectServiceStub
from bedplate.errors import StartupError
from bedplate.server.config import TLSConfig
from bedplate.server.tls import server_credentials
from tests.integration.conftest import MakeDaemon
from tests.integration.daemon import Daemon, eventually
from tests.integration.refusals import Refusal, refused

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED
Metadata = tuple[tuple[str, str], ...]
Calls = dict[str, Callable[[Metadata | None], object]]


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def write_tokens(path: Path, **scopes: str) -> Path:
    """A tokens file in which each name is also its token."""
    lines = [
        f"{name} {hashlib.sha256(name.encode()).hexdigest()} {given}"
        for name, given in scopes.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return write_tokens(tmp_path / "tokens", reader="kv:read", writer="kv:write", root="kv:*")


@pytest.fixture
def guarded(start: MakeDaemon, tokens: Path) -> Daemon:
    return start(f"auth.tokens_file={tokens}")


def test_a_call_needs_a_token_that_is_known_and_holds_the_scope(guarded: Daemon) -> None:
    kv = guarded.kv()

    def get(metadata: Metadata | None) -> Refusal:
        return refused(kv.Get, GetRequest(key=b"k"), metadata=metadata)

    missing, unknown, other = get(None), get(bearer("guess")), get(bearer("writer"))
    assert (missing.code, missing.reason) == (UNAUTHENTICATED, "TOKEN_MISSING")
    assert (unknown.code, unknown.reason) == (UNAUTHENTICATED, "TOKEN_UNKNOWN")
    assert (other.code, other.reason) == (DENIED, "SCOPE_MISSING")
    assert get((("authorization", "Basic reader"),)).reason == "TOKEN_MISSING"
    kv.Get(GetRequest(key=b"k"), metadata=bearer("reader"))
    kv.Put(PutRequest(key=b"k"), metadata=bearer("writer"))
    kv.Put(PutRequest(key=b"k"), metadata=(("authorization", "bearer root"),))


def test_every_method_asks_for_its_scope(guarded: Daemon) -> None:
    kv = guarded.kv()
    frame = PipelineRequest(ops=[PipelineOp(id=1, get=GetRequest(key=b"k"))])
    reads: Calls = {
        "Get": lambda m: kv.Get(GetRequest(key=b"k"), metadata=m),
        "Scan": lambda m: kv.Scan(ScanRequest(), metadata=m),
        "Watch": lambda m: next(kv.Watch(WatchRequest(), metadata=m)),
    }
    writes: Calls = {
        "Put": lambda m: kv.Put(PutRequest(key=b"k"), metadata=m),
        "GrantLease": lambda m: kv.GrantLease(GrantLeaseRequest(ttl_seconds=60), metadata=m),
        "Pipeline": lambda m: next(kv.Pipeline(iter([frame]), metadata=m)),
        "KeepAlive": lambda m: list(kv.KeepAlive(iter([]), metadata=m)),
    }
    for calls, mine, theirs in ((reads, "reader", "writer"), (writes, "writer", "reader")):
        for name, call in calls.items():
            call(bearer(mine))
            assert refused(call, bearer(theirs)).reason == "SCOPE_MISSING", name
            assert refused(call, None).reason == "TOKEN_MISSING", name
    assert guarded.metric("bedplate_rpcs_denied_total", method="Put") == 2


def test_probes_need_no_token(guarded: Daemon) -> None:
    status = guarded.health().Check(HealthCheckRequest()).status
    assert status == HealthCheckResponse.SERVING
    assert guarded.get("/readyz")[0] == 200


def test_tokens_are_read_again_on_sighup(guarded: Daemon, tokens: Path) -> None:
    kv = guarded.kv()
    write_tokens(tokens, newcomer="kv:read")
    guarded.signal(signal.SIGHUP)
    guarded.wait_for("tokens_reloaded")
    kv.Get(GetRequest(key=b"k"), metadata=bearer("newcomer"))
    revoked = refused(kv.Get, GetRequest(key=b"k"), metadata=bearer("reader"))
    assert revoked.reason == "TOKEN_UNKNOWN"


def test_open_streams_end_with_the_token_that_opened_them(guarded: Daemon, tokens: Path) -> None:
    kv = guarded.kv()
    asks: Queue[object] = Queue()
    requests: Iterator[Any] = iter(asks.get, None)
    watch = kv.Watch(WatchRequest(prefix=b"k"), metadata=bearer("reader"))
    kept = kv.Watch(WatchRequest(prefix=b"k"), metadata=bearer("root"))
    pipeline = kv.Pipeline(requests, metadata=bearer("writer"))
    assert next(watch).created
    assert next(kept).created
    asks.put(PipelineRequest(ops=[PipelineOp(id=1, put=PutRequest(key=b"k"))]))
    assert next(pipeline).results[0].put.revision
    assert next(kept).events
    write_tokens(tokens, root="kv:*", writer="kv:read")
    guarded.signal(signal.SIGHUP)
    guarded.wait_for("streams_ended", count=2)
    assert next(watch).events  # what was sent before
    revoked, narrowed = refused(next, watch), refused(next, pipeline)
    assert (revoked.code, revoked.reason) == (UNAUTHENTICATED, "TOKEN_UNKNOWN")
    assert (narrowed.code, narrowed.reason) == (DENIED, "SCOPE_MISSING")
    asks.put(None)
    kv.Put(PutRequest(key=b"k2"), metadata=bearer("root"))
    assert next(kept).events
    kept.cancel()


def test_a_revoked_download_that_nobody_reads_ends(start: MakeDaemon, tokens: Path) -> None:
    write_tokens(tokens, root="object:*", gone="object:read")
    daemon = start(f"auth.tokens_file={tokens}")
    objects = ObjectServiceStub(daemon.channel())
    objects.CreateBucket(pb.CreateBucketRequest(bucket="b"), metadata=bearer("root"))

    def messages() -> Iterator[pb.PutObjectRequest]:
        yield pb.PutObjectRequest(header=pb.PutObjectHeader(bucket="b", key="k"))
        for _ in range(32):
            yield pb.PutObjectRequest(chunk=pb.DataChunk(data=bytes(2**20)))

    objects.PutObject(messages(), metadata=bearer("root"))
    request = pb.GetObjectRequest(bucket="b", key="k")
    unread = ObjectServiceStub(daemon.channel()).GetObject(request, metadata=bearer("gone"))
    assert next(unread).HasField("header")
    write_tokens(tokens, root="object:*")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("streams_ended", count=1)
    opened = {"method": "GetObject", "service": "bedplate.object.v1.ObjectService"}
    eventually(lambda: daemon.metric("bedplate_rpcs_in_flight", **opened) == 0)
    with pytest.raises(grpc.RpcError) as failure:
        list(unread)
    # The status, or, where it could not be sent behind the data, the end of the connection.
    assert failure.value.code() in (UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)


def test_a_bad_file_leaves_the_old_tokens_in_force(guarded: Daemon, tokens: Path) -> None:
    kv = guarded.kv()
    for content in ("nonsense\n", ""):
        tokens.write_text(content)
        guarded.signal(signal.SIGHUP)
    guarded.wait_for("tokens_not_reloaded", error=f"auth.tokens_file {tokens} names no token")
    kv.Get(GetRequest(key=b"k"), metadata=bearer("reader"))
    assert refused(kv.Get, GetRequest(key=b"k")).reason == "TOKEN_MISSING"


def test_no_token_is_ever_logged(start: MakeDaemon, tokens: Path) -> None:
    daemon = start(
        f"auth.tokens_file={tokens}", "telemetry.log_calls=true", "telemetry.log_level=debug"
    )
    kv = daemon.kv()
    refused(kv.Get, GetRequest(key=b"k"), metadata=bearer("sesame"))
    kv.Get(GetRequest(key=b"k"), metadata=(*bearer("root"), ("x-request-id", "r1")))
    record = daemon.wait_for("call", request_id="r1")
    assert (record["client"], record["code"]) == ("root", "OK")
    assert daemon.stop() == 0
    assert "sesame" not in daemon.output
    assert "Bearer" not in daemon.output


def test_tokens_allow_listening_beyond_loopback(start: MakeDaemon, tokens: Path) -> None:
    daemon = start(f"auth.tokens_file={tokens}", arguments=("--grpc", "0.0.0.0:0"))
    daemon.grpc = daemon.grpc.replace("0.0.0.0", "127.0.0.1")
    daemon.kv().Get(GetRequest(key=b"k"), metadata=bearer("reader"))


def test_everyone_may_be_let_in_explicitly(start: MakeDaemon) -> None:
    daemon = start("auth.allow_anonymous=true", arguments=("--grpc", "0.0.0.0:0"))
    daemon.grpc = daemon.grpc.replace("0.0.0.0", "127.0.0.1")
    daemon.kv().Get(GetRequest(key=b"k"))


# ---- TLS -----------------------------------------------------------------------------------------


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def certificate(directory: Path, name: str, authority: str | None = None) -> None:
    """name.pem and name.key: an authority of its own, or signed by one, for localhost."""
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    signed = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key") if authority else ()
    extension = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    openssl(
        directory,
        *("req", "-x509", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.pem"),
        *("-days", "2", "-subj", f"/CN={name}", *signed),
        *(extension if authority else ()),
    )


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    certificate(directory, "authority")
    certificate(directory, "stranger")
    certificate(directory, "server", "authority")
    certificate(directory, "client", "authority")
    certificate(directory, "intruder", "stranger")
    return directory


def credentials(pki: Path, client: str | None = None) -> grpc.ChannelCredentials:
    pair: tuple[bytes, ...] = ()
    if client is not None:
        pair = ((pki / f"{client}.key").read_bytes(), (pki / f"{client}.pem").read_bytes())
    return grpc.ssl_channel_credentials((pki / "authority.pem").read_bytes(), *pair)


def get_fails(daemon: Daemon, given: grpc.ChannelCredentials | None) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        daemon.kv(given).Get(GetRequest(key=b"k"), timeout=10)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


def test_tls_serves_those_who_trust_it_and_nobody_in_plain(start: MakeDaemon, pki: Path) -> None:
    daemon = start(f"tls.cert={pki / 'server.pem'}", f"tls.key={pki / 'server.key'}")
    daemon.kv(credentials(pki)).Get(GetRequest(key=b"k"))
    get_fails(daemon, None)


def test_mtls_serves_those_whose_certificate_it_trusts(start: MakeDaemon, pki: Path) -> None:
    daemon = start(
        f"tls.cert={pki / 'server.pem'}",
        f"tls.key={pki / 'server.key'}",
        f"tls.client_ca={pki / 'authority.pem'}",
    )
    daemon.kv(credentials(pki, "client")).Get(GetRequest(key=b"k"))
    get_fails(daemon, credentials(pki))
    get_fails(daemon, credentials(pki, "intruder"))


@pytest.mark.parametrize(
    ("cert", "key", "client_ca", "expected"),
    [
        ("authority.key", "server.key", None, "are no certificate and its unencrypted key"),
        ("server.pem", "client.key", None, "KEY_VALUES_MISMATCH"),
        ("server.pem", "locked.key", None, "the key is encrypted"),
        ("server.pem", "server.key", "server.key", "holds no certificate"),
    ],
)
def test_files_that_make_no_tls_are_named(
    pki: Path, tmp_path: Path, cert: str, key: str, client_ca: str | None, expected: str
) -> None:
    openssl(pki, "ec", "-in", "server.key", "-aes128", "-passout", "pass:x", "-out", "locked.key")
    authority = pki / client_ca if client_ca else None
    with pytest.raises(StartupError, match=expected):
        server_credentials(TLSConfig(cert=pki / cert, key=pki / key, client_ca=authority))
