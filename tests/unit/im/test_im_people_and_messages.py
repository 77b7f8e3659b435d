"""UST, supervision and messaging together: who signs in is connected, who is a friend is reached, who goes is cut."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar

import msgspec
import pytest
from im_heart import Heart, now_ms, until
from im_scripted_network import ScriptedNetwork
from im_ust_rig import ANNA, BERT, Senders

from gateway.im.messaging.draft import Draft, Recipient
from gateway.im.operation import Caller
from gateway.im.operations.ust import build_ust_operations
from gateway.im.ust.build import build_ust
from gateway.im.ust.gate import UstGate
from gateway.im.ust.users import CodeSenders
from gateway.model.im import Contact, LoginField
from gateway.model.im_people import AccountState, ItemKind, parse_user_id

PHONE, TABLET = b"anna's phone", b"bert's tablet"
FORM = {"name": "anna", "host": "there", "password": "right"}


class FormNetwork(ScriptedNetwork):
    form: ClassVar[tuple[LoginField, ...]] = (
        LoginField("name", "Name"),
        LoginField("host", "Host"),
        LoginField("password", "Password", is_secret=True),
    )


class Society(Heart):
    """As `gateway.im_side` puts them together."""

    def __init__(self) -> None:
        self.sender = Senders()
        super().__init__(FormNetwork(), answer_step_s=0.0)

    def start(self) -> None:
        self.gate = UstGate(self.users, self.accounts)  # type: ignore[assignment]
        super().start()
        ust = build_ust(
            users=self.users,
            accounts=self.accounts,
            gate=self.gate,
            delivering=self.deliverer,
            supervision=self.supervisor,
            connectors={"scripted": self.network},
            senders=CodeSenders(self.sender, None),
            settings=self.config,
            metrics=self.metrics,
            on_signed_in=self._on_signed_in,
            on_signed_out=lambda token, _: self.supervisor.disconnected(token),
            on_removed=self.supervisor.gone,
        )
        self.operations = {one.name: one for one in build_ust_operations(ust, self.config)}

    def _on_signed_in(self, token: bytes, _: bytes) -> None:
        if self.door.is_connected(token):
            self.supervisor.connected(token)

    async def do(self, named: str, me: bytes | None = None, /, token: bytes | None = None, **fields: Any) -> Any:
        operation = self.operations[named]
        ask = msgspec.convert(fields, operation.ask)
        return await operation.run(Caller(me, token, now_ms()), ask)

    async def sign_up(self, address: str, token: bytes) -> bytes:
        await self.do("register", token=token, address=address)
        code = self.sender.codes[-1][1]
        verified = await self.do("verify", token=token, address=address, code=code)
        user = parse_user_id(verified.user)
        assert user is not None
        return user

    def kinds(self, token: bytes) -> list[ItemKind]:
        return [item.kind for item in self.pushes.pushed[token]]

    async def write(self, me: bytes, other: bytes, text: str) -> bool:
        (verdict,) = await self.outbox.send(me, [Recipient(user=f"user_{other.hex()}")], Draft(text))
        return bool(verdict.remote_id)


@pytest.fixture
async def society() -> AsyncIterator[Society]:
    together = Society()
    yield together
    await together.close()


async def test_friends_write_to_each_other_and_nobody_else_does(society: Society) -> None:
    anna, bert = await society.sign_up(ANNA, PHONE), await society.sign_up(BERT, TABLET)
    await society.do("change_profile", bert, is_discoverable=True)
    assert not await society.write(anna, bert, "too early")
    await society.do("ask_friend", anna, to=BERT)
    assert society.kinds(TABLET) == [ItemKind.FRIEND_REQUEST]
    assert not await society.write(anna, bert, "still too early")
    await society.do("answer_friend", bert, user=f"user_{anna.hex()}", accept=True)
    assert society.kinds(PHONE) == [ItemKind.FRIEND_ANSWER]
    assert await society.write(anna, bert, "hello")
    assert society.texts(bert) == ["hello"]
    assert society.kinds(TABLET)[-1] is ItemKind.MESSAGE
    await society.do("block_friend", bert, user=f"user_{anna.hex()}")
    assert not await society.write(anna, bert, "and now")
    assert not await society.write(bert, anna, "nor so")
    assert society.texts(bert) == ["hello"]


async def test_a_group_of_friends_is_written_to_until_one_leaves(society: Society) -> None:
    anna, bert = await society.sign_up(ANNA, PHONE), await society.sign_up(BERT, TABLET)
    await society.do("ask_friend", anna, to=f"user_{bert.hex()}")
    await society.do("ask_friend", bert, to=f"user_{anna.hex()}")
    group = (await society.do("create_group", anna, name="garden", members=[f"user_{bert.hex()}"])).group
    await society.outbox.send(anna, [Recipient(group=group)], Draft("to all"))
    assert society.texts(bert) == ["to all"]
    await society.do("leave_group", bert, group=group)
    await society.outbox.send(anna, [Recipient(group=group)], Draft("to the others"))
    (verdict,) = await society.outbox.send(bert, [Recipient(group=group)], Draft("from outside"))
    assert not verdict.remote_id
    assert society.texts(bert) == ["to all"]
    assert society.texts(anna) == ["to all", "to the others"]


async def test_an_account_is_connected_while_a_signed_in_device_is_there(society: Society) -> None:
    society.door.come(PHONE)  # a device that nobody has signed in on
    anna = await society.sign_up(ANNA, PHONE)
    society.box("anna").contacts = [Contact("friend@there", "A Friend")]
    await society.do("bind", anna, network="scripted", name="sina", credentials=FORM)
    await until(lambda: society.box("anna").sessions)
    contacts = await society.do("account_contacts", anna, account="sina")
    assert [one.display for one in contacts.contacts] == ["A Friend"]
    society.box("anna").say("hi")
    await until(lambda: ItemKind.MESSAGE in society.kinds(PHONE))
    await society.do("sign_out", anna, PHONE)
    await until(lambda: not society.box("anna").sessions)  # after linger_s
    assert await society.sign_up(ANNA, PHONE) == anna  # the link was there all the time
    await until(lambda: society.box("anna").sessions)


async def test_other_credentials_are_tried_where_the_first_were_wrong(society: Society) -> None:
    anna = await society.sign_up(ANNA, PHONE)
    society.door.come(PHONE)
    wrong = {**FORM, "password": "wrong"}
    await society.do("bind", anna, network="scripted", name="sina", credentials=wrong)
    await until(lambda: society.pushes.pushed[PHONE])
    (view,) = (await society.do("accounts", anna)).accounts
    assert view.state == "bad_credentials"
    await society.do("change_credentials", anna, account="sina", credentials=FORM)
    await until(lambda: society.supervisor.state(view.number) is AccountState.CONNECTED)


async def test_what_waits_has_failed_when_its_account_is_unbound(society: Society) -> None:
    society.network.down.add("there")
    anna = await society.sign_up(ANNA, PHONE)
    society.door.come(PHONE)
    await society.do("bind", anna, network="scripted", name="sina", credentials=FORM)
    (verdict,) = await society.outbox.send(anna, [Recipient("sina", "friend@there")], Draft("waits"))
    await society.do("unbind", anna, account="sina")
    assert [(number, state) for number, state, _ in society.results(anna)] == [(verdict.number, "failed")]


async def test_who_is_removed_is_disconnected_at_once(society: Society) -> None:
    anna = await society.sign_up(ANNA, PHONE)
    society.door.come(PHONE)
    await society.do("bind", anna, network="scripted", name="sina", credentials=FORM)
    await until(lambda: society.box("anna").sessions)
    await society.do("remove_me", anna)
    await until(lambda: not society.box("anna").sessions)
    assert not society.supervisor.is_present(anna)
