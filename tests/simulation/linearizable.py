"""Whether a history is linearizable: could its operations have happened one at a time, each at one
moment between its call and its return?

The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's memory of
where it has been ("Testing for linearizability", 2017), as Porcupine does it: calls and returns are
a list in time; take a call that the model allows, out of those before the first return, and go on
with the rest; at a return whose call was not taken, go back.

An operation of unknown outcome returns at the end of time, so it may be taken anywhere after its
call, or last, when nothing can see it any more. Objects (keys) are checked one by one: a history is
linearizable when each of its objects' histories is (Herlihy and Wing, 1990, "locality").
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

O = TypeVar("O")  # noqa: E741
S = TypeVar("S", bound=Hashable)

NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Span(Generic[O]):
    """An operation, its call and its return (NEVER: its outcome is unknown)."""

    called: int
    returned: int
    operation: O


class Undecided(Exception):
    """The search took too long."""


class _Node:
    """A call, or a return, in the list of those not taken yet."""

    __slots__ = ("following", "match", "number", "previous")

    def __init__(self, number: int) -> None:
        self.number = number  # of its operation
        self.match: _Node | None = None  # of a call: its return
        self.previous: _Node = self
        self.following: _Node = self

    def take_out(self) -> None:
        self.previous.following = self.following
        self.following.previous = self.previous

    def put_back(self) -> None:
        self.previous.following = self
        self.following.previous = self


def linearizable(
    history: Sequence[Span[O]],
    start: S,
    step: Callable[[S, O], S | None],
    *,
    steps_max: int = 1_000_000,
) -> bool:
    """`step(state, operation)` is the next state, or None where the operation's result is not what
    that state gives. Raises Undecided.
    """
    head = _in_time(history)
    state, taken = start, 0
    seen: set[tuple[int, S]] = set()
    path: list[tuple[_Node, S]] = []
    node = head.following
    for _ in range(steps_max):
        if head.following is head:
            return True
        if node.match is not None:
            following = step(state, history[node.number].operation)
            place = (taken | 1 << node.number, following)
            if following is not None and place not in seen:
                seen.add(place)  # type: ignore[arg-type]
                path.append((node, state))
                taken, state = place[0], following
                node.match.take_out()
                node.take_out()
                node = head.following
            else:
                node = node.following
        else:
            if not path:
                return False
            node, state = path.pop()
            assert node.match is not None
            taken &= ~(1 << node.number)
            node.put_back()
            node.match.put_back()
            node = node.following
    raise Undecided


def _in_time(history: Sequence[Span[O]]) -> _Node:
    """The list of calls and returns, behind a head. At one moment calls come first."""
    head = _Node(-1)
    events: list[tuple[int, int, _Node]] = []
    for number, span in enumerate(history):
        call, return_ = _Node(number), _Node(number)
        call.match = return_
        events.append((span.called, 0, call))
        events.append((span.returned, 1, return_))
    events.sort(key=lambda event: event[:2])
    last = head
    for _, _, node in events:
        last.following, node.previous = node, last
        last = node
    last.following, head.previous = head, last
    return head
