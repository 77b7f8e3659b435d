"""Where the server of an XMPP account is looked for."""

from __future__ import annotations

from types import SimpleNamespace

import aiodns
import pytest

from gateway.im.connectors.xmpp.form import parse_login
from gateway.im.connectors.xmpp.servers import find_servers
from gateway.model.im import Credentials

RECORDS = {
    "_xmpp-client._tcp.x.example": [(20, 0, 5222, "second.x.example."), (10, 5, 5299, "first.x.example.")],
    "_xmpps-client._tcp.x.example": [(5, 0, 443, "direct.x.example")],
    "_xmpp-client._tcp.none.example": [(0, 0, 0, ".")],
}


class Resolver:
    def __init__(self, **_: object) -> None:
        pass

    async def query_dns(self, name: str, kind: str) -> SimpleNamespace:
        assert kind == "SRV"
        if name not in RECORDS:
            raise aiodns.error.DNSError(4, "not found")
        names = ("priority", "weight", "port", "target")
        data = [SimpleNamespace(**dict(zip(names, record, strict=True))) for record in RECORDS[name]]
        other = SimpleNamespace(data=SimpleNamespace(cname="x"))
        return SimpleNamespace(answer=[other, *(SimpleNamespace(data=one) for one in data)])

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("form", "servers"),
    [
        ({}, [("first.x.example", 5299, False), ("second.x.example", 5222, False)]),
        ({"tls": "direct"}, [("direct.x.example", 443, True)]),
        ({"jid": "a@none.example"}, [("none.example", 5222, False)]),
        ({"jid": "a@nothing.example", "tls": "direct"}, [("nothing.example", 5223, True)]),
        ({"host": "h.example"}, [("h.example", 5222, False)]),
        ({"host": "h.example", "port": "99", "tls": "direct"}, [("h.example", 99, True)]),
        ({"tls": "never"}, [("x.example", 5222, False)]),
    ],
)
async def test_the_form_comes_first_and_then_the_domains_dns(
    form: dict[str, str], servers: list[tuple[str, int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiodns, "DNSResolver", Resolver)
    login = parse_login(Credentials({"jid": "a@x.example", "password": "p", **form}))
    assert await find_servers(login) == servers


async def test_a_domain_that_dns_does_not_answer_for_is_tried_itself() -> None:
    login = parse_login(Credentials({"jid": "a@nothing.invalid", "password": "p"}))
    assert await find_servers(login) == [("nothing.invalid", 5222, False)]
