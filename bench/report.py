"""The result table, as Markdown for people and as JSON for programs."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.process import Journal
from bench.stats import Spread


@dataclass(frozen=True, slots=True)
class Row:
    """One work. `met` is None where a figure stands for comparison only."""

    work: str
    ours: str
    rival: str = ""
    ratio: str = ""
    goal: str = ""
    met: bool | None = None
    spreads: dict[str, Spread] = field(default_factory=dict)
    profile: str = ""


def failed(work: str, reason: str) -> Row:
    """A work that could not be measured: never silently left out."""
    return Row(work, f"not measured: {reason}", met=False)


def verdict(row: Row) -> str:
    return "" if row.met is None else "yes" if row.met else "**no**"


def table(rows: list[Row]) -> list[str]:
    """Markdown lines."""
    lines = [
        "| work | ours | rival | ratio | goal | met |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = (row.work, row.ours, row.rival, row.ratio, row.goal, verdict(row))
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return lines


@dataclass(slots=True)
class Report:
    """All rows of one run, written again after each: an interrupted run leaves what it has."""

    machine: dict[str, str]
    versions: dict[str, str]
    journal: Journal
    path: Path  # without suffix
    title: str = "Storage benchmarks"
    command: str = "make bench"
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, rows: list[Row], seconds: float) -> None:
        """Append rows and write both files."""
        self.rows += rows
        self.seconds = seconds
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.with_suffix(".md").write_text(self.markdown(), encoding="utf-8")
        content = {
            "machine": self.machine,
            "versions": self.versions,
            "seconds": round(seconds, 1),
            "rows": [asdict(row) for row in self.rows],
            "commands": list(self.journal.commands),
        }
        text = json.dumps(content, indent=1) + "\n"
        self.path.with_suffix(".json").write_text(text, encoding="utf-8")

    def missed(self) -> list[Row]:
        return [row for row in self.rows if row.met is False]

    def markdown(self) -> str:
        """The whole result file."""
        lines = [f"# {self.title}", ""]
        lines += [f"* {name}: {value}" for name, value in self.machine.items()]
        lines += [f"* {name}: {value}" for name, value in self.versions.items()]
        lines += [
            "",
            f"`{self.command}` took {self.seconds:.0f} s. A cell is the median [least-most] of "
            "rounds in turn (ours, rival, ours, rival, ...); a ratio is the median of the rounds' "
            "own ratios, so what both met in the same seconds cancels out. Keys 16 B, values "
            "256 B. Clients, servers and rivals share the machine; all data lies on one file "
            "system.",
            "",
            *table(self.rows),
            "",
        ]
        for row in self.missed():
            lines += [f"## Missed: {row.work}", "", row.profile or "No profile was taken.", ""]
        lines += ["## Command lines", "", "```"]
        lines += [*self.journal.commands, "```", ""]
        return "\n".join(lines)
