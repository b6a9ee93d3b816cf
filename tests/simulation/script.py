"""Scenarios as text: commands, and under each the trace that it gives.

    # Prose. Everything that starts with # is for the reader.
    > members 1 2 3
    > campaign 1
      1 pre_candidate in term 1
      1 -> 2  PreVote term 2, last 1@1

A line with > is a command, the indented lines under it are what happens. Nothing happens by itself:
messages wait until they are delivered, batches until they are persisted. `3@2` is entry 3, of term
2. Members' election timeouts are 10 ticks for member 1, 11 for member 2, and so on.

    members 1 2 3 | 4              a cluster: voters | learners; all hold 1@1 and nothing else
    with NAME=VALUE ..             settings of Raft, before `members`
    log 1 TERM: 1 1 2 3            member 1 starts anew: its term, and the term of each entry
    lead 1                         it stands, and all is delivered and persisted; no trace
    campaign 1, tick 1 [N], propose 1 [N] [bytes=B], read 1 NUMBER, transfer 1 2
    add 1 4, promote 1 4, remove 1 2                at leader 1
    deliver 1->2 [N], deliver 2    messages of a link, or all to a member
    repeat 1->2                    the last one delivered comes again
    drop 1->2 [N], drop 2, cut 1->2, cut 1, heal    lost now, or from now on
    persist 1 [N]                  batches become durable; without N, all
    settle                         deliver and persist until all is quiet
    quietly COMMAND                without trace but for who leads and what is committed
    crash 1, restart 1             gone, with all messages; back, less what was not persisted
    reset 1 2                      1 notices that its connection to 2 broke
    compact 1 5, snapshot 1->2 installed|failed
    stepdown 1, fail 1, status [1]

    python -m tests.simulation.script [--rewrite] scripts/*.txt
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bedplate.consensus.membership import Change, ChangeKind, ChangeRefused, Membership
from bedplate.consensus.messages import Message
from bedplate.consensus.ready import Contradiction, HardState, NotLeading, Settings
from tests.simulation.actor import Actor, Log
from tests.simulation.wording import members

ROUNDS_MAX = 200
Link = tuple[int, int]


class Stage:
    """Everything a script plays with. Each command yields the lines of its trace."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.actors: dict[int, Actor] = {}
        self.wires: dict[Link, list[Message]] = {}
        self.cuts: set[Link] = set()
        self.last_delivered: dict[Link, Message] = {}

    def do(self, command: str) -> Iterator[str]:
        name, *words = command.split()
        if name == "quietly":
            for line in self.do(" ".join(words)):
                if line.startswith("! "):
                    yield line
            return
        action: Callable[..., Iterator[str]] | None = getattr(self, f"do_{name}", None)
        if action is None:
            raise ValueError(f"no such command: {command}")
        try:
            yield from action(*words)
        except (ChangeRefused, NotLeading) as refused:
            yield f"refused: {str(refused) or 'not leading'}"
        except Contradiction as contradiction:
            yield f"contradiction: {contradiction}"

    # ---- the cast ------------------------------------------------------------------------------

    def do_with(self, *settings: str) -> Iterator[str]:
        pairs = dict(setting.split("=") for setting in settings)
        self.settings = replace(self.settings, **{name: int(pairs[name]) for name in pairs})
        yield from ()

    def do_members(self, *words: str) -> Iterator[str]:
        at = words.index("|") if "|" in words else len(words)
        voters = frozenset(map(int, words[:at]))
        learners = frozenset(map(int, words[at + 1 :]))
        membership = Membership(voters, learners)
        for member in sorted(membership.members):
            self._cast(member, Log(terms=[1], changes={1: membership}), HardState(1, 0, 1))
        yield from ()

    def _cast(self, member: int, log: Log, hard_state: HardState) -> None:
        self.actors[member] = Actor(member, self.settings, log, hard_state)

    def do_log(self, member: str, term: str, *terms: str) -> Iterator[str]:
        membership = self.actors[int(member)].log.changes[1]
        log = Log(terms=list(map(int, terms)), changes={1: membership})
        self._cast(int(member), log, HardState(int(term.rstrip(":")), 0, 1))
        yield from ()

    def do_crash(self, member: str) -> Iterator[str]:
        actor = self.actors[int(member)]
        actor.up = False
        actor.batches.clear()
        for link in self.wires:
            if int(member) in link:
                self.wires[link].clear()
        yield from ()

    def do_restart(self, member: str) -> Iterator[str]:
        self.actors[int(member)].start()
        yield from ()

    # ---- what happens to one of them -----------------------------------------------------------

    def _react(self, actor: Actor) -> Iterator[str]:
        while actor.up and (ready := actor.raft.ready()) is not None:
            yield from actor.carry_out(ready)
            for message in ready.messages:
                link = (message.source, message.target)
                if link not in self.cuts:
                    self.wires.setdefault(link, []).append(message)

    def do_campaign(self, member: str) -> Iterator[str]:
        self.actors[int(member)].raft.campaign()
        yield from self._react(self.actors[int(member)])

    def do_lead(self, member: str) -> Iterator[str]:
        actor = self.actors[int(member)]
        actor.raft.campaign()
        list(self._react(actor))
        list(self.do_settle())
        yield f"{member} {actor.raft.role.value} in term {actor.raft.term}"

    def do_tick(self, member: str, count: str = "1") -> Iterator[str]:
        for _ in range(int(count)):
            self.actors[int(member)].raft.tick()
            yield from self._react(self.actors[int(member)])

    def do_propose(self, member: str, count: str = "1", size: str = "bytes=10") -> Iterator[str]:
        actor = self.actors[int(member)]
        bytes_ = int(size.removeprefix("bytes="))
        for _ in range(int(count)):
            if actor.raft.room < bytes_:
                yield f"no room for {bytes_} bytes, but for {actor.raft.room}"
                break
            actor.log.append(actor.raft.term)
            actor.raft.propose(actor.log.last, bytes_)
        yield from self._react(actor)

    def _change(self, member: str, kind: ChangeKind, target: str) -> Iterator[str]:
        actor = self.actors[int(member)]
        membership = actor.raft.propose_change(Change(kind, int(target)), 10)
        actor.log.append(actor.raft.term, membership)
        yield f"{member} appends {actor.log.last}@{actor.raft.term}: {members(membership)}"
        if kind is ChangeKind.ADD_LEARNER:
            self._cast(int(target), Log(), HardState())
        yield from self._react(actor)

    def do_add(self, member: str, target: str) -> Iterator[str]:
        yield from self._change(member, ChangeKind.ADD_LEARNER, target)

    def do_promote(self, member: str, target: str) -> Iterator[str]:
        yield from self._change(member, ChangeKind.PROMOTE, target)

    def do_remove(self, member: str, target: str) -> Iterator[str]:
        yield from self._change(member, ChangeKind.REMOVE, target)

    def do_transfer(self, member: str, target: str) -> Iterator[str]:
        self.actors[int(member)].raft.transfer(int(target))
        yield from self._react(self.actors[int(member)])

    def do_read(self, member: str, context: str) -> Iterator[str]:
        self.actors[int(member)].raft.read(int(context))
        yield from self._react(self.actors[int(member)])

    def do_stepdown(self, member: str) -> Iterator[str]:
        self.actors[int(member)].raft.step_down()
        yield from self._react(self.actors[int(member)])

    def do_fail(self, member: str) -> Iterator[str]:
        self.actors[int(member)].raft.fail()
        self.actors[int(member)].batches.clear()
        yield from self._react(self.actors[int(member)])

    def do_reset(self, member: str, peer: str) -> Iterator[str]:
        raft = self.actors[int(member)].raft
        raft.unreachable(int(peer))
        if raft.leader == int(peer):
            raft.leader_unreachable()
        yield from self._react(self.actors[int(member)])

    def do_persist(self, member: str, count: str = "1000") -> Iterator[str]:
        actor = self.actors[int(member)]
        if actor.batches:
            actor.persist(int(count))
            yield from self._react(actor)

    def do_compact(self, member: str, index: str) -> Iterator[str]:
        actor, log = self.actors[int(member)], self.actors[int(member)].log
        actor.raft.compact(int(index))
        through = actor.raft.log.compacted
        log.base_membership = actor.raft.log.membership_at(through)
        term = log.term(through)
        del log.terms[: through - log.base]
        log.base, log.base_term = through, term
        actor.disk = log.copy()
        yield from ()

    def do_snapshot(self, link: str, result: str) -> Iterator[str]:
        """Of everything that the source has committed."""
        source, target = map(int, link.split("->"))
        sender, receiver = self.actors[source], self.actors[target]
        index = sender.raft.commit
        term, membership = sender.log.term(index), sender.raft.log.membership_at(index)
        if result == "installed" and receiver.raft.wants_snapshot(index, term):
            receiver.log = receiver.disk = Log(index, term, membership)
            receiver.batches.clear()
            receiver.raft.restored(index, term, membership)
            yield f"{target} holds a snapshot of {index}@{term}"
            yield from self._react(receiver)
        elif result == "installed":
            yield f"{target} does not want a snapshot of {index}@{term}"
        sender.raft.snapshot_sent(target, installed=result == "installed")
        yield from self._react(sender)

    # ---- the wires -----------------------------------------------------------------------------

    def _links(self, where: str) -> list[Link]:
        if "->" in where:
            source, target = map(int, where.split("->"))
            return [(source, target)]
        return [link for link in sorted(self.wires) if link[1] == int(where)]

    def do_deliver(self, where: str, count: str = "1000") -> Iterator[str]:
        for link in self._links(where):
            messages = self.wires.get(link, [])
            taken = messages[: int(count)]
            del messages[: int(count)]
            actor = self.actors.get(link[1])
            for message in taken:
                self.last_delivered[link] = message
                if actor is not None and actor.up:
                    actor.raft.step(message)
                    yield from self._react(actor)

    def do_repeat(self, where: str) -> Iterator[str]:
        link = self._links(where)[0]
        self.wires.setdefault(link, []).insert(0, self.last_delivered[link])
        yield from self.do_deliver(where, "1")

    def do_drop(self, where: str, count: str = "1000") -> Iterator[str]:
        for link in self._links(where):
            del self.wires.get(link, [])[: int(count)]
        yield from ()

    def do_cut(self, where: str) -> Iterator[str]:
        if "->" in where:
            self.cuts.update(self._links(where))
        else:
            member = int(where)
            for other in self.actors:
                self.cuts |= {(member, other), (other, member)}
        for link in self.cuts:
            self.wires.pop(link, None)
        yield from ()

    def do_heal(self) -> Iterator[str]:
        self.cuts.clear()
        yield from ()

    def do_settle(self) -> Iterator[str]:
        for _ in range(ROUNDS_MAX):
            before = sum(map(len, self.wires.values()))
            before += sum(len(actor.batches) for actor in self.actors.values())
            if before == 0:
                return
            for member in sorted(self.actors):
                yield from self.do_persist(str(member))
            for member in sorted(self.actors):
                yield from self.do_deliver(str(member))
        yield "never quiet"

    def do_status(self, member: str = "") -> Iterator[str]:
        for number, actor in sorted(self.actors.items()):
            if not member or int(member) == number:
                yield from actor.status()


def play(text: str) -> str:
    """The script with the trace that it gives now."""
    stage, lines = Stage(), []
    for line in text.splitlines():
        if line.startswith("> "):
            lines.append(line)
            lines.extend(f"  {said.removeprefix('! ')}" for said in stage.do(line[2:]))
        elif line.startswith("#") or not line.strip():
            lines.append(line.rstrip())
        elif not line.startswith("  "):
            raise ValueError(f"neither command, trace nor comment: {line}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    rewrite = "--rewrite" in arguments
    changed = 0
    for name in arguments:
        if name == "--rewrite":
            continue
        path = Path(name)
        was = path.read_text()
        now = play(was)
        if now != was:
            changed += 1
            if rewrite:
                path.write_text(now)
        if not rewrite:
            print(now, end="")
    return 0 if rewrite else int(changed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
