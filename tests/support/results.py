"""A plugin that tells `shopmesh check` what becomes of each test.

A line of JSON for each, {"about", "test", "outcome", "why"}, written to the descriptor that SHOPMESH_RESULTS names.
"""

import json
import os
from typing import Any

import pytest

_OVER = 400
"""So much of a long message is told; the whole is in the log."""


class Results:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._about = dict[str, str]()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            module = item.getparent(pytest.Module)
            assert module is not None
            self._about[item.nodeid] = (module.obj.__doc__ or module.name).partition("\n")[0].rstrip(".")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.passed and report.when != "call":
            return
        # What fails at its end has been told as passed.
        about = self._about[report.nodeid]
        self._tell(about=about, test=_sentence(report.nodeid), outcome=report.outcome, why=_why(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._tell(about=report.nodeid, test="cannot be read", outcome="failed", why=report.longreprtext[-_OVER:])

    def _tell(self, **fields: str) -> None:
        os.write(self._descriptor, json.dumps(fields).encode() + b"\n")


def pytest_configure(config: pytest.Config) -> None:
    if descriptor := os.environ.get("SHOPMESH_RESULTS"):
        config.pluginmanager.register(Results(int(descriptor)))


def _sentence(nodeid: str) -> str:
    """`tests/e2e/test_x.py::test_all_is_well[case]` as it is read."""
    name, bracket, case = nodeid.rpartition("::")[2].partition("[")
    return name.removeprefix("test_").replace("_", " ") + (f" [{case}" if bracket else "")


def _why(report: pytest.TestReport) -> str:
    told: Any = report.longrepr
    if isinstance(told, tuple):
        return str(told[2]).removeprefix("Skipped: ")
    crash = getattr(told, "reprcrash", None)
    return str(crash.message if crash else told or "")[:_OVER]
