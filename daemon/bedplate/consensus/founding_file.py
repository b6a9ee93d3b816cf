"""founding.json in the data directory: what a new member must not forget before it has a store.

It is replaced as a whole and synced, so that a crash leaves the old content or the new. See
identity.py for what it is there for.
"""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bedplate.consensus.identity import ID_SIZE, Identity
from bedplate.errors import StartupError

NAME: Final = "founding.json"
QUARANTINE_FILE: Final = "quarantined"  # beside it: why this directory is never served again


@dataclass(frozen=True, slots=True)
class Founding:
    """`incarnation`: of a directory without a store. `founders`: whose directories, by address, the
    cluster was founded with. `identity`: decided, and the store maybe not made yet.
    """

    incarnation: bytes = b""
    founders: Mapping[str, bytes] = field(default_factory=dict)
    identity: Identity | None = None


class FoundingFile:
    """Blocks: call it from a thread, or before the loop has anything to do."""

    def __init__(self, directory: Path) -> None:
        """Raises StartupError for a file that cannot be read."""
        self._path = directory / NAME
        self.content = self._read()

    def begin(self) -> bytes:
        """The incarnation of this new directory, the same however often it is asked for."""
        if not self.content.incarnation:
            self._write(Founding(incarnation=secrets.token_bytes(ID_SIZE)))
        return self.content.incarnation

    def decide(self, identity: Identity, founders: Mapping[str, bytes]) -> None:
        """The store will be made for this identity, and for no other."""
        self._write(replace(self.content, identity=identity, founders=dict(founders)))

    @property
    def exists(self) -> bool:
        """Whether this is the directory of one of several members."""
        return self._path.exists()

    def belongs(self) -> None:
        """One that was alone is one of several now."""
        if not self.exists:
            self._write(self.content)

    def store_made(self) -> None:
        """From now on the store says who we are."""
        if self.content.incarnation or self.content.identity is not None:
            self._write(Founding(founders=self.content.founders))

    def _write(self, content: Founding) -> None:
        partial = self._path.with_name(self._path.name + ".partial")
        try:
            with open(partial, "w", encoding="utf-8") as file:
                json.dump(_as_json(content), file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise StartupError(
                f"cannot write {self._path}: {error.strerror}", reason="DATA_DIR"
            ) from error
        self.content = content

    def _read(self) -> Founding:
        try:
            return _from_json(json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Founding()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StartupError(f"cannot read {self._path}: {error}", reason="DATA_DIR") from error


def _as_json(content: Founding) -> dict[str, Any]:
    identity = content.identity
    return {
        "incarnation": content.incarnation.hex(),
        "founders": {address: other.hex() for address, other in content.founders.items()},
        "identity": identity
        and {
            "cluster_id": identity.cluster_id.hex(),
            "member_id": f"{identity.member_id:016x}",
            "voters": [f"{voter:016x}" for voter in identity.voters],
            "addresses": {f"{member:016x}": at for member, at in identity.addresses.items()},
        },
    }


def _from_json(content: dict[str, Any]) -> Founding:
    identity = content["identity"]
    return Founding(
        incarnation=bytes.fromhex(content["incarnation"]),
        founders={at: bytes.fromhex(other) for at, other in content["founders"].items()},
        identity=identity
        and Identity(
            cluster_id=bytes.fromhex(identity["cluster_id"]),
            member_id=int(identity["member_id"], 16),
            voters=tuple(int(voter, 16) for voter in identity["voters"]),
            addresses={int(member, 16): at for member, at in identity["addresses"].items()},
        ),
    )
