"""Where devices find a node, as text: `host:port`, `host:port,tls_port` or `host:,tls_port`; must hold no I/O."""

from __future__ import annotations

import re
from typing import NamedTuple

#: longest name of a host (RFC 1035)
HOST_CHARS = 253
_TEXT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z_.-]+)):([0-9]{0,5})(?:,([0-9]{1,5}))?")


class DeviceAddress(NamedTuple):
    host: str
    port: int = 0  # 0: no plain port
    tls_port: int = 0  # 0: none inside TLS

    def port_for(self, *, tls: bool) -> int:
        return self.tls_port if tls else self.port

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        plain = str(self.port) if self.port else ""
        return f"{host}:{plain},{self.tls_port}" if self.tls_port else f"{host}:{plain}"


def parse_device_address(text: str) -> DeviceAddress:
    """ValueError, which says what is expected."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError("expected host:port, host:port,tls_port or host:,tls_port; IPv6 in brackets")
    host = found[1] or found[2]
    port, tls_port = int(found[3] or 0), int(found[4] or 0)
    if len(host) > HOST_CHARS or max(port, tls_port) > 65_535 or not (port or tls_port):
        raise ValueError(f"a host has at most {HOST_CHARS} characters, and a port is 1 to 65535")
    return DeviceAddress(host, port, tls_port)
