"""Receipts of every kind, and what the history of a push says of them (C8)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sms_scene import LONG, MSISDN, SmsScene, until

from gateway.metrics import Metric
from gateway.paging.sms.local import Behaviour
from gateway.paging.sms.pdu import Address, ShortMessage, Status, Tag
from gateway.paging.sms.receipt import MessageState


@pytest.fixture(autouse=True)
async def in_time() -> Any:
    async with asyncio.timeout(30):
        yield


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(tlvs=False),
        Behaviour(date="never"),
        Behaviour(tlvs=False, date=""),
        Behaviour(hexadecimal=True, tlvs=False),
        Behaviour(receipt_first=True),
        Behaviour(receipt_delay_s=0.1),
        Behaviour(same_id="msg_id_not_implemented", echoes_reference=True),
        Behaviour(receipts=(MessageState.ENROUTE, MessageState.DELIVERED)),
        Behaviour(receipts=(MessageState.DELIVERED, MessageState.DELIVERED)),
    ],
    ids=["text", "odd date", "no date", "hexadecimal", "early", "late", "one id for all", "two states", "twice"],
)
async def test_receipts_of_every_kind_find_their_parts(behaviour: Behaviour) -> None:
    async with SmsScene() as scene:
        scene.smsc.behaviour = behaviour
        scene.settings = {"mode": "text"}
        await asyncio.gather(scene.push(seq=1, content=LONG), scene.push(seq=2, content=LONG))
        await until(lambda: len(scene.history.steps) >= 6)
        await asyncio.sleep(0.05)
        told = sorted(step[:3] for step in scene.history.steps)
        assert told == [(seq, 3, f"delivered {part}/3") for seq in (1, 2) for part in (1, 2, 3)]
        assert scene.metrics.value(Metric.SMS_PENDING) == 0
        scene.assert_strict()


async def test_a_failed_part_says_why() -> None:
    async with SmsScene() as scene:
        scene.smsc.behaviour = Behaviour(receipts=(MessageState.UNDELIVERABLE,))
        await scene.push()
        await until(lambda: scene.history.words == ["failed"])
        assert scene.history.steps[0][4] == "undeliverable"


async def test_of_a_message_in_parts_one_receipt_is_lost() -> None:
    async with SmsScene(paging={"smsc_enquire_s": 0.05}) as scene:
        scene.settings = {"mode": "text"}
        scene.smsc.next += [Behaviour(), Behaviour(receipts=()), Behaviour()]
        assert (await scene.push(content=LONG)).ok
        await until(lambda: len(scene.history.words) == 2)
        scene.moved_ms = 3 * 3_600_000
        await until(lambda: len(scene.history.words) == 3)
        assert sorted(scene.history.words) == ["delivered 1/3", "delivered 3/3", "no_receipt 2/3"]
        assert scene.receipts("missing") == 1


async def test_of_a_message_in_parts_one_is_refused_and_all_are_tried_again() -> None:
    async with SmsScene() as scene:
        scene.settings = {"mode": "text"}
        scene.smsc.next += [Behaviour(), Behaviour(status=Status.RSYSERR)]
        result = await scene.push(content=LONG)
        assert (result.ok, result.dead, result.detail) == (False, False, "RSYSERR")
        assert (await scene.push(content=LONG)).ok
        assert len(scene.smsc.submissions) == 4


async def test_receipts_that_belong_to_nothing_are_taken_and_counted() -> None:
    async with SmsScene() as scene:
        await scene.bound()
        there, here = Address(1, 1, MSISDN), Address(0, 0, "1")
        unknown = ShortMessage(there, here, b"id:zz stat:DELIVRD err:000", esm_class=4)
        garbage = ShortMessage(there, here, b"\xff\0what", esm_class=4)
        assert await scene.smsc.deliver(unknown) == 0
        assert await scene.smsc.deliver(garbage) == 0
        assert scene.receipts("unmatched") == 1
        assert scene.receipts("unreadable") == 1


async def test_the_map_is_bounded_and_says_when_it_forgets() -> None:
    async with SmsScene(paging={"sms_receipts": 5}) as scene:
        scene.smsc.behaviour = Behaviour(receipts=())
        for seq in range(1, 9):
            assert (await scene.push(seq=seq)).ok
        assert scene.metrics.value(Metric.SMS_PENDING) == 5
        assert scene.metrics.value(Metric.DELIVERY_MEMORY_EVICTED, "sms_part") == 3


async def test_a_transmitter_asks_for_no_receipts() -> None:
    async with SmsScene(paging={"smsc_bind": "transmitter"}) as scene:
        assert (await scene.push()).ok
        assert scene.smsc.submissions[0].message.registered_delivery == 0
        assert Tag.USER_MESSAGE_REFERENCE not in scene.smsc.submissions[0].message.tlvs
        assert scene.metrics.value(Metric.SMS_PENDING) == 0
