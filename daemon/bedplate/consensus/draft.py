"""The next Ready while it is being made: every part of Raft adds to it, ready() takes it away.

send(message) ---> does it promise what is not durable yet?
                     |no                   |yes
                     |               [ Promises ]
                     |                     |  persisted(number)
                     v                     v
                 to another member?  ---> messages
                     |to itself
                     v
                 received at once
"""

from collections.abc import Callable

from bedplate.consensus.messages import Append, Message
from bedplate.consensus.promises import Promises
from bedplate.consensus.ready import HardState, NoOp, ReadState, Ready, Role


class Draft:
    """What one member has to do and has not handed out."""

    def __init__(self, member: int, last: int, receive: Callable[[Message], None]) -> None:
        """The log is durable through `last`; `receive` takes what the member tells itself."""
        self.entries: list[Append | NoOp] = []
        self.messages: list[Message] = []
        self.reads: list[ReadState] = []
        self.snapshots: list[int] = []
        self.promises = Promises(last)
        self._member = member
        self._receive = receive

    @property
    def empty(self) -> bool:
        work = self.messages or self.entries or self.reads or self.snapshots
        return not (work or self.promises.changed)

    def send(self, message: Message) -> None:
        """Send, now or when what the message promises is durable."""
        if not self.promises.hold(message):
            self._dispatch(message)

    def answer(self, context: int, index: int | None) -> None:
        """A read of this member has its index, or has to be asked anew."""
        self.reads.append(ReadState(context, index))

    def persisted(self, number: int) -> None:
        """Everything through batch `number` is durable."""
        for message in self.promises.kept(number):
            self._dispatch(message)

    def take(self, hard_state: HardState, last: int, role: Role, leader: int) -> Ready:
        """It becomes a Ready, for a log that ends at `last`, and begins anew."""
        ready = Ready(
            number=self.promises.batch(last),
            hard_state=hard_state,
            entries=tuple(self.entries),
            messages=tuple(self.messages),
            commit=hard_state.commit,
            reads=tuple(self.reads),
            snapshots=tuple(self.snapshots),
            role=role,
            leader=leader,
        )
        self.entries.clear()
        self.messages.clear()
        self.reads.clear()
        self.snapshots.clear()
        return ready

    def _dispatch(self, message: Message) -> None:
        if message.target == self._member:
            self._receive(message)
        else:
            self.messages.append(message)
