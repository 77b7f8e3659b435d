"""XMPP (RFC 6120, 6121): a connector with slixmpp's streams; messages, rooms, archives and files are mapped here."""

from __future__ import annotations

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.xmpp.connector import XmppConnector
from gateway.model.im import Connector


def build(settings: ConnectorSettings) -> Connector:
    return XmppConnector(settings)
