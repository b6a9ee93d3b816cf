"""Where members answer, as far as this one knows.

configuration, join  -->  seeds       a guess, until a record says otherwise
their own hello      -->  seeds
records of the store -->  records     what the cluster agreed on
"""

from collections.abc import Collection, Iterable, Mapping

from bedplate.api.cluster.v1.peer_pb2 import MemberRecord


class AddressBook:
    """Addresses and names by member id."""

    def __init__(self, seeds: Mapping[int, str]) -> None:
        self._seeds = dict(seeds)
        self._records: dict[int, MemberRecord] = {}

    def replace(self, records: Iterable[MemberRecord]) -> None:
        """These are all the records there are."""
        self._records = {record.member_id: record for record in records}

    def hint(self, member: int, address: str) -> None:
        """Somebody says so; it counts where there is no record."""
        if address:
            self._seeds[member] = address

    def address(self, member: int) -> str:
        """HOST:PORT; "" when it is not known."""
        record = self._records.get(member)
        return record.address if record is not None else self._seeds.get(member, "")

    def record(self, member: int) -> MemberRecord | None:
        return self._records.get(member)

    def holder(self, name: str) -> int:
        """Whose name it is, as the records have it; 0: nobody's."""
        return next((m for m, record in self._records.items() if name and record.name == name), 0)

    def all(self) -> dict[int, str]:
        """Every address there is."""
        return self._seeds | {member: record.address for member, record in self._records.items()}

    def strangers(self, members: Collection[int]) -> bool:
        """Whether there are records of anybody else."""
        return any(member not in members for member in self._records)
