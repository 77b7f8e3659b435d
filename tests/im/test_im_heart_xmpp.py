"""Supervision and messaging over the real store, before a real XMPP server that dies and comes back (D2, D3, D16)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from im_heart import until
from im_stored_heart import StoredHeart, open_heart_store, token

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.xmpp import build
from gateway.im.messaging.draft import Draft, Recipient
from gateway.metrics import Metric
from gateway.model.im_people import AccountState, ItemKind
from gateway.tour.networks.prosody import Prosody
from gateway.tour.networks.xmpp_peer import XmppPeer
from tests.im.servers_needed import needs

pytestmark = [pytest.mark.slow, needs("prosody", packages="prosody")]

WAIT_S = 20.0


class Stage:
    """Anna is alice there, and her peer is bob."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "prosody").mkdir()
        self.server = Prosody(folder / "prosody", {"alice": "alice-pw", "bob": "bob-pw"}, (("alice", "bob"),))
        self.peer = XmppPeer(self.server.address("bob"), "bob-pw", self.server.address("alice"), self.server.port)
        self.bob = self.server.address("bob")

    async def start(self) -> None:
        await self.server.start()
        await self.peer.connect()
        self.store = await open_heart_store(self._folder / "store")
        xmpp = build(ConnectorSettings(private_hosts=True, request_s=10))
        self.heart = StoredHeart(
            self.store,
            connectors={"xmpp": xmpp},
            linger_s=0.5,
            request_s=10.0,
            connect_s=10.0,
            outage_s=1.0,
            retry_s=0.1,
            retry_max_s=0.5,
        )
        self.anna = self.heart.user("anna")
        self.number = self.heart.bind_with(self.anna, "xmpp", self.form("alice-pw"))

    def form(self, password: str) -> dict[str, str]:
        return {
            "jid": self.server.address("alice"),
            "password": password,
            "host": "127.0.0.1",
            "port": str(self.server.port),
            "tls": "never",
        }

    async def stop(self) -> None:
        await self.heart.close()
        await self.store.close()
        await self.peer.close()
        await self.server.stop()

    async def come(self) -> None:
        self.heart.door.come(token("anna"))
        await self.reach(AccountState.CONNECTED)

    async def reach(self, state: AccountState) -> None:
        await until(lambda: self.heart.supervisor.state(self.number) is state, WAIT_S)

    async def send(self, text: str) -> None:
        (verdict,) = await self.heart.outbox.send(self.anna, [Recipient(self.number, self.bob)], Draft(text))
        assert verdict.state == "accepted"

    async def hear(self) -> str:
        return (await asyncio.wait_for(self.peer.hear(), WAIT_S)).text


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    await stage.start()
    try:
        yield stage
    finally:
        await stage.stop()


async def test_messages_go_both_ways_with_their_source_and_a_result(stage: Stage) -> None:
    heart, anna = stage.heart, stage.anna
    await stage.come()
    await stage.peer.say("grüß dich")
    await until(lambda: "grüß dich" in heart.texts(anna), WAIT_S)
    (item,) = heart.items(anna, ItemKind.MESSAGE)
    assert item.envelope is not None
    assert (item.envelope.network, item.account) == ("xmpp", stage.number)
    assert heart.pushes.urgent[token("anna")][0][1] == "grüß dich"
    for text in range(20):
        await stage.send(f"out {text}")
    assert [await stage.hear() for _ in range(20)] == [f"out {text}" for text in range(20)]
    await until(lambda: len(heart.items(anna, ItemKind.RESULT)) == 20, WAIT_S)
    assert {state for _, state, _ in heart.results(anna)} == {"sent"}
    # the server's archive and carbons name what we sent ourselves: it is in the log once
    await stage.peer.say("end")
    await until(lambda: "end" in heart.texts(anna), WAIT_S)
    assert sorted(heart.texts(anna)) == sorted(["grüß dich", *(f"out {text}" for text in range(20)), "end"])


async def test_it_disconnects_when_the_device_has_gone_and_catches_up_when_it_is_back(stage: Stage) -> None:
    heart, anna = stage.heart, stage.anna
    await stage.come()
    await stage.peer.say("before")
    await until(lambda: heart.texts(anna) == ["before"], WAIT_S)
    heart.door.go(token("anna"))
    await stage.reach(AccountState.IDLE)
    await until(lambda: heart.metrics.value(Metric.IM_SESSIONS) == 0, WAIT_S)
    for text in range(60):
        await stage.peer.say(f"away {text}")
    await stage.come()
    await until(lambda: len(heart.texts(anna)) >= 61, WAIT_S)
    assert heart.texts(anna) == ["before", *(f"away {text}" for text in range(60))]


async def test_a_server_that_dies_and_comes_back_loses_nothing_that_waits(stage: Stage) -> None:
    heart, anna = stage.heart, stage.anna
    await stage.come()
    await stage.send("first")
    assert await stage.hear() == "first"
    await stage.peer.close()
    await stage.server.stop()
    await stage.send("while it was away")
    await stage.reach(AccountState.OUTAGE)
    await stage.server.start()
    await stage.peer.connect()
    await stage.reach(AccountState.CONNECTED)
    await until(lambda: len(heart.items(anna, ItemKind.RESULT)) == 2, WAIT_S)
    results = list(heart.results(anna))
    if results[1][1] == "sent":
        assert await stage.hear() == "while it was away"
    else:
        assert "may have arrived" in results[1][2]
    assert [item.state for item in heart.items(anna, ItemKind.ACCOUNT)] == ["outage", "connected"]


async def test_a_wrong_password_is_told_and_a_right_one_connects(stage: Stage) -> None:
    heart = stage.heart
    user = heart.user("bert")
    number = heart.bind_with(user, "xmpp", stage.form("not it"))
    heart.door.come(token("bert"))
    await until(lambda: heart.supervisor.state(number) is AccountState.BAD_CREDENTIALS, WAIT_S)
    (item,) = heart.items(user, ItemKind.ACCOUNT)
    assert item.state == AccountState.BAD_CREDENTIALS
    account = heart.accounts.account(number)
    assert account is not None
    sealed = heart.accounts.seal(user, number, "xmpp", stage.form("alice-pw"))
    account = type(account)(number, user, "xmpp", account.name, sealed, account.created_ms)
    await heart.accounts.put_account(account)
    heart.supervisor.bound(account)
    await until(lambda: heart.supervisor.state(number) is AccountState.CONNECTED, WAIT_S)
    contacts = await heart.supervisor.contacts(number)
    assert stage.bob in [contact.remote_id for contact in contacts]
