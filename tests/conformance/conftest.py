"""Conformance tests: a device that could not be tried on this machine is named aloud at the end of the run."""

from __future__ import annotations

import shutil

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not (shutil.which("node") or shutil.which("nodejs")):
        terminalreporter.section("conformance: one device of two was not tried")
        terminalreporter.line(
            "Node.js is not here, so docs/frames.md was proved by the Python device only: install nodejs."
        )
