"""Messages to cards and from them over SMSCs that run here: parts, receipts, trouble, rates, what comes in."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from card_messages_scene import CARD, LONG_PACKET, PACKET, CardMessagesScene
from hypothesis import given
from hypothesis import strategies as st
from sms_scene import IMSI, MSISDN, until

from gateway.metrics import Metric
from gateway.model.cards import CardMessages, CardRecord, Fate, SentMessage
from gateway.model.errors import ConfigError
from gateway.ota.sms_pp import segment
from gateway.paging.sms.card_messages import TON_NATIONAL, SmsCardMessages, find_source
from gateway.paging.sms.local import Behaviour, Submission
from gateway.paging.sms.pdu import (
    ESM_UDHI,
    NPI_E164,
    NPI_E212,
    TON_ALPHANUMERIC,
    TON_INTERNATIONAL,
    TON_UNKNOWN,
    Address,
    Command,
    Status,
    Tag,
    build_pdu,
)
from gateway.paging.sms.receipt import MessageState

NOT_DELIVERED = Behaviour(receipts=(MessageState.UNDELIVERABLE,))


# --- out


async def test_a_message_to_a_card_is_what_a_terminal_hands_on() -> None:
    async with CardMessagesScene(paging={"sms_source": "4999"}) as scene:
        port: CardMessages = scene.cards
        assert port is scene.cards
        assert await scene.send(valid_s=300) == SentMessage(Fate.TAKEN)
        assert await scene.fate() is Fate.DELIVERED
        sm = scene.smsc.submissions[0].message
        assert (sm.esm_class, sm.protocol_id, sm.data_coding) == (ESM_UDHI, 0x7F, 0xF6)
        assert sm.destination == Address(TON_INTERNATIONAL, NPI_E164, MSISDN)
        assert sm.source.digits == "4999"
        assert sm.message == b"\x02\x70\x00" + PACKET
        assert (sm.validity, sm.registered_delivery) == ("000000000500000R", 1)
        assert scene.metrics.value(Metric.OTA_MESSAGES, "taken") == 1
        assert scene.metrics.value(Metric.OTA_MESSAGES, "delivered") == 1
        scene.assert_strict()


async def test_all_parts_go_to_one_smsc_in_order_and_are_delivered_together() -> None:
    async with CardMessagesScene(2) as scene:
        scene.smsc.behaviour = Behaviour(receipt_first=True)
        assert (await scene.send(LONG_PACKET)).fate is Fate.TAKEN
        assert await scene.fate() is Fate.DELIVERED
        assert [each.message.message for each in scene.smsc.submissions] == segment(LONG_PACKET, 1)
        assert scene.smscs[1].submissions == []
        scene.assert_strict()


async def test_who_has_no_number_is_reached_by_imsi() -> None:
    async with CardMessagesScene() as scene:
        scene.smsc.behaviour = Behaviour(same_id="1", echoes_reference=True)
        await scene.send(record=CardRecord("", IMSI, "", (), 2, 2, b"", b""))
        assert scene.smsc.submissions[0].message.destination == Address(TON_UNKNOWN, NPI_E212, IMSI)
        assert await scene.fate() is Fate.DELIVERED


async def test_who_has_neither_is_never_reached() -> None:
    async with CardMessagesScene() as scene:
        record = CardRecord("", "", "", (), 2, 2, b"", b"")
        assert await scene.send(record=record) == SentMessage(Fate.REFUSED, 0, "no number")
        assert (await scene.cards.send_text(record, "hello", valid_s=9)).fate is Fate.REFUSED
        assert scene.metrics.value(Metric.OTA_MESSAGES, "refused") == 2


@pytest.mark.parametrize("parts", [[], [bytes(141)], [b"\0"] * 256])
async def test_what_is_no_message(parts: list[bytes]) -> None:
    async with CardMessagesScene() as scene:
        assert await scene.cards.send(CARD, parts, valid_s=9) == SentMessage(Fate.REFUSED, 0, "size")


async def test_a_notice_is_an_ordinary_message() -> None:
    async with CardMessagesScene(ota={"source": "Shop"}) as scene:
        assert (await scene.cards.send_text(CARD, "Come to the shop.", valid_s=3_600)).fate is Fate.TAKEN
        assert (await scene.cards.send_text(CARD, "é" * 170, valid_s=3_600)).fate is Fate.TAKEN
        first, *later = [each.message for each in scene.smsc.submissions]
        assert (first.message, first.protocol_id, first.esm_class) == (b"Come to the shop.", 0, 0)
        assert (first.source.ton, first.source.digits) == (TON_ALPHANUMERIC, "Shop")
        assert first.registered_delivery == 0
        assert len(later) == 2
        scene.assert_strict()


async def test_a_message_nobody_asks_after_wants_no_receipt() -> None:
    async with CardMessagesScene() as scene:
        assert (await scene.cards.send(CARD, segment(PACKET, 1), valid_s=9)).fate is Fate.TAKEN
        assert scene.smsc.submissions[0].message.registered_delivery == 0


# --- what becomes of it


async def test_one_part_that_is_not_delivered_is_enough_and_is_told_once() -> None:
    async with CardMessagesScene() as scene:
        scene.smsc.next += [NOT_DELIVERED, NOT_DELIVERED, Behaviour()]
        assert (await scene.send(LONG_PACKET)).fate is Fate.TAKEN
        assert await scene.fate() is Fate.UNDELIVERED
        await until(lambda: scene.receipts("delivered") == 1)
        assert scene.fates == [Fate.UNDELIVERED]
        assert scene.metrics.value(Metric.OTA_MESSAGES, "undelivered") == 1


@pytest.mark.parametrize("state", [MessageState.EXPIRED, MessageState.DELETED, MessageState.REJECTED])
async def test_every_other_end_is_no_delivery(state: MessageState) -> None:
    async with CardMessagesScene() as scene:
        scene.smsc.behaviour = Behaviour(receipts=(MessageState.ENROUTE, state))
        await scene.send()
        assert await scene.fate() is Fate.UNDELIVERED


async def test_a_receipt_that_never_comes() -> None:
    async with CardMessagesScene(paging={"smsc_enquire_s": 0.05}) as scene:
        scene.smsc.behaviour = Behaviour(receipts=())
        await scene.send(LONG_PACKET, valid_s=300)
        scene.moved_ms = 290_000 + int(scene.config.paging.sms_receipt_s * 1000)
        assert not scene.bearer._tracking.sweep()
        assert scene.metrics.value(Metric.SMS_PENDING) == 3
        scene.moved_ms += 20_000
        assert await scene.fate() is Fate.UNDELIVERED


async def test_without_receipts_nothing_is_told() -> None:
    async with CardMessagesScene(paging={"smsc_bind": "transmitter"}) as scene:
        assert (await scene.send()).fate is Fate.TAKEN
        assert scene.smsc.submissions[0].message.registered_delivery == 0
        assert scene.metrics.value(Metric.SMS_PENDING) == 0


async def test_no_more_wait_for_receipts_than_there_is_room_and_pages_keep_theirs() -> None:
    async with CardMessagesScene(ota={"receipts": 3}, paging={"sms_receipts": 2}) as scene:
        scene.smsc.behaviour = Behaviour(receipts=())
        assert (await scene.push(seq=1)).ok
        for reference in range(5):
            await scene.send(reference=reference)
        await until(lambda: len(scene.fates) == 2)
        assert scene.fates == [Fate.UNDELIVERED] * 2
        assert scene.metrics.value(Metric.DELIVERY_MEMORY_EVICTED, "card_part") == 2
        assert scene.metrics.value(Metric.SMS_PENDING) == 4
        # the page's place was not taken
        assert scene.metrics.value(Metric.DELIVERY_MEMORY_EVICTED, "sms_part") == 0
        for seq in (2, 3):
            assert (await scene.push(seq=seq)).ok
        assert scene.metrics.value(Metric.DELIVERY_MEMORY_EVICTED, "sms_part") == 1
        assert len(scene.fates) == 2


async def test_cards_leave_no_receipt_in_the_history_and_pages_none_with_cards() -> None:
    async with CardMessagesScene() as scene:
        await scene.send()
        assert (await scene.push(seq=7)).ok
        await scene.fate()
        await until(lambda: scene.history.words == ["delivered"])
        assert [step[0] for step in scene.history.steps] == [7]


# --- trouble


async def test_nobody_is_bound() -> None:
    async with CardMessagesScene(ota={"smsc_retry_s": 7.0}, answer_s=0.05) as scene:
        await scene.smsc.close()
        await until(lambda: not scene.bearer.links[0].is_bound)
        assert await scene.send() == SentMessage(Fate.LATER, 7_000, "not_bound")


@pytest.mark.parametrize("status", [Status.RTHROTTLED, Status.RMSGQFUL])
async def test_a_throttling_smsc_is_left_alone_for_as_long_as_it_rests(status: Status) -> None:
    async with CardMessagesScene(paging={"smsc_throttle_s": 600.0}) as scene:
        scene.smsc.next.append(Behaviour(status=status))
        sent = await scene.send()
        assert (sent.fate, sent.retry_after_ms) == (Fate.LATER, 600_000)
        scene.moved_ms = 500_000
        again = await scene.send()
        assert (again.fate, again.detail) == (Fate.LATER, "throttled")
        assert 90_000 < again.retry_after_ms <= 100_000
        assert scene.smsc.submissions == []
        scene.moved_ms = 600_001
        assert (await scene.send()).fate is Fate.TAKEN


async def test_who_waits_for_a_turn_leaves_an_smsc_alone_that_began_to_rest() -> None:
    """Else each card would make the rest longer, and no page would go out until the last had its turn."""
    async with CardMessagesScene(ota={"smsc_rate": 20.0}, paging={"smsc_throttle_s": 0.5}) as scene:
        await scene.bound()
        scene.smsc.next.append(Behaviour(status=Status.RTHROTTLED))
        cards = [asyncio.create_task(scene.send(bytes((number,)), reference=number)) for number in range(30)]
        sent = await asyncio.gather(*cards)
        assert [each.fate for each in sent[:5]] == [Fate.LATER] * 5
        assert {each.detail for each in sent[:5]} == {"RTHROTTLED"}
        # the rest was half a second and no longer: turns after it were used
        assert {each.fate for each in sent[15:]} == {Fate.TAKEN}


async def test_who_waits_for_a_turn_goes_to_the_next_smsc_where_the_first_began_to_rest() -> None:
    async with CardMessagesScene(2, ota={"smsc_rate": 20.0}, paging={"smsc_throttle_s": 60.0}) as scene:
        await scene.bound()
        scene.smsc.next.append(Behaviour(status=Status.RTHROTTLED))
        sent = await asyncio.gather(*(scene.send(bytes((number,)), reference=number) for number in range(8)))
        assert {each.fate for each in sent} == {Fate.TAKEN}
        assert (len(scene.smsc.submissions), len(scene.smscs[1].submissions)) == (0, 8)


async def test_the_next_smsc_takes_what_the_first_does_not() -> None:
    async with CardMessagesScene(2) as scene:
        await scene.bound()
        scene.smsc.next.append(Behaviour(status=Status.RTHROTTLED))
        assert (await scene.send(LONG_PACKET)).fate is Fate.TAKEN
        assert (len(scene.smsc.submissions), len(scene.smscs[1].submissions)) == (0, 3)
        assert await scene.fate() is Fate.DELIVERED


async def test_a_message_is_not_torn_between_two_smscs() -> None:
    async with CardMessagesScene(2) as scene:
        await scene.bound()
        scene.smsc.next += [Behaviour(), Behaviour(status=Status.RTHROTTLED)]
        assert (await scene.send(LONG_PACKET)).fate is Fate.LATER
        assert (len(scene.smsc.submissions), len(scene.smscs[1].submissions)) == (1, 0)
        await until(lambda: scene.receipts("delivered") == 1)
        # of what was not sent as a whole nothing is told
        assert scene.fates == []
        assert scene.metrics.value(Metric.SMS_PENDING) == 0


async def test_a_link_that_breaks_before_the_answer() -> None:
    async with CardMessagesScene(ota={"smsc_retry_s": 3.0}) as scene:
        await scene.bound()
        scene.smsc.next.append(Behaviour(closes=True))
        assert await scene.send() == SentMessage(Fate.UNANSWERED, 0, "link_lost")
        await scene.bound()
        assert (await scene.send()).fate is Fate.TAKEN
        # the card can not do anything with a part of a message
        scene.smsc.next += [Behaviour(), Behaviour(closes=True)]
        assert await scene.send(LONG_PACKET) == SentMessage(Fate.LATER, 3_000, "link_lost")


async def test_an_smsc_that_does_not_answer_in_time() -> None:
    async with CardMessagesScene(answer_s=0.3) as scene:
        await scene.bound()
        scene.smsc.next.append(Behaviour(hangs=True))
        sent = await scene.send()
        assert (sent.fate, sent.detail) == (Fate.UNANSWERED, "no answer")
        assert (await scene.send()).fate is Fate.TAKEN
        scene.smsc.next += [Behaviour(), Behaviour(hangs=True)]
        sent = await scene.send(LONG_PACKET)
        assert (sent.fate, sent.detail) == (Fate.LATER, "no answer")


async def test_the_receipt_of_a_message_that_was_not_answered_is_heard() -> None:
    async with CardMessagesScene(answer_s=0.05) as scene:
        await scene.bound()
        scene.smsc.next.append(Behaviour(delay_s=0.3, receipt_first=True, echoes_reference=True))
        assert (await scene.send()).fate is Fate.UNANSWERED
        assert await scene.fate() is Fate.DELIVERED


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (Status.RINVDSTADR, Fate.REFUSED),
        (Status.RINVMSGLEN, Fate.REFUSED),
        (Status.RSYSERR, Fate.LATER),
        (Status.RSUBMITFAIL, Fate.LATER),
        (Status.RINVSRCADR, Fate.LATER),
        (0x423, Fate.LATER),
    ],
)
async def test_what_an_smsc_says_no_to(status: int, fate: Fate) -> None:
    """A sender that is refused is the configuration's fault, and no card's."""
    async with CardMessagesScene() as scene:
        scene.smsc.next.append(Behaviour(status=status))
        sent = await scene.send()
        assert sent.fate is fate
        assert (sent.retry_after_ms > 0) == (fate is Fate.LATER)


async def test_who_is_cut_off_leaves_nothing_behind() -> None:
    async with CardMessagesScene(ota={"smsc_rate": 1.0, "smsc_wait_s": 600.0}) as scene:
        await scene.send()
        waits = asyncio.create_task(scene.send(reference=2))
        await asyncio.sleep(0)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        assert await scene.fate() is Fate.DELIVERED
        assert scene.metrics.value(Metric.SMS_PENDING) == 0
        assert set(scene.cards._busy.values()) == {0}


# --- rates


async def test_no_more_to_cards_than_their_rate_and_in_order() -> None:
    async with CardMessagesScene(ota={"smsc_rate": 50.0}) as scene:
        await scene.bound()
        began = asyncio.get_running_loop().time()
        sent = await asyncio.gather(*(scene.send(bytes((number,)), reference=number) for number in range(8)))
        assert {each.fate for each in sent} == {Fate.TAKEN}
        assert [each.message.message[-1] for each in scene.smsc.submissions] == list(range(8))
        # from before the first: a busy machine may take that late, and the others in their time
        assert scene.smsc.submissions[-1].at_s - began >= 0.139


async def test_each_smsc_has_a_rate_of_its_own() -> None:
    async with CardMessagesScene(ota={"smsc_rate": 1.0, "smsc_wait_s": 0.001}) as scene:
        scene.cards._rates = {"smsc0": 0.0}
        assert {(await scene.send(reference=number)).fate for number in range(5)} == {Fate.TAKEN}


async def test_who_would_wait_too_long_is_told_when_to_come_back_and_each_at_another_time() -> None:
    async with CardMessagesScene(ota={"smsc_rate": 0.5, "smsc_wait_s": 1.0}) as scene:
        assert (await scene.send()).fate is Fate.TAKEN
        later = [await scene.send(reference=number) for number in range(3)]
        assert {(each.fate, each.detail) for each in later} == {(Fate.LATER, "rate")}
        pauses = [each.retry_after_ms for each in later]
        assert pauses[0] > 3_000
        assert pauses == sorted(set(pauses))
        assert len(scene.smsc.submissions) == 1


async def test_who_finds_no_room_in_the_window_comes_back() -> None:
    async with CardMessagesScene(
        paging={"smsc_window": 2}, ota={"smsc_wait_s": 0.01, "smsc_retry_s": 4.0}, answer_s=5.0
    ) as scene:
        await scene.bound()
        taken: list[Submission] = []
        scene.smsc.on_submission = taken.append
        scene.smsc.next.append(Behaviour(delay_s=0.5))
        first = asyncio.create_task(scene.send())
        await until(lambda: len(taken) == 1)
        assert await scene.send(reference=2) == SentMessage(Fate.LATER, 4_000, "rate")
        assert (await first).fate is Fate.TAKEN


async def test_pages_do_not_stand_behind_cards() -> None:
    """Half of the window is theirs, whatever cards do."""
    async with CardMessagesScene(paging={"smsc_window": 4}, window=4) as scene:
        await scene.bound()
        taken: list[Submission] = []
        scene.smsc.on_submission = taken.append
        scene.smsc.behaviour = Behaviour(delay_s=0.3)
        cards = [asyncio.create_task(scene.send(reference=number)) for number in range(20)]
        await until(lambda: len(taken) == 2)
        assert (await scene.push(seq=1)).ok
        places = [each.message.protocol_id for each in taken]
        assert places.index(0) <= 4
        for task in cards:
            task.cancel()
        await asyncio.gather(*cards, return_exceptions=True)


# --- in


async def test_a_check_request_comes_in() -> None:
    async with CardMessagesScene() as scene:
        assert await scene.say(b"HG\x01who", data_coding=0xF6, protocol_id=0x7F) == 0
        assert [tuple(each) for each in scene.messages] == [(MSISDN, b"HG\x01who", False)]
        assert scene.metrics.value(Metric.OTA_SMS_IN, "plain") == 1


async def test_a_proof_of_receipt_comes_in_as_payload_too() -> None:
    packet = segment(b"answer", 1, 0x71)[0]
    async with CardMessagesScene() as scene:
        assert await scene.say(b"", esm_class=ESM_UDHI, tlvs={Tag.MESSAGE_PAYLOAD: packet}) == 0
        assert await scene.say(packet, Address(TON_INTERNATIONAL, NPI_E164, "+" + MSISDN), esm_class=ESM_UDHI) == 0
        assert [tuple(each) for each in scene.messages] == [(MSISDN, packet, True)] * 2
        assert scene.metrics.value(Metric.OTA_SMS_IN, "header") == 2


@pytest.mark.parametrize(
    ("ton", "digits", "source"),
    [
        (TON_INTERNATIONAL, "491701234567", "491701234567"),
        (TON_INTERNATIONAL, "+491701234567", "491701234567"),
        (TON_UNKNOWN, "491701234567", "491701234567"),
        (TON_UNKNOWN, "00491701234567", "491701234567"),
        (TON_UNKNOWN, "01701234567", "491701234567"),
        (TON_NATIONAL, "1701234567", "491701234567"),
        (TON_NATIONAL, "01701234567", "491701234567"),
        (TON_NATIONAL, "+491701234567", "491701234567"),
        (TON_ALPHANUMERIC, "Bank", ""),
        (TON_INTERNATIONAL, "", ""),
        (TON_INTERNATIONAL, "+", ""),
        (TON_INTERNATIONAL, "4917*1", ""),
        (TON_INTERNATIONAL, "1" * 21, ""),
        (TON_INTERNATIONAL, "１２３４", ""),
    ],
)
def test_numbers_as_smscs_write_them(ton: int, digits: str, source: str) -> None:
    assert find_source(Address(ton, NPI_E164, digits), "49") == source


def test_without_a_country_code_a_number_stays_as_it_is() -> None:
    assert find_source(Address(TON_NATIONAL, NPI_E164, "01701234567"), "") == "01701234567"


@given(st.integers(0, 255), st.text(max_size=20), st.sampled_from(["", "49"]))
def test_a_source_is_digits_or_nothing(ton: int, digits: str, country_code: str) -> None:
    source = find_source(Address(ton, 1, digits), country_code)
    assert source == "" or (source.isascii() and source.isdigit())


async def test_what_is_of_no_use_is_answered_and_counted() -> None:
    async with CardMessagesScene() as scene:
        assert await scene.say(b"") == 0
        assert await scene.say(bytes(141)) == 0
        assert await scene.say(b"hello", Address(TON_ALPHANUMERIC, 0, "Bank")) == 0
        assert scene.messages == []
        assert scene.metrics.value(Metric.OTA_SMS_IN, "unreadable") == 3
        scene.smsc.send(build_pdu(Command.DELIVER_SM, 9_999, b"\xff" * 30))
        await until(lambda: scene.metrics.value(Metric.SMS_INCOMING, "malformed") == 1)
        assert await scene.say(b"x") == 0


async def test_who_fails_on_a_message_does_not_make_the_smsc_say_it_again(caplog: pytest.LogCaptureFixture) -> None:
    async with CardMessagesScene() as scene:

        def fail(_message: object) -> None:
            raise RuntimeError(MSISDN)

        scene.cards.on_incoming = fail
        assert await scene.say(b"HG\x01who") == 0
        assert scene.metrics.value(Metric.OTA_SMS_IN, "failed") == 1
        assert scene.smsc.binds == 1
        assert MSISDN not in caplog.text


async def test_no_number_and_no_byte_is_ever_shown(caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    caplog.set_level(logging.DEBUG)
    async with CardMessagesScene(answer_s=0.3) as scene:
        scene.smsc.next += [
            Behaviour(),
            NOT_DELIVERED,
            Behaviour(status=Status.RINVDSTADR),
            Behaviour(hangs=True),
            Behaviour(closes=True),
        ]
        sent = [await scene.send(reference=number) for number in range(5)]
        await scene.say(b"Geheimnis")
        out, err = capfd.readouterr()
        shown = caplog.text + out + err + repr(sent) + repr(scene.messages) + repr(CARD)
        shown += scene.metrics.render().decode()
        for secret in (MSISDN, IMSI, CARD.iccid, "Geheim", PACKET[40:60].hex(), repr(PACKET[40:60])[2:-1]):
            assert secret not in shown


async def test_a_rate_for_an_smsc_that_is_not_there() -> None:
    async with CardMessagesScene() as scene:
        scene.config.ota.smsc_rates = ["pushgw@other.example.net:2775=3"]
        with pytest.raises(ConfigError, match=r"none of paging\.smscs"):
            SmsCardMessages(scene.config, scene.bearer, scene.metrics)
