"""Which ids a subscriber has after a trigger, and who may use them (C1–C4, C12, C15)."""

from __future__ import annotations

import pytest
from identity_rig import HOST, IMEI, IMSI, IMSI_2, IP, MSISDN, MSISDN_2, NAI, START_MS, Scene, canonical

from gateway.identity.allocator import Trigger
from gateway.metrics import Metric
from gateway.model.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    StoreUnavailable,
    TooManyRequests,
    UnknownSubscriber,
)
from gateway.model.subscriber import Granularity, NetworkId, NetworkIdKind, OpaqueKind, Scope

CHAT = Scope(Granularity.APP, "chat")
MAIL = Scope(Granularity.APP, "mail")
INTERNET = Scope(Granularity.CLASS, "apn:internet")
DAY_MS = 86_400_000


async def test_each_kind_stands_for_its_network_ids_and_the_host_is_the_same() -> None:  # C1
    scene = Scene()
    made = await scene.trigger(IMSI, MSISDN, NAI)
    assert [OpaqueKind(each.kinds) for each in made.ids] == list(OpaqueKind)
    assert made.drawn == 3
    assert {each.host for each in made.ids} == {HOST}
    assert {len(canonical(each)) for each in made.ids} == {26 + 1 + len(HOST)}
    found = scene.identity.local.find(canonical(made.ids[0]), "chat")
    assert found is not None
    assert (found.imsi, found.msisdn, found.nai, found.imei) == (IMSI.value, MSISDN.value, NAI.value, "")
    assert found.kinds == OpaqueKind.O_TMSI


async def test_a_kind_with_nothing_to_stand_for_is_refused() -> None:
    scene = Scene()
    with pytest.raises(BadRequest, match="o-tmsn stands for MSISDN or IMPU") as refused:
        await scene.trigger(IMSI, kinds=OpaqueKind.O_TMSN)
    assert refused.value.field == "kinds"
    assert scene.records.records == {}


async def test_one_id_for_both_where_they_correspond_one_to_one() -> None:  # C2
    scene = Scene()
    made = await scene.trigger(IMSI, MSISDN, together=True)
    assert [each.kinds for each in made.ids] == [OpaqueKind.O_TMSI | OpaqueKind.O_TMSN]
    scene = Scene()
    made = await scene.trigger(IMSI, IMSI_2, MSISDN, together=True)
    assert [each.kinds for each in made.ids] == [OpaqueKind.O_TMSI, OpaqueKind.O_TMSN]
    found = scene.identity.local.find(canonical(made.ids[1]), "chat")
    assert found is not None
    assert found.all(NetworkIdKind.IMSI) == (IMSI.value, IMSI_2.value)  # a set that shares ids


async def test_one_more_beside_those_there_are() -> None:  # C2: 1..n
    scene = Scene()
    first = await scene.trigger(IMSI)
    both = await scene.trigger(IMSI, further=True)
    assert len(both.ids) == 2
    assert first.ids[0] in both.ids
    assert (both.drawn, both.replaced) == (1, False)
    assert all(scene.resolves(canonical(each)) for each in both.ids)


async def test_per_terminal_per_app_per_class() -> None:  # C1, C12
    scene = Scene()
    terminal, chat, internet = (
        await scene.one(IMSI),
        await scene.one(IMSI, scope=CHAT),
        await scene.one(IMSI, scope=INTERNET),
    )
    may = {
        name: [app for app in ("chat", "mail", "news") if scene.resolves(opaque, app)]
        for name, opaque in {"terminal": terminal, "chat": chat, "internet": internet}.items()
    }
    assert may == {"terminal": ["chat", "mail", "news"], "chat": ["chat"], "internet": ["chat", "mail"]}
    of_app = scene.identity.local.find(chat, "chat")
    of_terminal = scene.identity.local.find(terminal, "chat")
    assert of_app is not None
    assert of_terminal is not None
    assert (of_app.app, of_terminal.app) == ("chat", "")
    assert of_app.handle == of_terminal.handle


