"""Chaos tests: what could not be tried on this machine is said aloud at the end of the run."""

from __future__ import annotations

import pytest
from chaos_disks import CAN_CLOSE, CAN_MOUNT
from fleet_faults import CAN_SKEW
from fleet_network import CAN_MAKE_NETWORKS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    said = []
    if not CAN_MOUNT:
        closed = "with modes of files" if CAN_CLOSE else "NOT AT ALL, for modes of files do not bind root"
        said.append(
            "No file system could be mounted here (that takes root and CAP_SYS_ADMIN): a full disk was played with a"
            f" limit on file sizes, a read-only one {closed}, and a fleet's disks did not run full at all."
        )
    if not CAN_MAKE_NETWORKS:
        said.append(
            "No networks could be made here (that takes root, CAP_NET_ADMIN and iproute2): a fleet's gateways were cut"
            " from NATS by a proxy between, and NATS servers from each other NOT AT ALL."
        )
    if not CAN_SKEW:
        said.append("No clock could be set wrong here (apt install faketime).")
    if said:
        terminalreporter.section("chaos: not as real as it could be")
    for line in said:
        terminalreporter.line(line)
