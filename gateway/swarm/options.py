"""What a swarm is told: where to, how many threads, how its devices behave; checked before anything is opened."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import Literal

from gateway.client.addresses import parse_node
from gateway.model.errors import ConfigError

#: connections from one source address; past some 14,000 the kernel's search for a free port becomes slow
DEVICES_A_SOURCE = 14_000
#: gateways that devices take in turn
NODES_MOST = 64
#: source addresses 127.a.b.1
SOURCES = 254 * 254


@dataclass(slots=True, kw_only=True)
class Options:
    host: str = "127.0.0.1"
    port: int = 7400
    #: more gateways of the fleet, host:port; devices take them in turn
    nodes: tuple[str, ...] = ()
    protocol: Literal["heliograph", "mqtt"] = "heliograph"
    app: str = "demo"
    versions: int = 20
    threads: int = 0
    heartbeat_s: float = 60.0
    ack: str = "all"
    key: str = ""
    first_source: int = 0
    devices_a_source: int = DEVICES_A_SOURCE
    allow_remote: bool = False

    @property
    def is_mqtt(self) -> bool:
        return self.protocol == "mqtt"

    @property
    def thread_count(self) -> int:
        return self.threads or max(1, (os.cpu_count() or 1) // 2)

    def address(self) -> int:
        """The host as a number; ConfigError where it has none or is not on loopback."""
        return self._resolve(self.host, "host")

    def gateways(self) -> list[tuple[int, int]]:
        """Addresses as numbers and ports, the first that of host and port; ConfigError as for `address`."""
        found = [(self.address(), self.port)]
        for node in self.nodes:
            try:
                host, port = parse_node(node)
            except ValueError as error:
                raise ConfigError(f"--node {node}: {error}", field="node") from None
            found.append((self._resolve(host, "node"), port))
        if len(found) > NODES_MOST:
            raise ConfigError(f"devices take at most {NODES_MOST} gateways in turn", field="node")
        return found

    def _resolve(self, host: str, option: str) -> int:
        try:
            address = ipaddress.IPv4Address(socket.gethostbyname(host))
        except OSError as error:
            raise ConfigError(f"--{option} {host}: {error}", field=option) from None
        if not address.is_loopback and not self.allow_remote:
            raise ConfigError(
                f"--{option} {host} is not on loopback; this is a load test: say --allow-remote where that is meant",
                field=option,
            )
        return int(address)

    def sources(self) -> tuple[int, int]:
        """(first source address, connections from each); 0 a source: the kernel chooses, as for a remote host."""
        if not ipaddress.IPv4Address(self.address()).is_loopback:
            return 0, 0
        if not 1 <= self.devices_a_source <= 28_000:
            raise ConfigError("--devices-a-source takes 1 to 28,000", field="devices_a_source")
        if not 0 <= self.first_source < SOURCES:
            raise ConfigError(f"--first-source takes 0 to {SOURCES - 1}", field="first_source")
        return self.first_source, self.devices_a_source

    def acks(self) -> tuple[float, int]:
        """(share of notifications that are acked, ms before each ack)"""
        if self.ack in ("all", "none"):
            return float(self.ack == "all"), 0
        kind, _, value = self.ack.rpartition(":")
        try:
            if kind == "late" and 0 < int(value) <= 600_000:
                return 1.0, int(value)
            if kind in ("", "share") and 0 <= float(value) <= 1:
                return float(value), 0
        except ValueError:
            pass
        raise ConfigError("--ack takes all, none, a share such as 0.9, or late:MS", field="ack")
