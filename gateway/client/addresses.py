"""Which gateway a device connects to next: those it was given, in an order of its own, or the one that GOAWAY named;
touches no socket and no clock.

A named gateway is believed only where whoever named it could be: after a login, or inside TLS with a checked
certificate. It is tried once where it can not be reached, kept for an hour at most, never over a restart, and after
LEADS_MAX in a row without a good link the device goes back to the addresses it was given. The name in the
certificate stays that of the given address: nobody is trusted because of a GOAWAY.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.model.device_address import DeviceAddress

#: a named gateway is not tried any more after this
LEAD_S = 3_600.0
#: named one after the other, with no good link between
LEADS_MAX = 3
_HOST = re.compile(r"[0-9A-Za-z_.:%-]+")


class Stop(NamedTuple):
    """Where to connect, and the name its certificate must have inside TLS."""

    host: str
    port: int
    name: str


def parse_node(text: str) -> tuple[str, int]:
    """`host:port`, IPv6 in brackets; ValueError."""
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not _HOST.fullmatch(host) or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError("a gateway is given as host:port, IPv6 in brackets")
    return host, int(port)


class Addresses:
    def __init__(self, given: Sequence[tuple[str, int]], random: Callable[[], float]) -> None:
        """At least one; they are shuffled, so that a fleet of devices spreads over a fleet of gateways."""
        nodes = list(dict.fromkeys(given))
        if len(nodes) > 1:
            nodes.sort(key=lambda _: random())
        self._stops = [Stop(host, port, host) for host, port in nodes]
        self._at = 0
        self._failed = 0  # tries in a row that came to no login
        self._lead: Stop | None = None
        self._lead_until = 0.0
        self._leads = 0
        self._new_lead = False

    def next(self, now: float) -> Stop:
        if self._lead is not None and now >= self._lead_until:
            self._lead = None
        self._new_lead = False
        return self._lead or self._stops[self._at]

    def sent_to(self, address: DeviceAddress | None, now: float, *, tls: bool, believed: bool) -> bool:
        """GOAWAY named another gateway; is it followed?"""
        port = address.port_for(tls=tls) if address is not None else 0
        if address is None or not port or not believed or self._leads >= LEADS_MAX or not _HOST.fullmatch(address.host):
            return False
        name = (self._lead or self._stops[self._at]).name
        self._lead = Stop(address.host, port, name)
        self._lead_until = now + LEAD_S
        self._leads += 1
        self._new_lead = True
        return True

    def ended(self, *, logged_in: bool, good: bool, sent_away: bool = False) -> bool:
        """A link ended, or none came about. True: the next try is another gateway of this round, so the wait need not
        grow."""
        if good:
            self._leads = 0
        if logged_in:
            self._failed = 0
        if self._new_lead or (logged_in and not sent_away):
            return False
        if self._lead is not None:
            self._lead = None
            return True
        self._failed += not logged_in
        self._at = (self._at + 1) % len(self._stops)
        return not logged_in and self._failed % len(self._stops) != 0
