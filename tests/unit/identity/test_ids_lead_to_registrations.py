"""Where an opaque id leads (C1, C12): to one registration a subscriber and app, to a device with the proof alone, and
nowhere once it does not resolve; whatever was done before, in any order."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from identity_rig import HOST, IMSI, IMSI_2, MSISDN, NAI, TERMINAL, Scene, canonical
from msgspec.structs import replace

from gateway.delivery.opaque_tokens import OpaqueIndex, is_paging_only
from gateway.identity.allocator import Trigger
from gateway.metrics import Metric
from gateway.model.errors import StoreUnavailable
from gateway.model.registration import CLAIM, PAGING_ONLY, App, Registration, build_token
from gateway.model.subscriber import Granularity, Scope

STRANGER = f"{'a' * 26}@{HOST}"
CHAT = Scope(Granularity.APP, "chat")


class Registrations:
    """delivery.opaque_tokens.Registrations, as long as the test."""

    def __init__(self) -> None:
        self.records: dict[int, Registration] = {}
        self.apps = {name: App(name=name) for name in ("chat", "mail", "news")}
        self.writes = 0
        self.is_full = False
        self.index: OpaqueIndex

    def app(self, name: str) -> App | None:
        return self.apps.get(name)

    def registration(self, number: int) -> Registration | None:
        return self.records.get(number)

    def known(self, device: str, app: str, account: str) -> tuple[bytes, int, int]:
        token = hashlib.sha256(f"{device}\0{app}\0{account}".encode()).digest()[:16]
        return token, 0, next((n for n, each in self.records.items() if each.token == token), -1)

    def find(self, token: str, app: str) -> int:
        if len(token) != 22:
            return self.index.find(token, app)
        found = (n for n, each in self.records.items() if build_token(each.token) == token and each.app == app)
        return next(found, -1)

    def register(
        self,
        device: str,
        app: str,
        version: str,
        account: str,
        *,
        addresses: Mapping[str, str] | None = None,
        fallback: Sequence[str] | None = None,
    ) -> tuple[Registration, bool, asyncio.Future[None] | None]:
        if self.is_full:
            raise StoreUnavailable
        token, _, number = self.known(device, app, account)
        self.writes += 1
        made = number < 0
        number = len(self.records) + 1 if made else number
        self.records[number] = Registration(
            number=number,
            token=token,
            device=device,
            app=app,
            version=version,
            addresses=dict(addresses or {}),
            fallback=None if fallback is None else list(fallback),
        )
        return self.records[number], made, None

    def update(self, number: int, **fields: Any) -> None:
        if self.is_full:
            raise StoreUnavailable
        self.writes += 1
        self.records[number] = replace(self.records[number], **fields)


class Leads(Scene):
    def __init__(self, pagers: Sequence[str] = ("sms", "wap"), **config: Any) -> None:
        super().__init__(**config)
        self.directory = Registrations()
        directory: Any = self.directory
        self.index = OpaqueIndex(self.identity.local, directory, pagers, b"k" * 16, self.metrics)
        self.directory.index = self.index

    def claim(self, name: str, app: str = "chat", **addresses: str) -> int:
        """A device registers with these addresses."""
        registration, _, _ = self.directory.register(name, app, "1.0", "", addresses=addresses)
        if CLAIM in addresses:
            self.index.claim(registration)
        return registration.number

    def proof(self, number: int) -> str:
        return build_token(self.directory.records[number].token)

    def count(self, event: str) -> float:
        return self.metrics.value(Metric.PAGING_ONLY, event)


async def test_the_first_push_makes_a_registration_with_the_id_at_every_pager() -> None:
    scene = Leads()
    opaque = await scene.one(IMSI, scope=CHAT)
    assert scene.index.find(opaque, "chat") == -1
    assert scene.index.leads(opaque, "chat")
    assert not scene.directory.writes, "a look makes nothing"
    number = scene.index.reach(opaque, "chat")
    made = scene.directory.records[number]
    assert (made.version, made.addresses, made.fallback) == (
        PAGING_ONLY,
        {"id": opaque, "sms": opaque, "wap": opaque},
        ["sms", "wap"],
    )
    assert is_paging_only(made)
    assert IMSI.value not in repr(made)
    assert scene.index.find(opaque, "chat") == number
    assert scene.directory.writes == 1


async def test_the_chain_is_the_apps_own_as_far_as_it_pages_and_follows_it() -> None:
    scene = Leads()
    opaque = await scene.one(IMSI, scope=CHAT)
    scene.directory.apps["chat"] = App(name="chat", fallback=["webhook", "wap"])
    number = scene.index.reach(opaque, "chat")
    assert scene.directory.records[number].fallback == ["wap"]
    scene.directory.apps["chat"] = App(name="chat", fallback=["sms", "wap"])
    assert scene.index.reach(opaque, "chat") == number
    assert scene.directory.records[number].fallback == ["sms", "wap"]


async def test_without_pagers_an_id_leads_nowhere() -> None:
    scene = Leads(pagers=())
    opaque = await scene.one(IMSI, scope=CHAT)
    assert scene.index.reach(opaque, "chat") == scene.index.find(opaque, "chat") == -1
    assert not scene.index.leads(opaque, "chat")


async def test_a_terminals_id_leads_to_a_registration_of_each_app() -> None:
    scene = Leads()
    opaque = await scene.one(IMSI)
    numbers = {scene.index.reach(opaque, app) for app in ("chat", "mail")}
    assert len(numbers) == 2
    assert scene.index.select(opaque.partition("@")[0]) == ("", ""), "it selects no app"
    own = await scene.one(IMSI, scope=CHAT)
    assert scene.index.select(own.partition("@")[0].upper()) == (own, "chat")


async def test_an_address_that_a_pager_called_dead_is_not_tried_with_the_same_id_again() -> None:
    scene = Leads()
    opaque = await scene.one(IMSI, scope=CHAT)
    number = scene.index.reach(opaque, "chat")
    scene.directory.update(number, addresses={"id": opaque, "wap": opaque})
    scene.index.reach(opaque, "chat")
    assert scene.directory.records[number].addresses == {"id": opaque, "wap": opaque}
    scene.directory.update(number, addresses={"id": opaque})
    assert not scene.index.is_ended(scene.directory.records[number]), "the id is good all the same"
    scene.index.reach(opaque, "chat")
    every = {"id": opaque, "sms": opaque, "wap": opaque}
    assert scene.directory.records[number].addresses == every, "but when none is left"


async def test_a_store_that_can_not_be_written_refuses_the_first_push_and_not_the_others() -> None:
    scene = Leads()
    opaque = await scene.one(IMSI, scope=CHAT)
    scene.directory.is_full = True
    try:
        scene.index.reach(opaque, "chat")
    except StoreUnavailable:
        pass
    else:
        raise AssertionError("a push that leads nowhere was taken")
    scene.directory.is_full = False
    number = scene.index.reach(opaque, "chat")
    newer = (await scene.trigger(IMSI, scope=CHAT, further=True)).ids[-1]
    scene.directory.is_full = True
    assert scene.index.reach(canonical(newer), "chat") == number


async def test_two_ids_without_an_end_do_not_take_turns() -> None:
    scene = Leads()
    one = await scene.one(IMSI, scope=CHAT, validity_s=0)
    other = canonical((await scene.trigger(IMSI, scope=CHAT, validity_s=0, further=True)).ids[-1])
    for opaque in (one, other) * 3:
        scene.index.reach(opaque, "chat")
    assert scene.directory.writes == 1


async def test_an_id_as_its_own_proof_is_none() -> None:
    """It leads to the very registration whose token is the proof."""
    scene = Leads()
    opaque = await scene.one(IMSI, scope=CHAT)
    number = scene.index.reach(opaque, "chat")
    for claim in (opaque, opaque.upper(), f"https://{HOST}/push/{opaque.partition('@')[0]}", "", "x" * 22, STRANGER):
        scene.claim("thief", sms=opaque, **{CLAIM: claim})
        assert scene.index.reach(opaque, "chat") == number
    assert scene.count("claimed") == 0


@given(
    st.text(max_size=80)
    | st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26).map(f"{{}}@{HOST}".format)
)
def test_any_text_is_no_id_of_ours(text: str) -> None:
    scene = Leads()
    assert scene.index.find(text, "chat") == scene.index.reach(text, "chat") == -1
    assert not scene.index.leads(text, "chat")
    assert scene.index.select(text) == ("", "")


class Model:
    """Who may lead where, kept the slow way."""

    def __init__(self) -> None:
        self.scene = Leads(validity_s=7_200, renew_s=600)
        self.ids: list[str] = [STRANGER]
        #: registrations of devices → subscriber it proved to be of
        self.proved: dict[int, bytes] = {}
        self.numbers: dict[tuple[bytes, str], int] = {}

    def check(self) -> None:
        scene = self.scene
        for opaque in self.ids:
            for app in ("chat", "mail", "news"):
                found = scene.identity.local.find(opaque, app)
                number = scene.index.find(opaque, app)
                if found is None:
                    assert number == -1
                    assert scene.index.reach(opaque, app) == -1
                    continue
                reached = scene.index.reach(opaque, app)
                assert number in (-1, reached)
                record = scene.directory.records[reached]
                assert record.app == app
                if is_paging_only(record):
                    assert self.numbers.setdefault((found.handle, app), reached) == reached
                    assert opaque in record.addresses.values() or any(
                        scene.resolves(each, app) for each in record.addresses.values()
                    )
                else:
                    assert self.proved.get(reached) == found.handle, "a device gets what it did not prove"
                    own = [scene.identity.local.find(record.addresses["sms"], app)]
                    assert [each.handle for each in own if each] == [found.handle], "its ids have all ended"


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("trigger"),
            st.sampled_from([(IMSI,), (IMSI, MSISDN), (IMSI_2,), (NAI,), (IMSI_2, NAI)]),
            st.sampled_from([TERMINAL, CHAT, Scope(Granularity.CLASS, "apn:internet")]),
            st.sampled_from(list(Trigger)[:5]),
            st.booleans(),
        ),
        st.tuples(st.just("wait"), st.integers(1, 9_000)),
        st.tuples(st.just("revoke"), st.integers(0, 50)),
        st.tuples(
            st.just("out"), st.sampled_from([IMSI, IMSI_2, NAI]), st.sampled_from(["*", "app:chat"]), st.booleans()
        ),
        # device, its address, whose registration's token it shows, app
        st.tuples(
            st.just("claim"),
            st.sampled_from(["d1", "d2"]),
            st.integers(0, 50),
            st.integers(0, 50),
            st.sampled_from(["chat", "mail"]),
        ),
    ),
    max_size=14,
)


@given(STEPS)
@settings(max_examples=120)
def test_in_any_order(steps: list[Any]) -> None:
    async def run() -> None:
        model = Model()
        scene = model.scene
        for what, *how in steps:
            try:
                await act(model, what, how)
            except Exception as exc:
                if type(exc).__module__ != "gateway.model.errors":
                    raise
            model.check()
        assert scene.directory.writes <= 200

    asyncio.run(run())


async def act(model: Model, what: str, how: list[Any]) -> None:
    scene = model.scene
    if what == "trigger":
        network, scope, trigger, is_replaced = how
        made = await scene.trigger(*network, scope=scope, trigger=trigger, replace=is_replaced or None, move=True)
        model.ids = [*model.ids, *map(canonical, made.ids)][-12:]
    elif what == "wait":
        scene.now_ms += how[0] * 1_000
    elif what == "revoke":
        await scene.allocator.revoke(model.ids[how[0] % len(model.ids)])
    elif what == "out":
        await scene.allocator.opt_out(how[0], how[1], out=how[2])
    else:
        device, address, shown, app = how
        opaque = model.ids[address % len(model.ids)]
        paged = [each for each in scene.directory.records.values() if is_paging_only(each)]
        if not paged:
            return
        owner = paged[shown % len(paged)]
        before = scene.count("claimed")
        number = scene.claim(device, app, sms=opaque, **{CLAIM: build_token(owner.token)})
        found = scene.identity.local.find(opaque, app)
        if found is not None and model.numbers.get((found.handle, app)) == owner.number:
            model.proved[number] = found.handle
        else:
            assert scene.count("claimed") == before
