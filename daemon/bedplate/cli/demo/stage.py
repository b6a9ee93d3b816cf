"""What every part of the demo works with, and what it gives back."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bedplate.cli.demo.daemon import DemoDaemon
from bedplate.cli.demo.tree import Tree

_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for."""

    tree: Tree
    seed: int


@dataclass(slots=True)
class Report:
    """What a part has to say. An empty `losses` is success."""

    title: str
    lines: list[tuple[str, str]] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)

    def add(self, name: str, text: str) -> None:
        self.lines.append((name, text))


@dataclass(frozen=True, slots=True)
class Stage:
    """A daemon that runs on a scratch directory, and a console."""

    wishes: Wishes
    daemon: DemoDaemon
    console: Console
    random: random.Random

    def channel(self) -> grpc.aio.Channel:
        """A new connection to the daemon where it is now."""
        return grpc.aio.insecure_channel(self.daemon.address, _OPTIONS)

    @property
    def scratch(self) -> Path:
        """A directory that is removed when the demo ends."""
        return self.daemon.directory.parent

    def progress(self) -> Progress:
        """Bars on a terminal, nothing elsewhere."""
        return Progress(
            TextColumn("{task.description:28}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def say(self, text: str) -> None:
        """One line of the story."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


Part = Callable[[Stage], Awaitable[Report]]
