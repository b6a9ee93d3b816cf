"""Configuration of the cluster, and whether members may be let in as it stands.

fresh directory   peers or join given    founds with all peers, or joins (identity.py)
                  neither                alone; `bedplate cluster add` makes it a cluster
any other         the directory knows its cluster; peers and join only say whom to ask
"""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, ByteSize, Field

from bedplate.address import Address, parse_address
from bedplate.errors import StartupError
from bedplate.storage.config import MIB, Section, sized

_MEMBERS_MAX = 9


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


def _addresses(value: object) -> object:
    """A list, or its items in one text with commas between them, as the environment has it."""
    if not isinstance(value, str | list | tuple):
        return value
    items = value.split(",") if isinstance(value, str) else value
    return tuple(_address(str(item).strip()) for item in items if str(item).strip())


def _address(text: str) -> str:
    address = parse_address(text)
    if address.port == 0:
        raise ValueError(f'expected a port that stays the same, not "{text}"')
    return str(address)


def _optional_address(value: object) -> object:
    return _address(value) if isinstance(value, str) and value else value


AddressesField = Annotated[tuple[str, ...], BeforeValidator(_addresses)]
OptionalPath = Annotated[Path | None, BeforeValidator(_empty_is_none)]


class ClusterConfig(Section):
    """The members of a cluster, and how they talk to each other."""

    name: str = Field(
        default="bedplate",
        max_length=64,
        description="A name for the cluster. Together with `peers` it makes the cluster's id, so "
        "that clusters on the same machines are told apart.",
    )
    member_name: str = Field(
        default="",
        pattern="^[!-~]{0,64}$",
        description="A name for this member, for people, which `bedplate cluster` takes too. It "
        "counts where it has none yet, and no other member has this one.",
    )
    advertise: Annotated[str, BeforeValidator(_optional_address)] = Field(
        default="",
        description="HOST:PORT at which the other members, and clients, reach this one. Default: "
        "server.grpc.",
    )
    peers: AddressesField = Field(
        default=(),
        max_length=_MEMBERS_MAX,
        description="HOST:PORT of every first member, this one among them, the same list on each: "
        "together they found the cluster when all their directories are new.",
    )
    join: AddressesField = Field(
        default=(),
        max_length=64,
        description="HOST:PORT of members of a cluster that this one shall join: with a new "
        "directory, and after `bedplate cluster add`.",
    )
    ca: OptionalPath = Field(
        default=None,
        description="PEM file of the authorities that sign the members' certificates. With it, "
        "members show each other tls.cert, and every client needs a certificate too.",
    )
    token_file: OptionalPath = Field(
        default=None,
        description="File with a token that all members share. Alone it protects nothing that "
        "leaves the machine: beyond loopback members need `ca`.",
    )
    heartbeat_ms: int = Field(
        default=100, ge=10, le=10_000, description="Milliseconds between a leader's signs of life."
    )
    election_ms: int = Field(
        default=1000,
        ge=100,
        le=100_000,
        description="Milliseconds without a leader after which a member stands for election, at "
        "least; at most twice as long. A killed leader is noticed sooner.",
    )
    leader_wait_ms: int = Field(
        default=3000,
        ge=0,
        le=600_000,
        description="Milliseconds that calls wait for a leader before they fail with NO_LEADER.",
    )
    message_bytes_max: ByteSize = sized(
        4 * MIB, "Bytes of log entries in one message.", MIB, 8 * MIB
    )
    window_bytes_max: ByteSize = sized(
        64 * MIB, "Bytes of log entries on their way to one member.", 8 * MIB
    )

    @property
    def contacts(self) -> tuple[str, ...]:
        """Whom a member with a new directory asks, each once."""
        return tuple(dict.fromkeys((*self.peers, *self.join)))

    @property
    def alone(self) -> bool:
        """Whether a new directory is a cluster of its own."""
        return not self.contacts


class RaftConfig(Section):
    """What a member keeps and sends for those that are behind."""

    retain_bytes: ByteSize = sized(
        64 * MIB,
        "Bytes of applied log entries that are kept in any case, for members that were away.",
        64 << 10,
    )
    retain_bytes_max: ByteSize = sized(
        1024 * MIB,
        "Bytes of applied log entries that a leader keeps at most while a member is catching up, "
        "by the log or by a snapshot. Who needs older ones gets a snapshot. While a member with a "
        "snapshot catches up, writes take longer from half of what this adds to raft.retain_bytes "
        "on: little at first, a second each at the limit.",
        MIB,
    )
    snapshots_max: int = Field(
        default=2,
        ge=1,
        le=4,
        description="Snapshots that a member sends at a time. Each pins history while it is sent.",
    )
    snapshot_stall_seconds: int = Field(
        default=30,
        ge=1,
        le=3600,
        description="Seconds without a word after which either side gives a snapshot up. What came "
        "by then is kept for the next one.",
    )


def check_peers(
    config: ClusterConfig, own_address: str, *, interval_ms: int = 0, fresh: bool = False
) -> None:
    """Refuse what cannot work: a list of peers without this member, times that do not fit, members
    that acknowledge what is not synced, a new directory that asks nobody but itself. Raises
    StartupError.
    """
    others = set(config.contacts) - {own_address}
    if others and interval_ms:
        raise StartupError(
            f'log.durability is "interval:{interval_ms}", but what a member of a cluster '
            'acknowledges must be on its disk: set it to "fsync". To serve alone, take '
            "cluster.peers and cluster.join out of the configuration",
            reason="CLUSTER_CONFIG",
        )
    if fresh and config.join and not config.peers and not others:
        raise StartupError(
            f"cluster.join names nobody but this daemon, {own_address}: name a member of the "
            "cluster that it shall join. To begin a cluster, take cluster.join out",
            reason="CLUSTER_CONFIG",
        )
    if config.peers and own_address not in config.peers:
        raise StartupError(
            f"cluster.peers does not hold this member's own address, {own_address}: set "
            "cluster.advertise to how the others reach it",
            reason="CLUSTER_CONFIG",
        )
    if len(set(config.peers)) < len(config.peers):
        raise StartupError("cluster.peers names an address twice", reason="CLUSTER_CONFIG")
    if config.election_ms < 5 * config.heartbeat_ms:
        raise StartupError(
            "cluster.election_ms must be at least five times cluster.heartbeat_ms",
            reason="CLUSTER_CONFIG",
        )


def peers_refused(
    config: ClusterConfig, listen: Address, *, has_certificate: bool, has_client_ca: bool
) -> str:
    """Why this daemon must not let members in as it is configured; "" if it may.

    Beyond this machine a token would travel readably, and whoever is let in can change everything.
    """
    if config.ca is not None and not has_certificate:
        return "cluster.ca needs tls.cert and tls.key"
    if config.ca is not None and has_client_ca and config.token_file is None:
        return (
            "tls.client_ca lets in clients whose certificates cannot be told from members': set "
            "cluster.token_file too"
        )
    if listen.is_loopback or config.ca is not None:
        return ""
    return f"members would be let in on {listen}: that needs tls.cert, tls.key and cluster.ca"


def read_token(config: ClusterConfig) -> str:
    """The members' token, "" without one. Raises StartupError."""
    if config.token_file is None:
        return ""
    try:
        token = config.token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise StartupError(
            f"cannot read cluster.token_file {config.token_file}: {reason}", reason="CLUSTER_TOKEN"
        ) from error
    if len(token) < 16 or not token.isprintable() or " " in token:
        raise StartupError(
            f"cluster.token_file {config.token_file} holds no token of at least 16 characters",
            reason="CLUSTER_TOKEN",
        )
    return token
