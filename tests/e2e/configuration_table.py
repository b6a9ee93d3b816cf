"""The configuration table of README, from the code that reads the configuration.

`python -m tests.e2e.configuration_table` writes it into README.md.
"""

from collections.abc import Iterator
from pathlib import Path

from bedplate.server.config import reference

README = Path(__file__).parents[2] / "README.md"
_BEGIN = "<!-- configuration: begin, written by `python -m tests.e2e.configuration_table` -->\n"
_END = "<!-- configuration: end -->\n"


def table() -> str:
    """Every key with its default and meaning, as Markdown."""
    return "\n".join(("| key | default | meaning |", "| --- | --- | --- |", *_rows(), ""))


def written(readme: str) -> str:
    """The table that a README holds. Raises ValueError without its marks."""
    return readme[readme.index(_BEGIN) + len(_BEGIN) : readme.index(_END)]


def rewritten(readme: str) -> str:
    """The README with the table as it should be."""
    return readme.replace(_BEGIN + written(readme) + _END, _BEGIN + table() + _END)


def _rows() -> Iterator[str]:
    """From the printed reference: comments above `[section]` and `#key = default`."""
    section, meaning = "", ""
    for line in reference().splitlines():
        if line.startswith("# "):
            meaning = line.removeprefix("# ").replace("|", "\\|")
        elif line.startswith("["):
            section = line.strip("[]")
            if section == "failpoints":
                yield f"| `{section}.*` | | {meaning} |"
        elif line.startswith("#"):
            key, _, default = line.removeprefix("#").partition(" = ")
            yield f"| `{section}.{key}` | `{default}` | {meaning} |"


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text()))