async def test_a_class_that_nobody_configured_and_a_host_of_a_class() -> None:  # C6
    scene = Scene(class_hosts=["apn:internet=apn.example.net"])
    with pytest.raises(BadRequest):
        await scene.trigger(IMSI, scope=Scope(Granularity.CLASS, "apn:ims"))
    opaque = await scene.one(IMSI, scope=INTERNET)
    assert opaque.endswith("@apn.example.net")
    assert scene.resolves(opaque)
    assert not scene.resolves(opaque.replace("apn.example.net", HOST))  # each id has one host


async def test_validity_is_the_operators_and_not_all_lapse_at_once() -> None:  # C3
    scene = Scene()
    made = [(await scene.trigger(IMSI, further=True)).ids[-1].until_ms - START_MS for _ in range(20)]
    assert all(DAY_MS * 0.9 <= each <= DAY_MS for each in made)
    assert len(set(made)) > 10
    short = await scene.trigger(IMSI_2, validity_s=60)
    assert short.ids[0].until_ms <= START_MS + 60_000
    permanent = await scene.trigger(IMSI, scope=CHAT, validity_s=0)
    assert permanent.ids[0].until_ms == 0
    scene.now_ms += 1_000 * DAY_MS
    assert scene.resolves(canonical(permanent.ids[0]))
    assert not scene.resolves(canonical(short.ids[0]))
    assert (await scene.trigger(IMSI, scope=CHAT)).drawn == 0


async def test_a_new_one_beside_the_old_one_before_it_lapses() -> None:  # C3
    scene = Scene(validity_s=86_400, renew_s=3_600)
    old = (await scene.trigger(IMSI)).ids[0]
    assert (await scene.trigger(IMSI)).ids == [old]
    scene.now_ms = old.until_ms - 3_600_000
    made = await scene.trigger(IMSI)
    assert (made.drawn, len(made.ids)) == (1, 2)
    assert (await scene.trigger(IMSI)).drawn == 0  # once
    assert scene.resolves(canonical(old))
    scene.now_ms = old.until_ms
    assert not scene.resolves(canonical(old))
    assert scene.resolves(canonical(made.ids[1]))


async def test_or_in_place_of_the_old_one_when_it_has_lapsed() -> None:  # C3
    scene = Scene(renewal="replace")
    old = (await scene.trigger(IMSI)).ids[0]
    scene.now_ms = old.until_ms - 1
    assert (await scene.trigger(IMSI)).drawn == 0
    scene.now_ms = old.until_ms
    made = await scene.trigger(IMSI)
    assert (made.drawn, len(made.ids)) == (1, 1)
    assert made.ids[0] != old


async def test_an_attach_rotates_and_the_old_one_goes_on_for_the_overlap() -> None:  # C4
    scene = Scene(renew_s=3_600)
    old = await scene.one(IMSI, trigger=Trigger.ATTACH)
    made = await scene.trigger(IMSI, trigger=Trigger.ATTACH)
    assert (made.drawn, made.replaced, len(made.ids)) == (1, False, 2)
    scene.now_ms += 3_600_000 - 1
    assert scene.resolves(old)
    scene.now_ms += 1
    assert not scene.resolves(old)
    assert scene.resolves(canonical(made.ids[1]))


async def test_an_attach_in_place_of_the_old_one() -> None:
    scene = Scene(renewal="replace")
    old = await scene.one(IMSI, trigger=Trigger.ATTACH)
    made = await scene.trigger(IMSI, trigger=Trigger.ATTACH)
    assert (made.drawn, made.replaced, len(made.ids)) == (1, True, 1)
    assert not scene.resolves(old)
    assert scene.records.whys[-1] == "replaced"


