"""The most that a number of the contract holds: an option beyond it is refused, not sent."""

from typing import Final

INT64_MAX: Final = 2**63 - 1
UINT64_MAX: Final = 2**64 - 1
