"""The mapping held by an HSS (C7): its word, beside what this gateway knows of the id and of the subscriber."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from identity_rig import HOST, IMSI, IP, MSISDN, NAI, Scene

from gateway.identity import Identity
from gateway.identity.allocator import Trigger
from gateway.identity.hss_mapping import HssMapping, parse_external_id
from gateway.metrics import Metric
from gateway.model.errors import ConfigError
from gateway.model.subscriber import Granularity, NetworkIdKind, OpaqueKind, Scope
from gateway.model.subscribers import Numbers

KNOWN = Numbers(MSISDN.value.lstrip("+"), IMSI.value)
FOREIGN = f"Device-17.meter@{HOST}"


class Home:
    """model.subscribers.ExternalIds: one table."""

    def __init__(self) -> None:
        self.known: dict[str, Numbers] = {FOREIGN: KNOWN}
        self.asked: list[str] = []
        self.error: Exception | None = None

    async def find(self, external_id: str) -> Numbers | None:
        self.asked.append(external_id)
        if self.error is not None:
            raise self.error
        return self.known.get(external_id)


class HssScene(Scene):
    def __init__(self, **settings: Any) -> None:
        super().__init__(mapping="local", **settings)
        self.home = Home()
        self.config.mapping = "hss"
        self.identity = Identity(self.config, self.records, self.metrics, lambda: self.now_ms, self.home)
        self.allocator = self.identity.allocator

    async def found(self, opaque: str, app: str = "chat") -> bool:
        return await self.identity.resolver.resolve(opaque, app) is not None


async def test_the_hss_says_whom_an_id_stands_for() -> None:
    scene = HssScene()
    found = await scene.identity.resolver.resolve(FOREIGN, "chat")
    assert found is not None
    assert (found.imsi, found.msisdn) == (IMSI.value, MSISDN.value)
    # Tsp may name the device by it
    assert found.all(NetworkIdKind.NAI) == (FOREIGN,)
    assert isinstance(scene.identity.resolver, HssMapping)
    assert not [secret for secret in (IMSI.value, KNOWN.msisdn, FOREIGN) if secret in repr(found)]
    assert not await scene.found(f"nobody@{HOST}")


async def test_hosts_that_are_not_ours_are_never_asked_for() -> None:
    scene = HssScene()
    for opaque in (
        "Device-17.meter@push.other.net",
        "Device-17.meter@stranger.net",
        "no id at all",
        f"a b@{HOST}",
        f"@{HOST}",
        f"{'a' * 65}@{HOST}",
        f"a@b@{HOST}",
        "x" * 600,
    ):
        assert not await scene.found(opaque)
    assert scene.home.asked == []


async def test_every_form_of_an_id_of_ours_is_one_external_identifier() -> None:
    scene = HssScene(mapping_cache_s=0, mapping_unknown_s=0)
    opaque = await scene.one(IMSI, trigger=Trigger.ATTACH)
    local = opaque.partition("@")[0]
    scene.home.known[opaque] = KNOWN
    for form in (opaque, opaque.upper(), f"https://{HOST}/push/{local}", f"com.MNOexample.HOSTpush.User{local}"):
        assert await scene.found(form)
    assert set(scene.home.asked) == {opaque}


async def test_all_ids_of_a_subscriber_have_one_handle() -> None:
    scene = HssScene()
    scene.home.known[f"other@{HOST}"] = Numbers("", IMSI.value)
    scene.home.known[f"else@{HOST}"] = Numbers(KNOWN.msisdn, "001010000000009")
    resolve = scene.identity.resolver.resolve
    handles = [await resolve(each, "chat") for each in (FOREIGN, f"other@{HOST}", f"else@{HOST}")]
    first, second, third = (each.handle if each is not None else b"" for each in handles)
    assert first == second != third
    assert IMSI.value.encode() not in first


async def test_a_subscriber_known_here_is_the_same_one_with_what_is_known_beside() -> None:
    scene = HssScene()
    scene.home.known[f"number@{HOST}"] = Numbers(KNOWN.msisdn, "")
    await scene.trigger(IMSI, MSISDN, NAI, IP, trigger=Trigger.ATTACH)
    known = scene.records.find(IMSI)
    for opaque in (FOREIGN, f"number@{HOST}"):
        found = await scene.identity.resolver.resolve(opaque, "chat")
        assert found is not None
        assert (found.handle, found.ip, found.nai) == (known, IP.value, opaque)


async def test_what_this_gateway_knows_of_an_id_holds_beside_the_hss() -> None:
    scene = HssScene(mapping_cache_s=0, mapping_unknown_s=0)
    opaque = await scene.one(IMSI, trigger=Trigger.ATTACH, scope=Scope(Granularity.APP, "chat"))
    scene.home.known[opaque] = KNOWN
    assert await scene.found(opaque)
    assert not await scene.found(opaque, "mail")
    asked = len(scene.home.asked)
    assert asked == 2  # one that is refused was asked for as well
    await scene.allocator.revoke(opaque)
    assert not await scene.found(opaque)
    again = await scene.one(IMSI, trigger=Trigger.ATTACH, scope=Scope(Granularity.APP, "chat"))
    scene.home.known[again] = KNOWN
    assert await scene.found(again)
    scene.now_ms += 86_400_000 * 2
    assert not await scene.found(again)


@pytest.mark.parametrize("known_by", [IMSI, MSISDN])
@pytest.mark.parametrize("what", ["*", "app:chat", "class:apn:internet"])
async def test_who_opted_out_here_is_unknown_whatever_id_the_hss_has(known_by: Any, what: str) -> None:
    scene = HssScene(mapping_cache_s=3_600)
    assert await scene.found(FOREIGN)
    await scene.allocator.opt_out(known_by, what, out=True)
    assert not await scene.found(FOREIGN)  # at once, though the HSS's word is remembered
    assert len(scene.home.asked) == 1
    await scene.allocator.opt_out(known_by, what, out=False)
    assert await scene.found(FOREIGN)


async def test_what_the_hss_said_is_used_for_a_while_and_a_no_for_a_moment() -> None:
    scene = HssScene(mapping_cache_s=30, mapping_unknown_s=1)
    nobody = f"nobody@{HOST}"
    for _ in range(3):
        assert await scene.found(FOREIGN)
        assert not await scene.found(nobody)
    assert scene.home.asked == [FOREIGN, nobody]
    scene.now_ms += 1_000
    scene.home.known[nobody] = KNOWN
    assert await scene.found(nobody)
    assert await scene.found(FOREIGN)
    assert scene.home.asked == [FOREIGN, nobody, nobody]
    scene.now_ms += 30_000
    del scene.home.known[FOREIGN]
    assert not await scene.found(FOREIGN)


async def test_one_that_is_refused_is_asked_for_again_as_soon_as_one_that_is_unknown() -> None:
    scene = HssScene(mapping_cache_s=30, mapping_unknown_s=1)
    ended = await scene.one(IMSI, MSISDN, kinds=OpaqueKind.O_TMSI, trigger=Trigger.ATTACH)
    await scene.allocator.revoke(ended)
    foreign = await scene.one(
        IMSI, MSISDN, kinds=OpaqueKind.O_TMSI, trigger=Trigger.ATTACH, scope=Scope(Granularity.APP, "mail")
    )
    scene.home.known |= {ended: KNOWN, foreign: KNOWN}
    refused = [f"nobody@{HOST}", ended, foreign]
    for turn in range(3):
        for opaque in refused:
            assert not await scene.found(opaque)
            assert not await scene.found(opaque)
        assert scene.home.asked == refused * (turn + 1)
        scene.now_ms += 1_000
    # an app that may use it does not change how it is for one that may not
    assert await scene.found(foreign, "mail")
    scene.home.asked.clear()
    assert not await scene.found(foreign)
    assert scene.home.asked == [foreign]


async def test_an_opt_out_shortens_what_is_remembered() -> None:
    scene = HssScene(mapping_cache_s=3_600, mapping_unknown_s=1)
    assert await scene.found(FOREIGN)
    await scene.allocator.opt_out(IMSI, "*", out=True)
    for _ in range(2):
        assert not await scene.found(FOREIGN)
        scene.now_ms += 1_000
    assert scene.home.asked == [FOREIGN, FOREIGN]


async def test_what_is_remembered_is_bounded_and_counted() -> None:
    scene = HssScene(mapping_cache_entries=2, mapping_unknown_s=10)
    for n in range(5):
        await scene.found(f"d{n}@{HOST}")
    assert scene.metrics.value(Metric.MAPPING_CACHE, "full") == 3
    await scene.found(f"d4@{HOST}")
    assert scene.metrics.value(Metric.MAPPING_CACHE, "hit") == 1
    await scene.found(f"d0@{HOST}")
    assert scene.home.asked.count(f"d0@{HOST}") == 2


@pytest.mark.parametrize("error", [TimeoutError(), OSError(), ValueError()])
async def test_an_hss_that_can_not_be_asked_is_no_unknown_id(error: Exception) -> None:
    scene = HssScene()
    scene.home.error = error
    with pytest.raises(type(error)):
        await scene.found(FOREIGN)
    scene.home.error = None
    assert await scene.found(FOREIGN)  # trouble is not remembered


async def test_a_network_id_in_no_form_of_ours_is_used_as_the_hss_says_it() -> None:
    scene = HssScene()
    scene.home.known[FOREIGN] = Numbers("112", "123456")
    found = await scene.identity.resolver.resolve(FOREIGN, "chat")
    assert found is not None
    assert (found.msisdn, found.imsi) == ("112", "123456")
    scene.home.known[f"empty@{HOST}"] = Numbers()
    assert not await scene.found(f"empty@{HOST}")


async def test_ids_are_drawn_here_as_ever() -> None:
    scene = HssScene()
    assert (await scene.trigger(IMSI, NAI, trigger=Trigger.ATTACH)).ids


def test_without_an_hss_there_is_no_such_mapping() -> None:
    scene = Scene()
    scene.config.mapping = "hss"
    with pytest.raises(ConfigError) as caught:
        Identity(scene.config, scene.records, scene.metrics, lambda: 0)
    assert caught.value.field == "identity.mapping"


@given(st.text(max_size=80))
def test_any_text_is_an_external_identifier_or_none(text: str) -> None:
    parsed = parse_external_id(text)
    if parsed is not None:
        assert parse_external_id(parsed.canonical) == parsed


@given(st.from_regex(r"[A-Za-z0-9._~+-]{1,64}", fullmatch=True))
def test_a_local_part_of_an_operators_own_is_kept_as_it_is(local: str) -> None:
    parsed = parse_external_id(f"{local}@Push.Example.com")
    assert parsed is not None
    assert parsed.host == "push.example.com"
    assert parsed.local in (local, local.lower())