async def test_a_location_update_says_whether_it_replaces() -> None:  # C4
    scene = Scene()
    old = await scene.one(IMSI, scope=CHAT)
    other = await scene.one(IMSI, scope=MAIL)
    kept = await scene.trigger(IMSI, trigger=Trigger.LOCATION, scope=CHAT, replace=False)
    assert ([canonical(each) for each in kept.ids], kept.replaced) == ([old], False)
    made = await scene.trigger(IMSI, trigger=Trigger.LOCATION, scope=CHAT, replace=True)
    assert (made.drawn, made.replaced, len(made.ids)) == (1, True, 1)
    assert not scene.resolves(old)
    assert scene.resolves(other, "mail")


@pytest.mark.parametrize("trigger", [Trigger.SESSION, Trigger.SERVICE, Trigger.TERMINAL])
async def test_what_tells_of_a_subscriber_makes_one(trigger: Trigger) -> None:
    scene = Scene()
    made = await scene.trigger(IMSI, trigger=trigger)
    assert made.drawn == 1
    assert (await scene.trigger(IMSI, trigger=trigger)).ids == made.ids
    assert f'heliograph_subscriber_ids_total{{trigger="{trigger.value}"}} 1.0' in scene.metrics.render().decode()


@pytest.mark.parametrize("trigger", [Trigger.APP_SERVER, Trigger.SOURCE_IP])
async def test_what_asks_about_a_subscriber_makes_none_and_changes_nothing(trigger: Trigger) -> None:  # C15
    scene = Scene()
    with pytest.raises(UnknownSubscriber):
        await scene.trigger(NAI, trigger=trigger)
    await scene.trigger(IMSI, NAI)
    with pytest.raises(UnknownSubscriber):
        await scene.trigger(NAI, MSISDN, trigger=trigger)
    (record,) = scene.records.records.values()
    assert record.network == (IMSI.pair, NAI.pair)


async def test_by_source_ip_and_an_address_that_is_anothers_now() -> None:  # C15
    scene = Scene()
    with pytest.raises(UnknownSubscriber):
        await scene.trigger(IP, trigger=Trigger.SOURCE_IP)
    await scene.trigger(IMSI, IP, trigger=Trigger.SESSION)
    first = await scene.trigger(IP, trigger=Trigger.SOURCE_IP, kinds=OpaqueKind.APP_UID)
    await scene.trigger(IMSI_2, IP, trigger=Trigger.SESSION)
    assert not scene.resolves(canonical(first.ids[0]))  # nothing is left that it stands for
    second = await scene.trigger(IP, trigger=Trigger.SOURCE_IP)
    found = scene.identity.local.find(canonical(second.ids[0]), "chat")
    assert found is not None
    assert (found.imsi, found.ip) == (IMSI_2.value, IP.value)
    with pytest.raises(UnknownSubscriber):  # nobody is known by an address or a terminal alone
        await Scene().trigger(IP, IMEI)


async def test_a_session_tells_the_address_there_is_now() -> None:
    scene = Scene()
    await scene.trigger(IMSI, IP, IMEI, trigger=Trigger.ATTACH)
    now = NetworkId(NetworkIdKind.IP, "10.0.0.8")
    await scene.trigger(IMSI, now, trigger=Trigger.SESSION)
    (record,) = scene.records.records.values()
    assert record.network == (IMSI.pair, IMEI.pair, now.pair)
    assert scene.records.find(IP) is None


async def test_what_belongs_to_several_is_a_conflict_until_it_is_said_that_it_moves() -> None:
    scene = Scene()
    ported = await scene.trigger(IMSI, MSISDN)
    await scene.trigger(IMSI_2)
    with pytest.raises(Conflict) as refused:
        await scene.trigger(IMSI_2, MSISDN)
    assert MSISDN.value not in refused.value.message
    made = await scene.trigger(IMSI_2, MSISDN, move=True, kinds=OpaqueKind.O_TMSN)
    o_tmsi, o_tmsn = map(canonical, ported.ids)
    assert scene.resolves(o_tmsi)
    assert not scene.resolves(o_tmsn)  # it must not lead to who is left, nor to who has the number now
    found = scene.identity.local.find(canonical(made.ids[0]), "chat")
    assert found is not None
    assert (found.imsi, found.msisdn) == (IMSI_2.value, MSISDN.value)


