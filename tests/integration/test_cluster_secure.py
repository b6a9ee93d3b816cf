"""Members that know each other by certificates and a token they share: nobody else is let in."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from bedplate.api.kv.v1 import kv_pb2 as kv
from tests.integration.daemon import eventually
from tests.integration.daemon_cluster import DaemonCluster, bedplate, free_addresses, started
from tests.integration.test_auth_tls import certificate

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The members' authority and a stranger, and one certificate of each."""
    directory = tmp_path_factory.mktemp("pki")
    for name, authority in (
        ("authority", None),
        ("stranger", None),
        ("member", "authority"),
        ("intruder", "stranger"),
    ):
        certificate(directory, name, authority)
    (directory / "token").write_text("a token that all of the members share\n".replace(" ", "-"))
    (directory / "other-token").write_text("the-token-of-another-cluster\n")
    return directory


def settings(pki: Path, name: str = "member", token: str = "token") -> tuple[str, ...]:
    return (
        f"tls.cert={pki / name}.pem",
        f"tls.key={pki / name}.key",
        f"cluster.ca={pki / 'authority.pem'}",
        f"cluster.token_file={pki / token}",
    )


@pytest.fixture(scope="module")
def cluster(pki: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonCluster]:
    credentials = grpc.ssl_channel_credentials(
        (pki / "authority.pem").read_bytes(),
        (pki / "member.key").read_bytes(),
        (pki / "member.pem").read_bytes(),
    )
    directory = tmp_path_factory.mktemp("secure")
    with DaemonCluster(directory, 3, *settings(pki), credentials=credentials) as made:
        yield made


def tool(pki: Path, *arguments: str) -> tuple[int, str, str]:
    certificates = ("--tls-cert", str(pki / "member.pem"), "--tls-key", str(pki / "member.key"))
    return bedplate("--tls-ca", str(pki / "authority.pem"), *certificates, *arguments)


def test_members_with_certificates_are_a_cluster(cluster: DaemonCluster, pki: Path) -> None:
    first, second = cluster.followers()
    first.kv().Put(kv.PutRequest(key=b"k", value=b"v"))
    assert second.kv().Get(kv.GetRequest(key=b"k")).kv.value == b"v"
    code, said, complained = tool(pki, "--server", first.grpc, "cluster", "status")
    assert code == 0, complained
    assert said.count("voter") == 3


def test_a_client_without_a_certificate_is_not_let_in(cluster: DaemonCluster, pki: Path) -> None:
    given = grpc.ssl_channel_credentials((pki / "authority.pem").read_bytes())
    stub = cluster.leader().kv(given)
    with pytest.raises(grpc.RpcError) as failure:
        stub.Get(kv.GetRequest(key=b"k"), timeout=10)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("name", "token"), [("intruder", "token"), ("member", "other-token")], ids=("cert", "token")
)
def test_who_is_no_member_gets_no_identity(
    cluster: DaemonCluster, pki: Path, name: str, token: str
) -> None:
    """Its address was added, and it comes with a stranger's certificate, or another token."""
    leader = cluster.leader()
    (address,) = free_addresses(1)
    code, _, complained = tool(pki, "--server", leader.grpc, "cluster", "add", address)
    assert code == 0, complained
    join = f"cluster.join={leader.address}"
    false = cluster.make(f"false-{token}", address, join)
    try:
        for given in settings(pki, name, token):  # the later one counts
            false._command += ["--set", given]
        false.launch()
        false.wait_for("waiting_for_peers", missing=leader.address)
        if name == "member":
            record = false.wait_for("contact_refuses", peer=leader.address)
            assert record["reason"] == "PEER_UNKNOWN"
    finally:
        false.process.kill()
        false.wait()
    true = cluster.make("true-" + token, address, join)
    try:
        started(true.launch())
        eventually(lambda: true.get("/readyz")[0] == 200)
    finally:
        true.kill()
        tool(pki, "--server", leader.grpc, "cluster", "remove", address)


def test_a_member_whose_token_differs_is_told_to_both_sides(
    cluster: DaemonCluster, pki: Path
) -> None:
    leader, follower = cluster.leader(), cluster.followers()[0]
    right = list(follower._command)
    assert follower.stop() == 0
    follower._command += ["--set", f"cluster.token_file={pki / 'other-token'}"]
    try:
        follower.launch()
        record = follower.wait_for("peer_refuses", address=leader.address)
        assert (record["reason"], record["level"]) == ("PEER_UNKNOWN", "warning")
        leader.wait_for("peer_refuses", address=follower.address)
        follower.kill()
    finally:
        follower._command = right
        started(follower.launch())
    eventually(lambda: follower.get("/readyz")[0] == 200)
