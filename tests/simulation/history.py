"""What clients did and saw, and what may be said about it.

A key is a register that counts: a write returns the version it made, a read the value and its
version. So a write that is lost, or done twice, shows in the next version anybody sees. A delete
returns whether there was anything, and the next write makes version 1.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from tests.simulation.linearizable import NEVER, Span, linearizable
from tests.simulation.machine import Answer, Read, Write


class Violation(Exception):
    """Something that must never be."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An operation and its answer; None: unknown."""

    operation: Write | Read
    answer: Answer | None


Register = tuple[int, int]  # value, version


def step(register: Register, seen: Seen) -> Register | None:
    """The register after an operation; None if its answer is not what this register gives."""
    operation, answer = seen.operation, seen.answer
    if isinstance(operation, Read):
        assert answer is not None
        return register if register == (answer.value, answer.version) else None
    if operation.value == 0:
        deleted = int(register != (0, 0))
        return (0, 0) if answer is None or answer.version == deleted else None
    version = register[1] + 1
    if answer is not None and (answer.value, answer.version) != (operation.value, version):
        return None
    return operation.value, version


@dataclass(slots=True)
class History:
    """Everything that returned, and every write that may have been done."""

    spans: dict[str, list[Span[Seen]]] = field(default_factory=lambda: defaultdict(list))
    answered: int = 0
    unknown: int = 0
    _newest: int = 0  # the highest revision that any answer showed

    @property
    def revision(self) -> int:
        """What every operation that is called from now on must see."""
        return self._newest

    def returned(
        self, called: int, now: int, operation: Write | Read, answer: Answer, newest: int
    ) -> None:
        """`newest`: history.revision when it was called. Raises Violation."""
        self.answered += 1
        self.spans[operation.key].append(Span(called, now, Seen(operation, answer)))
        changes = isinstance(operation, Write) and (operation.value != 0 or answer.version > 0)
        least = newest + 1 if changes else newest
        if answer.revision < least:
            raise Violation(f"{operation} has revision {answer.revision}; {newest} was seen before")
        self._newest = max(self._newest, answer.revision)

    def unanswered(self, called: int, write: Write) -> None:
        self.unknown += 1
        self.spans[write.key].append(Span(called, NEVER, Seen(write, None)))

    def check(self) -> None:
        """Raises Violation, or Undecided."""
        for key, spans in self.spans.items():
            if not linearizable(spans, (0, 0), step):
                raise Violation(f"the history of {key} is not linearizable:\n{_table(spans)}")


def _table(spans: list[Span[Seen]]) -> str:
    lines = []
    for span in sorted(spans, key=lambda span: span.called):
        end = "never" if span.returned == NEVER else f"{span.returned / 1e6:.6f}"
        lines.append(f"  {span.called / 1e6:.6f} .. {end}  {span.operation}")
    return "\n".join(lines)
