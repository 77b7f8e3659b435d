"""Chaos tests: what could not be tried on this machine is said aloud at the end of the run."""

from __future__ import annotations

import pytest
from chaos_disks import CAN_MOUNT


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not CAN_MOUNT:
        terminalreporter.section("chaos: not as real as it could be")
        terminalreporter.line(
            "No root, so no file system could be mounted: a full disk was played with a limit on file sizes, a"
            " read-only one with modes of files. Run as root for the real thing."
        )
