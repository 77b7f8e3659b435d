"""Which accounts share a circuit: those that go the same way to the same server, and no others."""

from __future__ import annotations

import pytest

from gateway.im.connectors import ConnectorSettings, build_connectors
from gateway.model.im import Credentials

#: what works, and what somebody else's wrong form says of the same host
FORMS: dict[str, tuple[dict[str, str], list[dict[str, str]]]] = {
    "xmpp": (
        {"jid": "me@one.example", "password": "pw", "host": "one.example", "port": "5222", "tls": "required"},
        [{"port": "1"}, {"tls": "direct"}, {"jid": "me@other.example"}],
    ),
    "irc": ({"server": "one.example", "port": "6697", "nick": "me"}, [{"port": "1"}, {"tls": "never"}]),
    "mail": (
        {
            "address": "me@one.example",
            "password": "pw",
            "imap_host": "one.example",
            "imap_port": "993",
            "smtp_host": "one.example",
            "smtp_port": "465",
            "tls": "tls",
        },
        [{"imap_port": "1"}, {"tls": "starttls"}],
    ),
    "matrix": (
        {"user": "@me:one.example", "password": "pw", "homeserver": "https://one.example"},
        [{"homeserver": "https://one.example:1"}],
    ),
    "bluesky": ({"handle": "me.one.example", "password": "pw", "server": "one.example"}, [{"server": "one.example:1"}]),
}


@pytest.mark.parametrize("network", FORMS)
def test_a_wrong_form_for_a_host_does_not_count_against_those_who_have_it_right(network: str) -> None:
    connector = build_connectors([network], ConnectorSettings())[network]
    right, wrongs = FORMS[network]
    host = connector.host(Credentials(right))
    mine = {"password": "another", "nick": "another"}
    assert connector.host(Credentials({name: mine.get(name, value) for name, value in right.items()})) == host
    for wrong in wrongs:
        assert connector.host(Credentials({**right, **wrong})) != host