async def test_a_number_that_moves_to_who_is_new_takes_no_ids_along() -> None:
    scene = Scene()
    o_tmsi, o_tmsn = map(canonical, (await scene.trigger(IMSI, MSISDN)).ids)
    made = await scene.trigger(IMSI_2, MSISDN, trigger=Trigger.ATTACH, move=True)
    assert not {o_tmsi, o_tmsn} & set(map(canonical, made.ids))
    assert not scene.resolves(o_tmsn)
    old = scene.identity.local.find(o_tmsi, "chat")
    assert old is not None
    assert (old.imsi, old.msisdn) == (IMSI.value, "")


async def test_opting_out_by_app_by_class_and_of_everything() -> None:
    scene = Scene()
    terminal, chat, internet = (
        await scene.one(IMSI),
        await scene.one(IMSI, scope=CHAT),
        await scene.one(IMSI, scope=INTERNET),
    )

    def may(app: str) -> list[bool]:
        return [scene.resolves(opaque, app) for opaque in (terminal, chat, internet)]

    assert await scene.allocator.opt_out(IMSI, "app:chat") == ("app:chat",)
    assert may("chat") == [False, False, False]
    assert may("mail") == [True, False, True]
    with pytest.raises(Conflict):
        await scene.trigger(IMSI, scope=CHAT)
    await scene.allocator.opt_out(IMSI, "app:chat", out=False)
    assert may("chat") == [True, True, True]
    await scene.allocator.opt_out(IMSI, "class:apn:internet")
    assert may("chat") == may("mail") == [False, False, False]
    assert scene.resolves(terminal, "news")
    with pytest.raises(Conflict):
        await scene.trigger(IMSI, scope=INTERNET)
    with pytest.raises(Conflict):
        await scene.trigger(IMSI, scope=MAIL)
    assert await scene.allocator.opt_out(IMSI, "*") == ("*", "class:apn:internet")
    assert not scene.resolves(terminal, "news")


async def test_one_may_opt_out_before_there_is_any_id() -> None:
    scene = Scene()
    await scene.allocator.opt_out(NAI, "*")
    with pytest.raises(Conflict):
        await scene.trigger(IMSI, NAI)
    with pytest.raises(UnknownSubscriber):
        await scene.allocator.opt_out(IMSI, "*", out=False)


async def test_revoking_one_all_and_the_subscriber() -> None:
    scene = Scene()
    one, other = await scene.one(IMSI), await scene.one(IMSI, scope=CHAT)
    await scene.allocator.revoke(one)
    assert (scene.resolves(one), scene.resolves(other)) == (False, True)
    with pytest.raises(UnknownSubscriber):
        await scene.allocator.revoke(one)
    with pytest.raises(UnknownSubscriber):
        await scene.allocator.revoke("nothing")
    assert await scene.allocator.revoke_all(IMSI) == 1
    assert scene.allocator.ids_of(IMSI) == []
    assert await scene.allocator.revoke_all(IMSI, forget=True) == 0
    with pytest.raises(UnknownSubscriber):
        scene.allocator.ids_of(IMSI)


async def test_limits_of_a_subscriber_over_all_apps() -> None:
    scene = Scene(draws_per_hour=3, ids_per_subscriber=2)
    await scene.one(IMSI)
    await scene.one(IMSI, scope=CHAT)
    with pytest.raises(TooManyRequests):
        await scene.trigger(IMSI, scope=MAIL)
    await scene.allocator.revoke_all(IMSI)
    await scene.one(IMSI, scope=MAIL)
    await scene.allocator.revoke_all(IMSI)
    with pytest.raises(TooManyRequests) as refused:
        await scene.trigger(IMSI)
    assert 0 < refused.value.after_ms <= 3_600_000
    scene.now_ms += refused.value.after_ms
    assert (await scene.trigger(IMSI)).drawn == 1
    assert 'reason="too_many_requests"} 2.0' in scene.metrics.render().decode()
    assert Metric.SUBSCRIBER_REFUSED.spec.label == "reason"


