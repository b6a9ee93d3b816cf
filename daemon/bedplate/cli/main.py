"""`bedplate`: the entry. What takes long is imported inside, where Ctrl-C ends it quietly."""

import sys
from collections.abc import Sequence

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        from bedplate.cli.app import run

        return run(arguments)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
