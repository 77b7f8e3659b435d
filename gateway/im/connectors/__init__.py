"""Connectors, a folder for each network: thin adapters that never retry, store or log. Their libraries are the extra
`heliograph[im]`, and a network is imported only where it is configured."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from gateway.model.errors import ConfigError
from gateway.model.im import Connector

NETWORKS = ("xmpp", "matrix", "irc", "mail", "bluesky", "mastodon")


class ConnectorSettings(NamedTuple):
    """What all connectors are built with."""

    #: servers on loopback and in private networks may be named (closed networks, tests)
    private_hosts: bool = False
    #: one request to a network has to be over by then
    request_s: float = 30.0
    #: largest text and file that are taken from a network, bytes; a larger text is cut, a larger file is left there
    text_bytes: int = 32_768
    media_bytes: int = 104_857_600
    #: events of one account that wait to be read; past it nothing more is read from its network
    events: int = 256
    #: IRC: lines at once, and one more in so many seconds, as servers expect it
    irc_burst: int = 5
    irc_line_s: float = 2.0
    #: IRC: a server that was silent so long is asked whether it is there
    irc_ping_s: float = 90.0
    #: social sites: they are asked for new items so often
    poll_s: float = 60.0
    #: social sites: followed accounts that are read one by one, where the site has no timeline
    follows: int = 500
    #: of libraries that block, for all accounts of a network together
    threads: int = 16
    #: a connection that waits for news asks anew after so long (IMAP IDLE, RFC 2177: less than 29 minutes)
    idle_s: float = 540.0


def build_connectors(networks: Sequence[str], settings: ConnectorSettings) -> dict[str, Connector]:
    """By their names. ConfigError where one is unknown, or its library is not installed."""
    connectors: dict[str, Connector] = {}
    for name in networks:
        if name not in NETWORKS:
            raise ConfigError(f"{name!r} is no network; known: {', '.join(NETWORKS)}", field="im.networks")
        try:
            module = import_module(f"gateway.im.connectors.{name}")
        except ImportError as exc:
            raise ConfigError(
                f"{name} needs the package {exc.name}: pip install 'heliograph[im]'", field="im.networks"
            ) from exc
        connectors[name] = module.build(settings)
    return connectors
