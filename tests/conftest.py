"""What every test gets.

* With BEDPLATE_TEST_STRICT=1 no test may be skipped or expected to fail. Tests marked `gpu` are
  deselected by pyproject.toml unless `-m` asks for them, which is no skip.
* With `-n 3 --dist loadfile` three workers share the run as tests/schedule.py says.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.schedule import Schedule

STRICT = os.environ.get("BEDPLATE_TEST_STRICT") == "1"


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell starts what is in its background; programs under test would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Schedule | None:
    if config.getoption("dist") != "loadfile":
        return None
    from tests.schedule import Schedule

    return Schedule(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if STRICT and (report.skipped or hasattr(report, "wasxfail")):
        fail(report, getattr(report, "wasxfail", None))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if STRICT and report.skipped:
        fail(report, None)
    return report


def fail(report: pytest.TestReport | pytest.CollectReport, expected: str | None) -> None:
    """Turn a report into a failure that still tells why the test was excused."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else expected
    report.outcome = "failed"
    report.longrepr = f"not allowed with BEDPLATE_TEST_STRICT=1: {reason}"
    if hasattr(report, "wasxfail"):
        del report.wasxfail
