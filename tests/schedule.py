"""Which worker runs what, when several share the run: `pytest -n 3 --dist loadfile`.

A file's tests go to one worker in their order, since they share the daemon of the file and may
build on each other. A file named in SPREAD has tests that share nothing, and many or long ones:
each goes to whoever is free. Units go out in the order of collection, so that the long ones, which
are in tests/e2e and tests/faults, come first.

(A group by xdist's own mark, `--dist loadgroup`, is lost silently under pytest 9.2.)
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

SPREAD = frozenset(
    {
        "tests/e2e/test_demo.py",
        "tests/faults/test_failpoints.py",
        "tests/faults/test_full_disk.py",
        "tests/faults/test_kill_loop.py",
        "tests/integration/test_daemon_lifecycle.py",
        "tests/integration/test_cluster.py",
        "tests/mutations/test_mutations.py",
        "tests/nemesis/test_checker.py",
        "tests/nemesis/test_nemesis.py",
        "tests/simulation/test_broken_engine.py",
        "tests/simulation/test_broken_rules.py",
        "tests/simulation/test_engine.py",
        "tests/simulation/test_simulation.py",
    }
)


class Schedule(LoadFileScheduling):  # type: ignore[misc]
    """As loadfile, but files in SPREAD test by test."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file in SPREAD else file
