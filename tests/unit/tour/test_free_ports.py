"""Ports for servers of a tour or a test that start later, or are away for a while."""

from __future__ import annotations

import socket
from pathlib import Path

from gateway.tour.nats_servers import HOST, free_ports


def test_a_port_for_later_is_none_that_the_kernel_gives_to_somebody_else() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = free_ports(40)
    assert len(set(ports)) == 40
    assert all(1_024 <= port < lowest for port in ports)
    for port in ports[:3]:
        socket.create_server((HOST, port)).close()


def test_a_port_is_given_once_though_nobody_listens_there_yet() -> None:
    given = [port for _ in range(200) for port in free_ports(10)]
    assert len(set(given)) == len(given)