async def test_a_bound_of_network_ids() -> None:
    scene = Scene(network_ids_per_subscriber=2)
    await scene.trigger(IMSI, IMSI_2)
    with pytest.raises(Conflict, match="network_ids_per_subscriber"):
        await scene.trigger(IMSI, MSISDN_2)


async def test_an_app_server_asks_with_a_nai() -> None:  # C5, C15
    scene = Scene(asks_per_minute=4)
    await scene.trigger(IMSI, NAI)
    made = await scene.identity.ask("chat", NAI)
    assert [each.scope for each in made.ids] == [CHAT, CHAT]
    assert (await scene.identity.ask("chat", NAI)).ids == made.ids  # the same again
    of_class = await scene.identity.ask("chat", NAI, "apn:internet")
    assert {each.scope for each in of_class.ids} == {INTERNET}
    with pytest.raises(Forbidden):
        await scene.identity.ask("mail", NAI)
    with pytest.raises(BadRequest):
        await scene.identity.ask("chat", NAI, "service:news")
    with pytest.raises(TooManyRequests):
        await scene.identity.ask("chat", NAI)
    scene.now_ms += 60_000
    await scene.identity.ask("chat", NAI)


async def test_whom_the_feed_tells_and_of_what() -> None:  # C5
    scene = Scene(renewal="replace")
    await scene.trigger(IMSI)
    assert scene.records.told == []  # the terminal hands its own on
    old = await scene.one(IMSI, scope=CHAT)
    scene.now_ms += DAY_MS
    new = (await scene.trigger(IMSI, scope=CHAT)).ids[0]
    assert [(each.app, each.replaces) for each in scene.records.told] == [("chat", ()), ("chat", (old,))]
    assert scene.records.told[1].issued == new
    await scene.trigger(IMSI, scope=CHAT, further=True)
    assert scene.records.told[2].replaces == ()
    await scene.allocator.opt_out(IMSI, "app:mail")
    await scene.trigger(IMSI, scope=INTERNET)
    assert [each.app for each in scene.records.told[3:]] == ["chat"]  # mail is of that class too


async def test_unknown_and_opted_out_are_one_answer_to_who_asks() -> None:
    scene = Scene()
    await scene.trigger(IMSI, NAI)
    await scene.allocator.opt_out(IMSI, "app:chat")
    answers = []
    for network_id in (NAI, NetworkId(NetworkIdKind.NAI, "nobody@example.com")):
        with pytest.raises(UnknownSubscriber) as refused:
            await scene.identity.ask("chat", network_id)
        answers.append((refused.value.message, refused.value.field, refused.value.code))
    assert answers[0] == answers[1]


async def test_nothing_is_answered_that_could_not_be_written() -> None:
    scene = Scene()
    scene.records.error = StoreUnavailable()
    with pytest.raises(StoreUnavailable):
        await scene.trigger(IMSI)
    assert scene.records.records == {}
    assert "subscriber_ids_total{" not in scene.metrics.render().decode()


async def test_an_id_of_another_gateway_says_where_to_and_one_of_no_list_nothing() -> None:  # C6
    from gateway.identity.opaque_ids import parse_opaque_id

    scene = Scene()
    opaque = await scene.one(IMSI)
    local = opaque.partition("@")[0]
    elsewhere = {
        host: scene.identity.hosts.elsewhere(parse_opaque_id(f"{local}@{host}"))
        for host in (HOST, "push.other.net", "push.evil.example")
    }
    assert elsewhere == {HOST: "", "push.other.net": "https://push.other.net", "push.evil.example": ""}
    assert not scene.resolves(f"{local}@push.other.net")
    assert not scene.resolves(f"{local}@push.evil.example")
    assert scene.resolves(f"https://{HOST}/push/{local}")
    assert scene.resolves(f"com.MNOexample.HOSTpush.User{local}")
