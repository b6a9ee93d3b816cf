"""What every test gets: with BEDPLATE_TEST_STRICT=1 no test may be skipped or expected to fail.

Tests marked `gpu` are deselected by pyproject.toml unless `-m` asks for them, which is no skip.
"""

import os
from collections.abc import Generator

import pytest

STRICT = os.environ.get("BEDPLATE_TEST_STRICT") == "1"


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
