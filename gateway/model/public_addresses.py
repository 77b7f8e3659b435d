"""Which addresses are of the public Internet, however they are written or wrapped, and which are this machine's alone;
must never call one public that a network of its own may lead to."""

from __future__ import annotations

import ipaddress

#: IPv6 with an IPv4 address inside that a translator of the network connects to (RFC 6052 §2.1, RFC 8215)
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
#: for documentation (RFC 9637), relays long gone (RFC 7526) and the networks' own protocols (RFC 6890), which this
#: Python may still call global
_NOT_GLOBAL = tuple(map(ipaddress.ip_network, ("3fff::/20", "192.88.99.0/24", "192.0.0.0/24")))


def is_public(text: str) -> bool:
    """Is it an address of the public Internet, however it is written or wrapped?"""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _NAT64):
            return is_public(str(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)))
        for inner in (address.ipv4_mapped, address.sixtofour):
            if inner is not None:
                return is_public(str(inner))
        if address.teredo is not None or address.is_site_local:
            return False
    if any(address in network for network in _NOT_GLOBAL if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


def is_loopback(host: str) -> bool:
    """Is what this host is asked asked of this machine alone? Names too (RFC 6761 §6.3)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
