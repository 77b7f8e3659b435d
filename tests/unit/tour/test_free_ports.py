"""Ports for servers of a tour or a test that start later, or are away for a while."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from gateway.tour.nats_servers import HOST, free_ports

#: another process that draws the ports of its command line first
DRAW = """
import sys
from gateway.tour import nats_servers
least, *wanted = map(int, sys.argv[1:])
draws = iter([port - least for port in wanted] + list(range(20_000)))
nats_servers.secrets.randbelow = lambda most: next(draws)
print(*nats_servers.free_ports(5))
"""


def test_a_port_for_later_is_none_that_the_kernel_gives_to_somebody_else() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = free_ports(40)
    assert len(set(ports)) == 40
    assert all(1_024 <= port < lowest for port in ports)
    for port in ports[:3]:
        socket.create_server((HOST, port)).close()


def test_a_port_is_given_once_though_nobody_listens_there_yet() -> None:
    given = [port for _ in range(20) for port in free_ports(10)]
    assert len(set(given)) == len(given)


def test_a_port_is_given_once_though_another_process_draws_it_too() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    mine = free_ports(40)
    asked = [sys.executable, "-c", DRAW, *map(str, [max(2_000, lowest - 20_000), *mine])]
    theirs = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=60).stdout.split()
    assert len(theirs) == 5
    assert not set(map(int, theirs)) & set(mine)
