"""README taken apart: its fenced blocks, the make targets and the metrics it names."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"

_FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
_TARGET = re.compile(r"\bmake ([a-z][a-z-]*)\b")
_METRIC = re.compile(r"`(bedplate_[a-z_]+)`")
_LINK = re.compile(r"\]\(([^)#:]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, how it is to be run, its text."""

    line: int
    language: str
    mark: str  # "server": the daemon runs; "make": targets of the Makefile; "": by itself
    text: str

    def __str__(self) -> str:
        return f"line-{self.line}"


def blocks(readme: str) -> list[Block]:
    """Every fenced block, in order."""
    found = []
    for match in _FENCE.finditer(readme):
        language, _, mark = match[1].partition(" ")
        line = readme.count("\n", 0, match.start()) + 1
        found.append(Block(line, language, mark, match[2]))
    return found


def targets(readme: str) -> set[str]:
    """Every `make TARGET` in it, also in running text. `make` is also an English verb and a
    package: what follows in prose is no target unless it is set as code.
    """
    code = "\n".join([*re.findall(r"`([^`\n]+)`", readme), *(b.text for b in blocks(readme))])
    return set(_TARGET.findall(code))


def metrics(readme: str) -> set[str]:
    return set(_METRIC.findall(readme))


def links(readme: str) -> set[str]:
    """Every link to a file of the repository."""
    return set(_LINK.findall(readme))
