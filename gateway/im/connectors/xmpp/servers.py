"""Where the server of an account is: as the form says, or as the domain's DNS says (RFC 6120 §3.2, XEP-0368)."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import aiodns

from gateway.im.connectors.xmpp.form import Login

PORT, DIRECT_PORT = 5222, 5223
#: servers that are tried
MOST = 4
DNS_S = 5.0


class Server(NamedTuple):
    host: str
    port: int
    #: TLS from the first byte
    is_direct: bool


async def find_servers(login: Login) -> list[Server]:
    """In the order in which they are to be tried."""
    is_direct = login.tls == "direct"
    if login.host or login.port or login.tls == "never":
        port = login.port or (DIRECT_PORT if is_direct else PORT)
        return [Server(login.host or login.domain, port, is_direct)]
    # the direct ones need a form of their own: STARTTLS must not be hoped for on their ports
    found = await _records(f"_xmpps-client._tcp.{login.domain}" if is_direct else f"_xmpp-client._tcp.{login.domain}")
    servers = [Server(host, port, is_direct) for host, port in found[:MOST]]
    return servers or [Server(login.domain, DIRECT_PORT if is_direct else PORT, is_direct)]


async def _records(name: str) -> list[tuple[str, int]]:
    """Targets by priority, then by weight and chance (RFC 2782)."""
    resolver = aiodns.DNSResolver(timeout=DNS_S, tries=1)
    try:
        answer = await resolver.query_dns(name, "SRV")
    except (aiodns.error.DNSError, UnicodeError, ValueError):
        return []
    finally:
        await resolver.close()
    records: list[Any] = [record.data for record in answer.answer if hasattr(record.data, "port")]
    records.sort(key=lambda record: (record.priority, -random.random() * (record.weight + 1)))  # noqa: S311
    return [(record.target.rstrip("."), record.port) for record in records if record.target.rstrip(".")]
