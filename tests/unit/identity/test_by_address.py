"""A terminal over IP is found by the address it comes from, as the network tells who has it now (C15)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from identity_rig import IMSI, IMSI_2, IP, MSISDN, MSISDN_2, Scene, canonical

from gateway.identity.allocator import Trigger
from gateway.model.errors import UnknownSubscriber
from gateway.model.subscriber import Granularity as By
from gateway.model.subscriber import NetworkId, NetworkIdKind, Scope


class Told:
    """Addresses port: one table."""

    def __init__(self, *, creates: bool = False) -> None:
        self.creates_subscribers = creates
        self.known: dict[str, Sequence[NetworkId]] = {}

    def whose(self, ip: str) -> Sequence[NetworkId] | None:
        return self.known.get(ip)


def told(scene: Scene, *network: NetworkId, creates: bool = False) -> Told:
    table = Told(creates=creates)
    table.known[IP.value] = network
    scene.allocator.addresses = table
    return table


async def test_found_while_it_has_the_address_and_not_after() -> None:
    scene = Scene()
    drawn = await scene.one(IMSI)
    table = told(scene, IMSI)
    written = len(scene.records.whys)
    found = await scene.trigger(IP, trigger=Trigger.SOURCE_IP)
    assert [canonical(each) for each in found.ids] == [drawn]
    (record,) = scene.records.records.values()
    assert record.network == (IMSI.pair,)
    assert len(scene.records.whys) == written  # nothing is written, neither now nor when an address changes hands
    table.known.clear()
    with pytest.raises(UnknownSubscriber):
        await scene.trigger(IP, trigger=Trigger.SOURCE_IP)


async def test_what_the_network_says_now_is_stronger_than_what_was_told_once() -> None:
    scene = Scene()
    await scene.trigger(IMSI, IP, trigger=Trigger.SESSION)
    theirs = await scene.one(IMSI_2)
    told(scene, IMSI_2)
    found = await scene.trigger(IP, trigger=Trigger.SOURCE_IP)
    assert [canonical(each) for each in found.ids] == [theirs]
    told(scene, NetworkId(NetworkIdKind.IMSI, "001010999999999"))  # somebody has it who is not known
    with pytest.raises(UnknownSubscriber):
        await scene.trigger(IP, trigger=Trigger.SOURCE_IP)
    told(scene, NetworkId(NetworkIdKind.IMSI, "no number"))
    with pytest.raises(UnknownSubscriber):
        await scene.trigger(IP, trigger=Trigger.SOURCE_IP)
    scene.allocator.addresses = Told()  # of an address that it says nothing of, what was told counts
    assert (await scene.trigger(IP, trigger=Trigger.SOURCE_IP)).ids


async def test_a_number_as_the_network_writes_it_and_the_imsi_first() -> None:
    scene = Scene()
    mine = await scene.one(MSISDN)
    told(scene, IMSI, NetworkId(NetworkIdKind.MSISDN, MSISDN.value.lstrip("+")))
    found = await scene.trigger(IP, trigger=Trigger.SOURCE_IP)
    assert [canonical(each) for each in found.ids] == [mine]
    (record,) = scene.records.records.values()
    assert record.network == (MSISDN.pair,)  # who asks tells nothing
    card = await scene.one(IMSI)  # another subscriber has the card now
    found = await scene.trigger(IP, trigger=Trigger.SOURCE_IP)
    assert [canonical(each) for each in found.ids] == [card]


async def test_an_opt_out_and_an_unknown_one_are_the_same() -> None:
    scene = Scene()
    await scene.trigger(IMSI, scope=Scope(By.APP, "chat"))
    told(scene, IMSI)
    await scene.allocator.opt_out(IMSI, "app:chat")
    with pytest.raises(UnknownSubscriber):
        await scene.trigger(IP, trigger=Trigger.SOURCE_IP, scope=Scope(By.APP, "chat"))


async def test_who_is_not_known_becomes_a_subscriber_only_where_the_operator_wants_it() -> None:
    scene = Scene()
    told(scene, IMSI, MSISDN, creates=False)
    with pytest.raises(UnknownSubscriber):
        await scene.trigger(IP, trigger=Trigger.SOURCE_IP)
    assert scene.records.records == {}
    told(scene, IMSI, MSISDN, creates=True)
    assert len((await scene.trigger(IP, trigger=Trigger.SOURCE_IP)).ids) == 2
    (record,) = scene.records.records.values()
    assert record.network == (IMSI.pair, MSISDN.pair)
    again = await scene.trigger(IP, trigger=Trigger.SOURCE_IP)
    assert again.drawn == 0
    told(scene, IMSI, MSISDN_2, creates=True)  # who is known learns nothing by asking
    await scene.trigger(IP, trigger=Trigger.SOURCE_IP)
    (record,) = scene.records.records.values()
    assert record.network == (IMSI.pair, MSISDN.pair)


async def test_other_triggers_do_not_look_at_addresses() -> None:
    scene = Scene()
    told(scene, IMSI_2)
    await scene.trigger(IMSI, IP, trigger=Trigger.SESSION)
    (record,) = scene.records.records.values()
    assert record.network == (IMSI.pair, IP.pair)
