"""An id that may not be used is refused like one that is unknown, byte for byte and step for step: the same hashes,
reads of the store and decryptions, whatever the reason (docs/identity.md, Privacy)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from open_house import until
from refused_ids import APPS, OUT_NAI, UNKNOWN_NAI, Refused, refused_settings, shown
from work_meter import Meter, Work

from gateway.identity.hss_mapping import HssMapping
from gateway.model.subscribers import Numbers
from gateway.paging.sms.local import LocalSmsc

Open = Callable[..., Any]
#: what another task does meanwhile is counted too, so the least of some tries is what the answer took
TRIES = 8


@pytest.fixture
async def refused(open_house: Open, tmp_path: Path) -> AsyncIterator[Refused]:
    smsc = LocalSmsc()
    house = await open_house(await refused_settings(smsc, tmp_path), apps=APPS)
    await until(lambda: smsc.is_bound)
    refused = Refused(house, smsc)
    await refused.make()
    await house.gateway.store.committer.flush()  # a row that gets there between two tries is work of one of them alone
    yield refused
    await smsc.close()


async def least(meter: Meter, ask: Callable[[], Any]) -> tuple[Work, Any]:
    """(work, answer); the answers are alike each time."""
    tries, answers = [], []
    for _ in range(TRIES):
        meter.start()
        answers.append(shown(await ask()))
        tries.append(Work(meter.work))
    assert len(set(answers)) == 1
    return in_each(tries), answers[0]


def in_each(tries: list[Work]) -> Work:
    """What was done in every one of them."""
    return Work({name: min(each[name] for each in tries) for name in tries[0] if all(each[name] for each in tries)})


def tell_apart(by_reason: dict[str, Any]) -> dict[str, Any]:
    """What differs from the unknown id's; empty where all are alike."""
    usual = by_reason["unknown"]
    return {reason: (value, usual) for reason, value in by_reason.items() if value != usual}


async def test_every_door_takes_the_same_work_for_each_reason(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter(monkeypatch)
    for door, ask in refused.doors.items():
        work, answers = {}, {}
        for reason, opaque in refused.ids.items():
            work[reason], answers[reason] = await least(meter, lambda ask=ask, opaque=opaque: ask(opaque))
        assert tell_apart(answers) == {}, door
        assert answers["unknown"][0] in (200, 404), door  # 200: of the batch, whose line says 404
        assert tell_apart(work) == {}, door
        assert work["unknown"]["keyed hash"] >= 2, door  # a count of nothing would be the same, too
        assert work["unknown"]["read OPAQUE_IDS"] == work["unknown"]["read SUBSCRIBERS"] >= 1, door
        assert sum(count for name, count in work["unknown"].items() if name.startswith("open ")) >= 2, door


async def test_the_web_push_door_takes_the_same_work_where_the_id_selects_its_app(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter(monkeypatch)
    reasons = ("unknown", "lapsed", "lapsed, and swept", "revoked", "replaced, after a push", "opted out, after a push")
    ids = {reason: refused.ids[reason] for reason in reasons}
    ids |= {"of no single app": refused.without_app, "of an app whose door is shut": refused.shut}
    for method in ("GET", "POST"):
        work, answers = {}, {}
        for reason, opaque in ids.items():
            path = f"/push/{opaque.partition('@')[0]}"
            ask = refused.house.http.request
            work[reason], answers[reason] = await least(
                meter, lambda ask=ask, method=method, path=path: ask(method, path, headers={"ttl": "60"})
            )
        assert answers["unknown"][0] == 404
        assert tell_apart(answers) == {}, method
        assert tell_apart(work) == {}, method
        assert work["unknown"]["read SUBSCRIBERS"] == 2


async def test_an_app_server_that_asks_by_nai_gets_one_answer_after_the_same_work(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter(monkeypatch)
    work, answers = {}, {}
    for reason, nai in (("unknown", UNKNOWN_NAI), ("opted out", OUT_NAI)):
        call = refused.house.shop.call
        work[reason], answers[reason] = await least(
            meter, lambda call=call, nai=nai: call("POST", "/v1/subscriber-ids", json={"nai": nai})
        )
    assert answers["unknown"][0] == 404
    assert tell_apart(answers) == tell_apart(work) == {}
    assert work["unknown"]["read NETWORK_IDS"] == work["unknown"]["read SUBSCRIBERS"] == 1


class Home:
    """An HSS that knows whom it is told of (model.subscribers.ExternalIds)."""

    def __init__(self) -> None:
        self.known: dict[str, Numbers] = {}

    async def find(self, external_id: str) -> Numbers | None:
        return self.known.get(external_id)


async def test_with_an_hss_an_id_that_it_knows_is_refused_like_one_that_it_does_not(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, home = refused.house.gateway, Home()
    identity = gateway.identity
    config = replace(gateway.config.identity, mapping_cache_s=0, mapping_unknown_s=0)
    records = gateway.store.subscribers
    mapping = HssMapping(
        home, config, records, identity.hosts, identity.classes, gateway.metrics, lambda: time.time_ns() // 1_000_000
    )
    away = ("of another gateway", "of a host in no list", "live, with another gateway's host")
    ids = {reason: opaque for reason, opaque in refused.ids.items() if reason not in away}
    meter, work = Meter(monkeypatch), {}
    for named in (
        Numbers("491719999999", "001019999999999"),
        Numbers("", "001019999999999"),
        Numbers("491719999999", ""),
    ):
        for reason, opaque in ids.items():
            if reason not in ("unknown", "unknown, too", "of nobody's form", "opted out of everything"):
                home.known[opaque] = named  # it would be good, but for what this gateway has of the id
            tries = []
            for _ in range(TRIES):
                meter.start()
                assert await mapping.resolve(opaque, "shop") is None
                tries.append(Work(meter.work))
            work[reason] = in_each(tries)
        assert tell_apart(work) == {}
    assert work["unknown"]["read NETWORK_IDS"] == 2
    assert work["unknown"]["scan OPAQUE_HISTORY"] == 1
