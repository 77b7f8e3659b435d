"""Chaos tests: what could not be tried on this machine is said aloud at the end of the run."""

from __future__ import annotations

import pytest
from chaos_disks import CAN_CLOSE, CAN_MOUNT


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if CAN_MOUNT:
        return
    closed = "with modes of files" if CAN_CLOSE else "NOT AT ALL, for modes of files do not bind root"
    terminalreporter.section("chaos: not as real as it could be")
    terminalreporter.line(
        "No file system could be mounted here (that takes root and CAP_SYS_ADMIN): a full disk was played with a limit"
        f" on file sizes, a read-only one {closed}."
    )
