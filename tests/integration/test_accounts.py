"""A5: after an account switch nothing addressed to the old account reaches the new one, by no channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bare_device import BareDevice, close_all
from open_house import House, until

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


def titles(device: BareDevice) -> list[str]:
    return [note["title"] for note in device.waiting()]


async def test_the_new_account_gets_nothing_of_the_old_one_and_the_old_one_gets_it_when_back(house: House) -> None:
    device = house.device()
    await device.login()
    anna = await device.register(account="anna")
    bert = await device.register(account="bert")
    assert anna != bert
    for_anna = await house.shop.push(anna, "for anna")
    await house.shop.push(bert, "for bert")
    assert (await device.note(ack=True))["token"] == bert
    await device.sync()
    assert not device.waiting()
    assert await device.register(account="anna") == anna
    assert (await device.note(ack=True))["title"] == "for anna"
    await house.shop.reaches(for_anna, "acked")


async def test_what_is_in_flight_at_the_switch_stays_the_old_accounts(house: House) -> None:
    device = house.device()
    await device.login()
    anna = await device.register(account="anna")
    push = await house.shop.push(anna, "for anna")
    note = await device.note()
    await device.register(account="bert")
    device.ack(note["id"])  # too late: this device is bert's now, who must not settle it
    await device.sync()
    assert (await house.shop.delivery(push))["state"] == "waiting"
    assert house.counter("inflight") == 0
    await device.register(account="anna")
    again = await device.note(ack=True)
    assert again["id"] == note["id"]
    await house.shop.reaches(push, "acked")


async def test_switches_sent_without_waiting_leave_the_last_account_alone_bound(house: House) -> None:
    device = house.device()
    await device.login()
    tokens = {}
    for name in ("anna", "bert", "carl"):
        tokens[name] = await device.register(account=name)
    for i, name in enumerate(("anna", "bert", "carl", "anna", "bert")):
        device.send(FrameType.REGISTER, {"req": i, "app": "shop", "version": "1.0", "account": name})
    await until(lambda: len(device.waiting(FrameType.TOKEN)) == 5)
    bound = [name for name, token in tokens.items() if await house.shop.is_connected(token)]
    assert len(bound) == 1
    for name, token in tokens.items():
        await house.shop.push(token, name)
    assert (await device.note(ack=True))["title"] == bound[0]
    await device.sync()
    assert not device.waiting()


async def test_a_broadcast_comes_once_to_the_app_after_a_switch(house: House) -> None:
    device = house.device()
    await device.login()
    await device.register(account="anna")
    await device.register(account="bert")
    push = await house.shop.push({"everyone": True}, "to all")
    assert (await device.note(ack=True))["app"] == "shop"
    await device.sync()
    assert not device.waiting()
    figures = await house.shop.figures(push)
    assert figures["sent"] == 1


async def test_while_signed_out_no_notifier_is_asked_not_even_after_a_restart(
    open_house: Open, endpoint: NotifierEndpoint
) -> None:
    house = await open_house({"delivery.notifier_ack_ms": 100, "delivery.retry_ms": 100}, apps=with_webhook(endpoint))
    device = house.device()
    await device.login()
    anna = await device.register(account="anna")
    bert = await device.register(account="bert")
    secret = await house.shop.push(anna, "secret of anna")
    await close_all(device)
    await until(lambda: _is_away(house, bert))
    for_bert = await house.shop.push(bert, "before")
    await endpoint.post_with("before")
    await house.restart()
    again = await house.shop.push(anna, "another secret")
    after = await house.shop.push(bert, "after")
    await endpoint.post_with("after")
    for push in (secret, again):
        await house.shop.reaches(push, "waiting")  # looked at as disconnected (B4), and no notifier asked
    assert not endpoint.has("secret")
    await device.login()
    assert await device.register(account="anna") == anna
    assert [n["title"] for n in await device.notes(2, ack=True)] == ["secret of anna", "another secret"]
    for push in (secret, again):
        await house.shop.reaches(push, "acked")
    await device.register(account="bert", keep=True)
    await device.notes(2, ack=True)
    for push in (for_bert, after):
        await house.shop.reaches(push, "acked")


async def _is_away(house: House, token: str) -> bool:
    return not await house.shop.is_connected(token)


async def test_an_ack_timeout_of_an_account_signed_out_meanwhile_asks_no_notifier(
    open_house: Open, endpoint: NotifierEndpoint
) -> None:
    house = await open_house(apps=with_webhook(endpoint))
    device = house.device()
    await device.login()
    anna = await device.register(account="anna")
    push = await house.shop.push(anna, "secret of anna", ack_ms=100)
    await device.note()
    bert = await device.register(account="bert")
    await house.shop.push(bert, "unacked", ack_ms=100)
    await endpoint.post_with("unacked")  # a whole ack time later
    assert not endpoint.has("secret")
    assert "notified" not in await house.shop.steps(push)


async def test_a_switch_is_durable_before_the_device_is_told(open_house: Open) -> None:
    house = await open_house({"store.commit_ms": 30.0})
    device = house.device()
    await device.login()
    await device.register(account="anna")
    await device.register(account="bert")
    assert not house.gateway.store.committer.waiting_rows


async def test_keep_lets_both_accounts_live_and_a_switch_ends_all_others(house: House) -> None:
    device = house.device()
    await device.login()
    await house.create_app("chat")
    anna = await device.register(account="anna")
    bert = await device.register(account="bert", keep=True)
    room = await device.register("chat", account="anna")
    carl = await device.register(account="carl")
    connected = {
        "anna": await house.shop.is_connected(anna),
        "bert": await house.shop.is_connected(bert),
        "carl": await house.shop.is_connected(carl),
        "room": await house.providers["chat"].is_connected(room),
    }
    assert connected == {"anna": False, "bert": False, "carl": True, "room": True}
