"""One push from provider to device and back, by every road: light bodies, notifiers, time to live, recall."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from bare_device import close_all
from open_house import House, until

from gateway.metrics import Metric
from gateway.model.frames import FrameType
from gateway.tour.stage import NotifierEndpoint

Open = Callable[..., Any]


def with_webhook(endpoint: NotifierEndpoint) -> dict[str, Any]:
    return {
        "shop": {
            "fallback": ["webhook"],
            "notifiers": {"webhook": {"url": endpoint.url, "secret": endpoint.secret}},
        }
    }


async def test_a_push_comes_with_all_it_was_given_and_its_ack_is_the_providers(house: House) -> None:
    device = house.device()
    token = await device.join()
    push = await house.shop.push(
        token, "Anna", text="Hello", data={"chat": 7, "list": [1, None, "é"]}, urgency="high", collapse_key="k", ttl=60
    )
    note = await device.note(ack=True)
    wanted = {
        "token": token,
        "title": "Anna",
        "text": "Hello",
        "data": {"chat": 7, "list": [1, None, "é"]},
        "urgency": 3,
        "collapse": "k",
    }
    assert {name: note[name] for name in wanted} == wanted
    assert 60 <= note["expires"] - note["at"] <= 61
    assert "more" not in note
    delivery = await house.shop.reaches(push, "acked")
    assert [step["what"] for step in delivery["steps"]] == ["accepted", "sent", "acked"]
    times = [step["at_ms"] for step in delivery["steps"]]
    # the reactor's clock and the control thread's may differ by the millisecond that both leave out
    assert all(later >= earlier - 1 for earlier, later in pairwise(times))
    page = (await house.shop.call("GET", "/v1/receipts", params={"wait": 5})).json()
    assert [(r["push"], r["state"], r["token"]) for r in page["receipts"]] == [(push, "acked", token)]


# --- light bodies (B2)


async def test_a_light_notification_is_announced_by_its_ack_and_ended_by_the_ack_of_its_body(house: House) -> None:
    device = house.device()
    token = await device.join()
    push = await house.shop.push(token, "light", data={"body": 1}, body="on_demand")
    light = await device.note(ack=True)
    assert light["more"] is True
    assert "data" not in light
    await house.shop.reaches(push, "announced")
    answer = await device.ask(FrameType.FETCH, FrameType.FETCHED, token=token, ids=[light["id"]])
    assert answer["count"] == 1
    whole = await device.note()
    assert (whole["id"], whole["data"], whole.get("more", False)) == (light["id"], {"body": 1}, False)
    assert (await house.shop.delivery(push))["state"] in ("announced", "sent")
    device.shown(whole["id"])
    await house.shop.reaches(push, "acked")
    assert (await house.shop.steps(push))[-2:] == ["acked", "shown"]


async def test_a_body_over_the_inline_size_goes_light_unless_the_push_says_at_once(open_house: Open) -> None:
    house = await open_house({"delivery.inline_bytes": 100})
    device = house.device()
    token = await device.join()
    await house.shop.push(token, "auto", data="x" * 200)
    await house.shop.push(token, "small", data="x" * 50)
    await house.shop.push(token, "at once", data="x" * 200, body="at_once")
    notes = await device.notes(3)
    assert [(n["title"], n.get("more", False), "data" in n) for n in notes] == [
        ("auto", True, False),
        ("small", False, True),
        ("at once", False, True),
    ]


async def test_a_body_fetched_and_lost_with_its_link_is_asked_for_again_on_the_next(house: House) -> None:
    device = house.device()
    token = await device.join()
    push = await house.shop.push(token, "light", data={"body": 1}, body="on_demand")
    light = await device.note(ack=True)
    await device.ask(FrameType.FETCH, FrameType.FETCHED, token=token, ids=[light["id"]])
    await device.note()  # the body came, and no ack of it
    await close_all(device)
    await device.join()
    await device.ask(FrameType.FETCH, FrameType.FETCHED, token=token)
    notes = device.waiting()
    assert {note["id"] for note in notes} == {light["id"]}
    assert notes[-1]["data"] == {"body": 1}
    device.ack(light["id"])
    await house.shop.reaches(push, "acked")


# --- SHOWN (B6)


async def test_shown_acks_and_is_in_the_history_before_or_after_the_ack(house: House) -> None:
    device = house.device()
    token = await device.join()
    at_once, later = await house.shop.push(token, "1"), await house.shop.push(token, "2")
    first, second = await device.notes(2)
    device.shown(first["id"])
    device.ack(second["id"])
    await house.shop.reaches(at_once, "acked")
    await house.shop.reaches(later, "acked")
    device.shown(second["id"])
    device.shown(second["id"])
    await device.sync()
    assert (await house.shop.steps(at_once))[1:] == ["sent", "acked", "shown"]
    await until(lambda: _steps_are(house, later, ["accepted", "sent", "acked", "shown"]))


async def _steps_are(house: House, push: str, steps: list[str]) -> bool:
    return (await house.shop.steps(push))[: len(steps)] == steps


# --- collapse and recall


async def test_a_newer_push_of_the_same_key_takes_the_older_ones_place_even_in_flight(house: House) -> None:
    device = house.device()
    token = await device.join()
    older = await house.shop.push(token, "1:0", collapse_key="score")
    other = await house.shop.push(token, "rain", collapse_key="weather")
    first, rain = await device.notes(2)
    newer = await house.shop.push(token, "2:0", collapse_key="score")
    assert (await device.note())["title"] == "2:0"
    assert await device.receive(FrameType.RECALL) == [first["id"]]
    await house.shop.reaches(older, "replaced")
    device.ack(first["id"], rain["id"])
    await house.shop.reaches(other, "acked")
    assert (await house.shop.delivery(older))["state"] == "replaced"
    assert (await house.shop.delivery(newer))["state"] == "sent"


async def test_only_the_newest_of_a_key_waits_for_a_device_that_is_away(house: House) -> None:
    device = house.device()
    token = await device.join()
    await close_all(device)
    pushes = [await house.shop.push(token, f"{i}", collapse_key="k") for i in range(5)]
    await device.join()
    assert (await device.note(ack=True))["title"] == "4"
    await house.shop.reaches(pushes[4], "acked")
    assert [(await house.shop.delivery(p))["state"] for p in pushes[:4]] == ["replaced"] * 4
    assert not device.waiting()


async def test_a_push_in_flight_is_taken_back_and_its_late_ack_changes_nothing(house: House) -> None:
    device = house.device()
    token = await device.join()
    push = await house.shop.push(token, "oops")
    note = await device.note()
    assert await house.shop.recall(push) == {"recalled": 1, "too_late": 0}
    assert await device.receive(FrameType.RECALL) == [note["id"]]
    device.ack(note["id"])
    await device.sync()
    assert (await house.shop.delivery(push))["state"] == "recalled"
    assert house.counter("inflight") == 0
    assert await house.shop.recall(await _acked(house, device, token)) == {"recalled": 0, "too_late": 1}


async def _acked(house: House, device: Any, token: str) -> str:
    push = await house.shop.push(token, "acked")
    await device.note(ack=True)
    await house.shop.reaches(push, "acked")
    return push


# --- notifiers (B3, B4, B5)


async def test_no_ack_in_time_goes_to_the_notifier_and_a_late_ack_still_ends_it(
    open_house: Open, endpoint: NotifierEndpoint
) -> None:
    house = await open_house(apps=with_webhook(endpoint))
    device = house.device()
    token = await device.join()
    push = await house.shop.push(token, "unacked", ack_ms=50)
    note = await device.note()
    await endpoint.post_with("unacked")
    await house.shop.reaches(push, "notified")
    device.ack(note["id"])
    await house.shop.reaches(push, "acked")
    steps = await house.shop.steps(push)
    assert steps[:4] == ["accepted", "sent", "ack_timeout", "notified"]
    assert steps[-1] == "acked"
    assert house.value(Metric.ACK_TIMEOUTS) == 1
    assert len(endpoint.posts) == 1


async def test_a_device_that_is_away_is_notified_at_once_and_looked_at_again_when_no_ack_comes(
    open_house: Open, endpoint: NotifierEndpoint
) -> None:
    house = await open_house(apps=with_webhook(endpoint))
    device = house.device()
    token = await device.join()
    await close_all(device)
    push = await house.shop.push(token, "away", notifier_ack_ms=100)  # B4
    await endpoint.post_with("away")
    await device.join()  # it is back before the recheck, and gets it right then
    note = await device.note()
    await until(lambda: _has_step(house, push, "notified"))
    device.ack(note["id"])
    await house.shop.reaches(push, "acked")
    assert len(endpoint.posts) == 1


async def _has_step(house: House, push: str, step: str) -> bool:
    return step in await house.shop.steps(push)


async def test_a_recheck_sends_on_the_channel_where_the_device_is_there(
    open_house: Open, endpoint: NotifierEndpoint
) -> None:
    """B5: unacked on the link, notified, nothing; it is sent on the link again."""
    house = await open_house(apps=with_webhook(endpoint))
    device = house.device()
    token = await device.join()
    push = await house.shop.push(token, "twice", ack_ms=50, notifier_ack_ms=100)
    first = await device.note()
    again = await device.note(ack=True)
    assert again["id"] == first["id"]
    await house.shop.reaches(push, "acked")
    steps = await house.shop.steps(push)
    assert [s for s in steps if s != "sent"] == ["accepted", "ack_timeout", "notified", "recheck", "acked"]


async def test_without_a_notifier_the_link_is_tried_again(open_house: Open) -> None:
    house = await open_house({"delivery.retry_ms": 100})
    device = house.device()
    token = await device.join()
    push = await house.shop.push(token, "again", ack_ms=50)
    first = await device.note()
    second = await device.note(ack=True)
    assert first["id"] == second["id"]
    await house.shop.reaches(push, "acked")


async def test_what_a_link_took_in_vain_does_not_keep_the_rest_waiting(open_house: Open) -> None:
    house = await open_house({"delivery.retry_ms": 3_600_000})
    device = house.device()
    token = await device.join(window=2)
    dead = [await house.shop.push(token, f"dead {i}", ack_ms=50) for i in range(2)]
    await device.notes(2)
    alive = await house.shop.push(token, "alive", ack_ms=60_000)
    assert (await device.note(ack=True))["title"] == "alive"
    await house.shop.reaches(alive, "acked")
    for push in dead:
        assert (await house.shop.delivery(push))["state"] in ("waiting", "sent")  # sent again, behind the others


# --- time to live


async def test_now_or_never_is_one_try_on_the_link_or_none(house: House) -> None:
    device = house.device()
    token = await device.join()
    online = await house.shop.push(token, "now", ttl=0)
    note = await device.note(ack=True)
    assert "expires" not in note
    await house.shop.reaches(online, "acked")
    await close_all(device)
    offline = await house.shop.push(token, "never", ttl=0)
    await house.shop.reaches(offline, "expired")
    await device.join()
    await device.sync()
    assert not device.waiting()


async def test_what_expires_in_flight_is_taken_back_and_its_notifier_left_alone(
    open_house: Open, endpoint: NotifierEndpoint
) -> None:
    house = await open_house(apps=with_webhook(endpoint))
    device = house.device()
    token = await device.join()
    push = await house.shop.push(token, "short", ttl=0, ack_ms=100)
    note = await device.note()
    assert await device.receive(FrameType.RECALL) == [note["id"]]
    await house.shop.reaches(push, "expired")
    assert not endpoint.posts
    device.ack(note["id"])
    await device.sync()
    assert (await house.shop.delivery(push))["state"] == "expired"


async def test_what_expires_while_the_device_is_away_is_not_sent_when_it_is_back(house: House) -> None:
    device = house.device()
    token = await device.join()
    await close_all(device)
    push = await house.shop.push(token, "short", ttl=1)
    kept = await house.shop.push(token, "kept", ttl=60)
    await house.shop.reaches(push, "expired")
    await device.join()
    assert (await device.note(ack=True))["title"] == "kept"
    await house.shop.reaches(kept, "acked")
    assert not device.waiting()
