"""HOST:PORT as configuration writes it."""

import pytest

from bedplate.address import Address, parse_address


@pytest.mark.parametrize("text", ["127.0.0.1:7420", "[::1]:7420", "localhost:0", "0.0.0.0:65535"])
def test_an_address_reads_back_as_it_is_written(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "7420", ":7420", "host:", "host:x", "host:65536", "host:-1", "::1:7420", "[]:1", "[::1]"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, loopback: bool) -> None:
    assert Address(host, 1).is_loopback is loopback
