"""The whole gateway on uvloop with an SMSC that runs here: a device that is away is woken by a short message, and where
is my push says what became of it (C8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from open_house import House, until

from gateway.metrics import Metric
from gateway.model.errors import ConfigError
from gateway.paging.app_payload import parse_payload
from gateway.paging.sms.hlr import build_frame
from gateway.paging.sms.local import Behaviour, LocalSmsc, build_receipt
from gateway.paging.sms.pdu import Address, Status
from gateway.paging.sms.receipt import MessageState
from gateway.paging.udh import parse_header

Open = Callable[..., Any]
MSISDN = "+491511234567"


def settings(folder: Path, port: int) -> dict[str, Any]:
    file = folder / "smpp-password"
    file.write_text("secret\n")
    file.chmod(0o600)
    return {
        "paging.smscs": [f"smpp://pushgw@127.0.0.1:{port}"],
        "paging.smsc_password_file": str(file),
        "paging.smsc_reconnect_s": 0.05,
        "delivery.notifier_ack_ms": 100,
        "identity.host": "push.example.com",
    }


async def opaque_id(house: House) -> str:
    """Of a subscriber that attached a moment ago."""
    key = house.gateway.admin_key_file.read_text().strip()
    answer = await house.http.post(
        "/v1/subscribers",
        json={"network_ids": [{"kind": "msisdn", "value": MSISDN}], "trigger": "attach", "app": "shop"},
        headers={"authorization": f"Bearer {key}"},
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["ids"][0]["id"])


async def away(house: House, addresses: dict[str, str]) -> str:
    """Token of a device that registered and left."""
    device = house.device()
    await device.login()
    token = str(await device.register(addresses=addresses, fallback=["sms", "stub"]))
    device.close()

    async def is_away() -> bool:
        return not await house.shop.is_connected(token)

    await until(is_away)
    return token


async def steps(house: House, push: str) -> list[str]:
    return [f"{step['what']} {step['channel']}".strip() for step in (await house.shop.delivery(push))["steps"]]


async def test_a_device_that_is_away_is_woken_and_the_history_says_delivered(open_house: Open, tmp_path: Path) -> None:
    smsc = LocalSmsc()
    port = await smsc.start()
    smsc.behaviour = Behaviour(receipt_delay_s=0.05)
    house = await open_house(settings(tmp_path, port))
    try:
        await until(lambda: smsc.is_bound)  # before anything is to be sent
        token = await away(house, {"sms": await opaque_id(house)})
        push = await house.shop.push(token, "wake up", text="there is news")

        async def told() -> bool:
            return "delivered sms" in await steps(house, push)

        await until(told)
        assert "notified sms" in await steps(house, push)
        _, body = parse_header(smsc.submissions[0].message.message)
        payload = parse_payload(body)
        assert (payload.title, payload.text) == ("wake up", "there is news")
        # the app connects, fetches and acks: the receipt's line stays
        await house.shop.recall(push)
        assert "delivered sms" in await steps(house, push)
        assert smsc.faults == []
    finally:
        await smsc.close()


async def test_a_receipt_after_the_end_is_written_into_the_closed_history(open_house: Open, tmp_path: Path) -> None:
    smsc = LocalSmsc()
    port = await smsc.start()
    smsc.behaviour = Behaviour(receipt_delay_s=0.4)
    house = await open_house(settings(tmp_path, port))
    try:
        token = await away(house, {"sms": await opaque_id(house)})
        push = await house.shop.push(token, "hello")
        await until(lambda: len(smsc.submissions) == 1)
        await house.shop.recall(push)

        async def told() -> bool:
            return (await steps(house, push))[-1] == "delivered sms"

        await until(told)
        assert (await house.shop.delivery(push))["state"] == "recalled"
    finally:
        await smsc.close()


@pytest.mark.parametrize("behaviour", [Behaviour(), Behaviour(same_id="the_same", echoes_reference=True)])
async def test_a_receipt_that_comes_after_a_restart_finds_its_push(
    open_house: Open, tmp_path: Path, behaviour: Behaviour
) -> None:
    smsc = LocalSmsc()
    port = await smsc.start()
    smsc.behaviour = replace(behaviour, receipts=())
    house = await open_house(settings(tmp_path, port))
    try:
        pushes = []
        for title in ("one", "two"):
            token = await away(house, {"sms": await opaque_id(house)})
            push = await house.shop.push(token, title)
            await until(lambda: len(smsc.submissions) > len(pushes))
            pushes.append(push)

        async def taken() -> bool:
            return all(["notified sms" in await steps(house, push) for push in pushes])

        await until(taken)
        await house.restart()
        await until(lambda: smsc.is_bound)
        taken_first, second = smsc.submissions[:2]
        await smsc.deliver(build_receipt(second.message, second.message_id, MessageState.DELIVERED, behaviour))

        async def told() -> bool:
            return "delivered sms" in await steps(house, pushes[1])

        await until(told)
        assert "delivered sms" not in await steps(house, pushes[0])
        await smsc.deliver(
            build_receipt(taken_first.message, taken_first.message_id, MessageState.DELIVERED, behaviour)
        )
        await until(lambda: house.value(Metric.SMS_PENDING) == 0)
    finally:
        await smsc.close()


class Register:
    """An HLR's control interface with one subscriber, who may have left the network."""

    def __init__(self) -> None:
        self.is_away = True
        self.asked = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readexactly(3)
        await reader.readexactly(int.from_bytes(head[:2], "big"))
        self.asked += 1
        purged = int(self.is_away)
        lines = f"msisdn\t{MSISDN[1:]}\nms_purged_cs\t{purged}\nms_purged_ps\t{purged}\n"
        writer.write(build_frame(f"GET_REPLY 1 subscriber.by-msisdn-{MSISDN[1:]}.info {lines}"))
        writer.close()


