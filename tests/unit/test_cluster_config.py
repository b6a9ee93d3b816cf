"""[cluster]: what it accepts, and when members may be let in."""

from pathlib import Path

import pytest

from bedplate.address import Address
from bedplate.consensus.config import ClusterConfig, check_peers, peers_refused, read_token
from bedplate.errors import StartupError
from bedplate.server.config import ConfigError, load

LOOPBACK, EVERYWHERE = Address("127.0.0.1", 7420), Address("0.0.0.0", 7420)


def test_peers_are_a_list_or_a_text_with_commas(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('[cluster]\npeers = ["a:1", "b:2"]\n')
    assert load(file, {}).cluster.peers == ("a:1", "b:2")
    assert load(None, {"cluster": {"peers": "a:1, b:2"}}).cluster.peers == ("a:1", "b:2")
    assert load(None, {"cluster": {"peers": ""}}).cluster.alone


@pytest.mark.parametrize("text", ["a", "a:0", "a:b", "a:1,b", ",".join(["a:1"] * 10)])
def test_an_address_that_nobody_can_reach_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        load(None, {"cluster": {"peers": text}})


def test_a_list_of_peers_holds_the_member_itself_and_each_once() -> None:
    check_peers(ClusterConfig(peers=("a:1", "b:1")), "a:1")
    for peers in (("a:1", "b:1"), ("c:1", "c:1")):
        with pytest.raises(StartupError):
            check_peers(ClusterConfig(peers=peers), "c:1")


def test_members_sync_what_they_acknowledge() -> None:
    for config in (ClusterConfig(peers=("a:1", "b:1")), ClusterConfig(join=("b:1",))):
        with pytest.raises(StartupError, match=r"log\.durability"):
            check_peers(config, "a:1", interval_ms=10)
        check_peers(config, "a:1", interval_ms=0)
    for alone in (ClusterConfig(), ClusterConfig(peers=("a:1",)), ClusterConfig(join=("a:1",))):
        check_peers(alone, "a:1", interval_ms=10)


def test_a_new_directory_joins_somebody_else() -> None:
    itself = ClusterConfig(join=("a:1",))
    with pytest.raises(StartupError, match=r"cluster\.join names nobody but this daemon"):
        check_peers(itself, "a:1", fresh=True)
    check_peers(itself, "a:1", fresh=False)  # it knows its cluster
    check_peers(ClusterConfig(join=("a:1", "b:1")), "a:1", fresh=True)
    check_peers(ClusterConfig(join=("a:1",), peers=("a:1",)), "a:1", fresh=True)


def test_an_election_takes_longer_than_a_heartbeat() -> None:
    with pytest.raises(StartupError):
        check_peers(ClusterConfig(heartbeat_ms=100, election_ms=400), "a:1")


@pytest.mark.parametrize(
    ("listen", "ca", "certificate", "client_ca", "token", "allowed"),
    [
        (LOOPBACK, False, False, False, False, True),
        (LOOPBACK, False, False, False, True, True),
        (EVERYWHERE, False, False, False, True, False),
        (EVERYWHERE, False, True, False, True, False),
        (EVERYWHERE, True, False, False, True, False),
        (EVERYWHERE, True, True, False, False, True),
        (EVERYWHERE, True, True, True, False, False),
        (EVERYWHERE, True, True, True, True, True),
    ],
)
def test_beyond_this_machine_members_need_certificates(
    listen: Address, ca: bool, certificate: bool, client_ca: bool, token: bool, allowed: bool
) -> None:
    config = ClusterConfig(
        ca=Path("ca.pem") if ca else None, token_file=Path("token") if token else None
    )
    why = peers_refused(config, listen, has_certificate=certificate, has_client_ca=client_ca)
    assert (why == "") is allowed


def test_a_token_is_long_and_on_one_line(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    assert read_token(ClusterConfig(token_file=file)) == "0123456789abcdef"
    for text in ("", "short", "two words of some length", "0123456789abcde\xe9"):
        file.write_text(text, encoding="latin-1")
        with pytest.raises(StartupError):
            read_token(ClusterConfig(token_file=file))
    assert read_token(ClusterConfig()) == ""
