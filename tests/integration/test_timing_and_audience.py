"""Schedules, conditions, languages, quiet hours and statistics through both doors of a whole gateway."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from open_house import House, until


def now_s() -> int:
    return int(time.time())


def a_span_around_now() -> str:
    now = datetime.now(UTC)
    return f"{now - timedelta(hours=2):%H:%M}-{now + timedelta(hours=2):%H:%M}"


async def test_a_scheduled_push_survives_a_restart_and_keeps_its_id(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        device = house.device()
        token = await device.join()
        push = await house.shop.push(token, "later", deliver_at=now_s() + 2)
        recalled = await house.shop.push(token, "never", deliver_at=now_s() + 2)
        assert (await house.shop.look(push))["state"] == "scheduled"
        listed = (await house.shop.call("GET", "/v1/scheduled")).json()
        assert {row["id"] for row in listed["scheduled"]} == {push, recalled}
        assert await house.shop.recall(recalled) == {"recalled": 1, "too_late": 0}
        await house.restart()
        again = house.device()
        again.device, again.secret = device.device, device.secret
        device = again
        assert await device.join() == token
        note = await device.note(ack=True)
        assert note["title"] == "later"
        await house.shop.reaches(push, "acked")

        async def told() -> list[str]:
            page = (await house.shop.call("GET", "/v1/receipts")).json()
            return [receipt["push"] for receipt in page["receipts"]]

        await until(lambda: has_both(told))
        assert await told() == [recalled, push]
        assert (await house.shop.look(recalled))["state"] == "recalled"
        assert not device.waiting()


async def has_both(told: Callable[[], Awaitable[list[str]]]) -> bool:
    return len(await told()) == 2


async def test_each_device_reads_its_language_and_conditions_choose_among_them(house: House) -> None:
    devices = {}
    for locale, os in (("de-AT", "android"), ("fr", "ios"), ("", "")):
        device = devices[locale] = house.device()
        await device.login()
        await device.register(locale=locale, os=os, tags=[os] if os else [])
    push = await house.shop.push(
        {"everyone": True}, "Hello", localized={"de": {"title": "Hallo"}, "fr": {"title": "Salut"}}
    )
    titles = {locale: (await device.note(ack=True))["title"] for locale, device in devices.items()}
    assert titles == {"de-AT": "Hallo", "fr": "Salut", "": "Hello"}
    await until(lambda: house.shop.figures(push))

    only = await house.shop.push({"where": {"all": [{"locale": "de"}, {"not": {"os": "ios"}}]}}, "cohort")
    assert (await devices["de-AT"].note(ack=True))["title"] == "cohort"
    assert (await house.shop.look(only))["state"] == "live"
    tagged = await house.shop.push({"where": {"any": [{"tag": "ios"}, {"tag": "nobody"}]}}, "tagged")
    assert (await devices["fr"].note(ack=True))["title"] == "tagged"
    await house.shop.reaches(tagged, "acked")
    for device in devices.values():
        await device.sync()
        assert not device.waiting()


async def test_quiet_hours_hold_back_single_pushes_batches_and_broadcasts_but_not_urgent_ones(house: House) -> None:
    device = house.device()
    await device.login()
    token = await device.register(timezone="UTC", quiet=a_span_around_now())
    await house.shop.push(token, "single")
    await house.shop.push_many([{"target": {"token": token}, "title": "batch"}])
    await house.shop.push({"everyone": True}, "broadcast")
    await house.shop.push(token, "urgent", urgency="high")
    await house.shop.push({"everyone": True}, "urgent broadcast", urgency="high")
    assert sorted([(await device.note(ack=True))["title"] for _ in range(2)]) == ["urgent", "urgent broadcast"]
    await device.sync()
    assert not device.waiting()
    await house.shop.call("PUT", f"/v1/registrations/{token}", json={"quiet": ""})
    assert sorted([(await device.note(ack=True))["title"] for _ in range(3)]) == ["batch", "broadcast", "single"]


async def test_statistics_of_a_broadcast_by_version(house: House) -> None:
    old, new = house.device(), house.device()
    await old.login()
    await old.register(version="1.0")
    await new.login()
    await new.register(version="2.0")
    push = await house.shop.push({"everyone": True}, "news")
    await old.note(ack=True)
    await new.note()

    async def counted() -> bool:
        stats = (await house.shop.call("GET", f"/v1/push/{push}/statistics")).json()
        versions = {v: (c["targeted"], c["sent"], c["acked"], c["pending"]) for v, c in stats["versions"].items()}
        return versions == {"1.0": (1, 1, 1, 0), "2.0": (1, 1, 0, 1)} and stats["sent"] == 2

    await until(counted)


async def test_a_revoked_token_is_in_the_feed_of_its_app(house: House) -> None:
    device = house.device()
    token = await device.join()
    await house.shop.revoke(token)
    page = (await house.shop.call("GET", "/v1/dead-tokens")).json()
    assert [(row["token"], row["why"]) for row in page["dead_tokens"]] == [(token, "revoked")]


async def test_limits_hold_through_every_door(tmp_path: Path) -> None:
    async with House(tmp_path, apps={"shop": {"limits": {"per_day": 3}, "device_per_hour": 1}}) as house:
        device = house.device()
        token = await device.join()
        first = await house.shop.push(token, "one")
        await device.note(ack=True)
        second = await house.shop.push_many([{"target": {"token": token}, "title": "two"}])
        await house.shop.reaches(second[0], "limited")
        await house.shop.reaches(first, "acked")
        await house.shop.push(token, "three", urgency="high")
        answer = await house.shop.call("POST", "/v1/push", json={"target": {"token": token}, "title": "four"})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0


async def test_a_change_by_the_provider_is_in_force_on_the_link_that_is_there(house: House) -> None:
    device = house.device()
    await device.login()
    token = await device.register(locale="en")
    words = {"de": {"title": "eins"}}
    await house.shop.push({"everyone": True}, "one", localized=words)
    assert (await device.note(ack=True))["title"] == "one"
    answer = await house.shop.call("PUT", f"/v1/registrations/{token}", json={"locale": "de"})
    assert answer.json()["locale"] == "de"
    await house.shop.push({"everyone": True}, "two", localized={"de": {"title": "zwei"}})
    await house.shop.push({"where": {"locale": "de"}}, "three")
    assert [(await device.note(ack=True))["title"] for _ in range(2)] == ["zwei", "three"]
    await house.shop.call("PUT", f"/v1/registrations/{token}", json={"timezone": "UTC", "quiet": a_span_around_now()})
    await house.shop.push({"everyone": True}, "held")
    await device.sync()
    assert not device.waiting()
    await house.shop.call("PUT", f"/v1/registrations/{token}", json={"quiet": ""})
    assert (await device.note(ack=True))["title"] == "held"
    await device.sync()
    assert not device.waiting()