async def test_a_terminal_that_left_the_network_is_woken_as_soon_as_it_is_back(
    open_house: Open, tmp_path: Path
) -> None:
    smsc, register = LocalSmsc(), Register()
    port = await smsc.start()
    hlr = await asyncio.start_server(register, "127.0.0.1", 0)
    house = await open_house(
        settings(tmp_path, port)
        | {"paging.hlr": f"127.0.0.1:{hlr.sockets[0].getsockname()[1]}", "delivery.retry_ms": 3_600_000}
    )
    try:
        await until(lambda: smsc.is_bound)
        token = await away(house, {"sms": await opaque_id(house)})
        push = await house.shop.push(token, "wake up", fallback=["sms"])
        assert (await house.shop.reaches(push, "waiting"))["steps"][-1]["what"] == "notifier_failed"
        smsc.alert(Address(1, 1, "4911111"))  # somebody else is back
        register.is_away = False
        smsc.alert(Address(1, 1, MSISDN[1:]))
        await until(lambda: len(smsc.submissions) == 1)
        await house.shop.reaches(push, "notified")
        assert register.asked == 2
    finally:
        await smsc.close()
        hlr.close()
        await hlr.wait_closed()


async def test_each_delivery_of_a_push_to_many_has_its_own_line(open_house: Open, tmp_path: Path) -> None:
    smsc = LocalSmsc()
    port = await smsc.start()
    house = await open_house(settings(tmp_path, port))
    try:
        for _ in range(3):
            token = await away(house, {"sms": await opaque_id(house)})
            answer = await house.shop.call("PUT", f"/v1/registrations/{token}", json={"tags": ["vip"]})
            assert answer.status_code == 200, answer.text
        push = await house.shop.push({"tag": "vip"}, "hello")

        async def told() -> bool:
            deliveries = (await house.shop.look(push))["deliveries"]
            lines = [[step["what"] for step in delivery["steps"]] for delivery in deliveries]
            return len(lines) == 3 and all(words.count("delivered") == 1 for words in lines)

        await until(told)
    finally:
        await smsc.close()


async def test_who_is_unknown_there_goes_on_to_the_next_of_the_chain(open_house: Open, tmp_path: Path) -> None:
    smsc = LocalSmsc()
    port = await smsc.start()
    smsc.behaviour = Behaviour(status=Status.RINVDSTADR)
    house = await open_house(settings(tmp_path, port))
    try:
        for address in (await opaque_id(house), "expired-id"):
            push = await house.shop.push(await away(house, {"sms": address}), "hello")

            async def gone_on(push: str = push) -> bool:
                return {"notifier_failed sms", "notified stub"} <= set(await steps(house, push))

            await until(gone_on)
        assert house.value(Metric.NOTIFIER_OUTCOMES, "sms RINVDSTADR") == 1
        assert house.value(Metric.NOTIFIER_OUTCOMES, "sms unknown_subscriber") == 1
    finally:
        await smsc.close()


async def test_without_smscs_there_is_no_such_notifier(open_house: Open) -> None:
    house = await open_house()
    assert "sms" not in house.gateway.notifiers


async def test_a_password_that_can_not_be_read_stops_the_start(tmp_path: Path) -> None:
    wrong = settings(tmp_path, 1) | {"paging.smsc_password_file": str(tmp_path / "nowhere")}
    with pytest.raises(ConfigError) as caught:
        async with House(tmp_path / "house", wrong):
            pass
    assert caught.value.field == "paging.smsc_password_file"
