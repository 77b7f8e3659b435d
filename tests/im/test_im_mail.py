"""The mail connector before a real Dovecot and OpenSMTPD: what every connector promises, and what is mail's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from im.contract import ConnectorContract
from im.servers_needed import needs

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.mail import build
from gateway.model.im import (
    Connector,
    Credentials,
)
from gateway.tour.networks.mail_peer import MailPeer
from gateway.tour.networks.mail_server import PASSWORD, MailServer

pytestmark = [
    pytest.mark.slow,
    needs("dovecot", "smtpd", "/usr/lib/dovecot/lmtp", packages="dovecot-imapd dovecot-lmtpd opensmtpd"),
]


@dataclass
class MailNetwork:
    server: MailServer
    connector: Connector
    credentials: Credentials
    wrong: Credentials
    peer: MailPeer
    contact: str = ""

    async def stop_server(self) -> None:
        await self.server.stop()

    async def start_server(self) -> None:
        await self.server.start()

    def with_form(self, **changed: str) -> Credentials:
        return Credentials({**self.credentials.values, **changed})


@pytest.fixture
async def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MailNetwork]:
    async with MailServer(tmp_path / "mail", people=("alice", "bob")) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        form = {
            "address": server.address("alice"),
            "password": PASSWORD,
            "imap_host": "127.0.0.1",
            "imap_port": str(server.ports["imap"]),
            "smtp_host": "127.0.0.1",
            "smtp_port": str(server.ports["smtp"]),
            "tls": "never",
        }
        yield MailNetwork(
            server,
            build(ConnectorSettings(private_hosts=True, request_s=5.0, text_bytes=4_096, media_bytes=2_000_000)),
            Credentials(form),
            Credentials({**form, "password": "another"}),
            MailPeer(server),
        )


class TestMail(ConnectorContract):
    """The contract."""
