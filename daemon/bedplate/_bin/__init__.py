"""Native programs that travel with the package."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Become `bedplate-bench`, with this process's arguments; returns only by raising OSError."""
    program = Path(__file__).with_name("bedplate-bench")
    os.execv(program, [str(program), *sys.argv[1:]])
