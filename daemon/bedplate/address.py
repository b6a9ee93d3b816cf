"""HOST:PORT, as configuration writes it: "127.0.0.1:7420", "[::1]:7420", "localhost:0"."""

import ipaddress
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 takes a free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. Of names, only "localhost" is taken to be."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Raises ValueError with the expected form."""
    host, separator, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    well_formed = bare != "" and (bracketed or ":" not in bare)
    if not (separator and well_formed and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise ValueError(f'expected HOST:PORT such as "127.0.0.1:7420", not "{text}"')
    return Address(bare, int(port))


def _coerce(value: object) -> object:
    return parse_address(value) if isinstance(value, str) else value


AddressField = Annotated[
    Address, BeforeValidator(_coerce), PlainSerializer(str, return_type=str, when_used="always")
]
