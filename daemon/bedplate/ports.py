"""What layers may ask of each other: Protocols that the composition root fills with real things.

Nothing here imports a layer: a layer names what it needs without knowing who provides it.
"""

from typing import Protocol, Self


class Changes(Protocol):
    """The responses of one watch, as protobuf bytes of bedplate.kv.v1.WatchResponse."""

    def __aiter__(self) -> Self:
        """Itself."""

    async def __anext__(self) -> bytes:
        """The next response, as soon as there is one."""

    async def aclose(self) -> None:
        """End the watch. Must be called."""


class KeyValue(Protocol):
    """The durable, ordered, multi-version map; requests and replies are protobuf bytes of
    bedplate.kv.v1. All raise BedplateError.
    """

    async def call(self, method: int, keyspace: int, request: bytes) -> bytes:
        """One request; its reply. A cancelled call may or may not take effect."""

    def watch(self, keyspace: int, request: bytes) -> Changes:
        """The changes of a range, from a revision on."""
