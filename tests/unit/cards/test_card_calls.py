"""Calling a card: every way in which it can end, what may be believed, one at a time (E2 to E4)."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import replace

import msgspec
import pytest
from card_fleet import SETTINGS, Fleet, Phone, build_keys

from gateway.cards.calls import Called, Ending
from gateway.cards.line import MOST_EVENTS, Line
from gateway.cards.settings import Reach, parse_bearer, read_reach
from gateway.config.ota_section import Ota
from gateway.metrics import Metric, Metrics
from gateway.model.cards import Fate, LinkDelivered, LinkOpened, SentMessage
from gateway.model.errors import ConfigError
from gateway.ota.packet_security import Keys
from gateway.ota.result import Bearer, General, Result
from gateway.ota.sim.terminal import Behaviour

SHORT = replace(SETTINGS, validity_s=0.15)


async def call(fleet: Fleet, phone: Phone) -> Called:
    card = fleet.handle(phone)
    async with fleet.calls.hold(card), fleet.calls.call(card, fleet.cards.records[card]) as (called, line):
        assert (line.opened is not None) == (called.ending is Ending.OPENED)
        await line.hang_up(1.0)
    return called


async def test_both_pushes_go_in_one_message_and_the_link_comes() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        called = await call(fleet, phone)
        assert (called.ending, [len(parts) for parts in phone.received]) == (Ending.OPENED, [1])
        await fleet.until(lambda: phone.card.link is None)  # hung up politely, channel and all


@pytest.mark.parametrize(
    ("failure", "ending", "detail"),
    [
        (Result(General.BEYOND_CAPABILITIES), Ending.NOT_CAPABLE, "result 30"),
        (Result(General.TYPE_NOT_UNDERSTOOD), Ending.NOT_CAPABLE, "result 31"),
        (Result(General.DATA_NOT_UNDERSTOOD), Ending.NOT_CAPABLE, "result 32"),
        (Result(General.TERMINAL_BUSY, b"\1"), Ending.TERMINAL, "result 20 01"),
        (Result(General.NETWORK_BUSY, b"\0"), Ending.TERMINAL, "result 21 00"),
        (Result(General.BEARER, bytes((Bearer.NO_CHANNEL,))), Ending.TERMINAL, "result 3A 01"),
        (Result(General.BEARER, bytes((Bearer.SECURITY,))), Ending.PARAMETERS, "result 3A 05"),
    ],
)
async def test_the_terminals_own_word_comes_before_the_validity_is_over(
    failure: Result, ending: Ending, detail: str
) -> None:
    async with Fleet(replace(SETTINGS, validity_s=3_600.0)) as fleet:
        called = await call(fleet, await fleet.add(Behaviour(failure=failure)))
        assert (called.ending, called.detail) == (ending, detail)


async def test_a_terminal_that_knows_no_channels() -> None:
    async with Fleet(replace(SETTINGS, validity_s=3_600.0)) as fleet:
        assert (await call(fleet, await fleet.add(Behaviour(capable=False)))).ending is Ending.NOT_CAPABLE


@pytest.mark.parametrize(
    ("fate", "reports", "ending"),
    [
        (Fate.UNDELIVERED, True, Ending.UNDELIVERED),
        (None, True, Ending.UNKNOWN),
        (Fate.DELIVERED, False, Ending.UNKNOWN),
        (Fate.DELIVERED, True, Ending.SILENT),
    ],
)
async def test_silence_and_what_is_known_of_the_message(fate: Fate | None, reports: bool, ending: Ending) -> None:
    async with Fleet(SHORT) as fleet:
        phone = await fleet.add()
        phone.fate, phone.reports, phone.is_mute = fate, reports, True
        if fate is Fate.DELIVERED:
            await phone.terminal.power_off()  # it has the message, and says nothing
        assert (await call(fleet, phone)).ending is ending


async def test_the_link_is_enough_where_the_answer_gets_lost() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        phone.is_mute = True
        assert (await call(fleet, phone)).ending is Ending.OPENED


async def test_a_channel_without_a_link() -> None:
    """The answer says that it is open; what the card sends never arrives."""
    async with Fleet(SHORT) as fleet:
        phone = await fleet.add(Behaviour(loss=1.0))
        assert (await call(fleet, phone)).ending is Ending.NO_LINK


async def test_a_message_that_is_delivered_late_leaves_the_card_its_whole_time() -> None:
    async with Fleet(replace(SETTINGS, validity_s=0.3)) as fleet:
        phone = await fleet.add(Behaviour(open_delay_s=0.2))
        deliver = phone.terminal.deliver
        phone.reports = False
        fates = []
        send = fleet.smsc.send

        async def send_late(record, parts, *, valid_s, on_fate=None):
            sent = await send(record, parts, valid_s=valid_s)
            fates.append(on_fate)
            return sent

        def deliver_late(tpdu: bytes) -> None:
            loop = asyncio.get_running_loop()
            loop.call_later(0.2, lambda: (fates[0](Fate.DELIVERED), deliver(tpdu)))

        fleet.smsc.send = send_late
        phone.terminal.deliver = deliver_late
        assert (await call(fleet, phone)).ending is Ending.OPENED


async def test_an_smsc_that_is_down_and_one_that_refuses() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        fleet.smsc.is_down = True
        called = await call(fleet, phone)
        assert (called.ending, called.retry_after_ms) == (Ending.LATER, 10)
        fleet.smsc.is_down, fleet.smsc.refuses = False, True
        assert (await call(fleet, phone)).ending is Ending.UNREACHABLE


async def test_an_answer_of_the_smsc_that_got_lost_behind_a_message_that_arrived() -> None:
    async with Fleet() as fleet:
        phone, other = await fleet.add(), await fleet.add(Behaviour(capable=False))
        send = fleet.smsc.send

        async def send_and_lose(record, parts, *, valid_s, on_fate=None):
            await send(record, parts, valid_s=valid_s, on_fate=on_fate)
            if record is phone.record:
                await fleet.until(lambda: phone.card.counts["opened"] == 1 and fleet.links.open_links == 1)
            else:
                await fleet.until(lambda: fleet.metrics.value(Metric.OTA_INCOMING, "answer") == 2)
            await asyncio.sleep(0)
            return SentMessage(Fate.LATER, 0, "no answer")

        fleet.smsc.send = send_and_lose
        assert (await call(fleet, phone)).ending is Ending.OPENED
        assert (await call(fleet, other)).ending is Ending.NOT_CAPABLE


# --- what may be believed ---------------------------------------------------------------------------------------------


def rekey(phone: Phone, keys: Keys) -> None:
    """The card has other keys than we know."""
    phone.card.profile = dataclasses.replace(phone.card.profile, keys=keys)


async def test_a_card_with_other_keys_proves_nothing() -> None:
    """It answers by a bare error, which anybody could send: the card is waited for, and nothing is concluded."""
    async with Fleet(SHORT) as fleet:
        phone = await fleet.add()
        rekey(phone, build_keys(99, 2))
        # PUSH goes to another application than downloads, and the answer is that one's
        profile = phone.card.profile
        phone.card.profile = dataclasses.replace(profile, tar=b"\x00\x00\x01", push_tar=phone.record.push_tar)
        called = await call(fleet, phone)
        assert (called.ending, called.detail) == (Ending.UNTRUSTED, "status 01 without a check")
        assert fleet.metrics.value(Metric.OTA_INCOMING, "bare") == 1


async def test_an_answer_with_a_flipped_bit_is_not_believed_and_is_no_silence() -> None:
    async with Fleet(SHORT) as fleet:
        phone = await fleet.add(Behaviour(capable=False))
        fleet.smsc.forge = lambda _source, data: data[:-1] + bytes((data[-1] ^ 1,))
        called = await call(fleet, phone)
        assert (called.ending, called.detail) == (Ending.UNTRUSTED, "wrong check")
        assert fleet.metrics.value(Metric.OTA_INCOMING, "untrusted") == 1


async def test_an_answer_from_another_number_is_not_believed() -> None:
    async with Fleet(SHORT) as fleet:
        phone, other = await fleet.add(Behaviour(capable=False)), await fleet.add()

        def from_other(source: str, data: bytes) -> bytes | None:
            if source == phone.record.msisdn:
                fleet.smsc.say(other.record.msisdn, data, has_header=True)
                return None
            return data

        fleet.smsc.forge = from_other
        assert (await call(fleet, phone)).ending is Ending.SILENT


async def test_an_answer_of_an_older_call_is_not_believed() -> None:
    async with Fleet(SHORT) as fleet:
        phone = await fleet.add(Behaviour(capable=False))
        heard = []
        fleet.smsc.forge = lambda _source, data: heard.append(data) or data
        assert (await call(fleet, phone)).ending is Ending.NOT_CAPABLE
        fleet.smsc.forge = lambda _source, _data: heard[0]
        assert (await call(fleet, phone)).ending is Ending.SILENT


async def test_no_message_breaks_what_listens() -> None:
    async with Fleet(SHORT) as fleet:
        phone = await fleet.add(Behaviour(capable=False))
        for data in (b"", b"\xff", bytes(140), b"\2\x71\0", b"\2\x70\0abc", b"\5\0\3\1\2\2" + bytes(20)):
            for has_header in (True, False):
                fleet.smsc.say(phone.record.msisdn, data, has_header=has_header)
                fleet.smsc.say("+447000000000", data, has_header=has_header)
        assert (await call(fleet, phone)).ending is Ending.NOT_CAPABLE


async def test_a_link_with_another_identification_is_not_the_cards() -> None:
    async with Fleet(SHORT) as fleet:
        phone = await fleet.add()
        phone.card._open_link = lambda asked, old=phone.card._open_link: old(
            dataclasses.replace(asked, identification=b"guessed")
        )
        assert (await call(fleet, phone)).ending is Ending.NO_LINK
        assert fleet.links.counts["not_admitted"] > 0


# --- cards that are different -----------------------------------------------------------------------------------------


async def test_a_card_that_takes_one_command_a_packet_and_says_so() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        execute = phone.card._execute

        def one_only(commands: list[bytes], at: int, answer) -> None:
            if len(commands) > 1:
                answer(bytes.fromhex("016700"))
            else:
                execute(commands, at, answer)

        phone.card._execute = one_only
        assert (await call(fleet, phone)).ending is Ending.OPENED
        assert len(phone.received) == 3


async def test_a_card_that_executes_the_first_command_alone() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        execute = phone.card._execute
        phone.card._execute = lambda commands, at, answer: execute(commands[:1], at, answer)
        assert (await call(fleet, phone)).ending is Ending.OPENED
        assert len(phone.received) == 2


@pytest.mark.parametrize(
    ("word", "ending"),
    [
        ("016985", Ending.BUSY),
        ("016f00", Ending.CARD),
        ("016982", Ending.REFUSED),
        ("016d00", Ending.NOT_CAPABLE),
        ("01", Ending.REFUSED),
    ],
)
async def test_what_a_card_says_to_push(word: str, ending: Ending) -> None:
    async with Fleet(replace(SETTINGS, validity_s=60.0)) as fleet:
        phone = await fleet.add()
        phone.card._execute = lambda _commands, _at, answer: answer(bytes.fromhex(word))
        assert (await call(fleet, phone)).ending is ending


async def test_a_card_that_is_ahead_is_caught_up_with_once() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        phone.card.profile.counters[2] = 500
        assert (await call(fleet, phone)).ending is Ending.OPENED
        phone.card.profile.counters[2] = 1 << 35
        called = await call(fleet, phone)
        assert (called.ending, called.detail) == (Ending.REFUSED, "status 02")


async def test_what_can_not_be_asked_for() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        card = fleet.handle(phone)
        for changes in ({"apn": "a..b"}, {"push_keys": 9}, {"key_sets": ()}):
            fleet.cards.records[card] = msgspec.structs.replace(phone.record, **changes)
            assert (await call(fleet, phone)).ending is Ending.UNREACHABLE


async def test_counters_that_are_used_up() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        fleet.cards.counters[fleet.handle(phone), 2] = 1 << 40
        assert (await call(fleet, phone)).ending is Ending.UNREACHABLE


# --- one at a time ----------------------------------------------------------------------------------------------------


async def test_two_who_call_one_card_take_turns() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        assert [called.ending for called in await asyncio.gather(*(call(fleet, phone) for _ in range(4)))] == [
            Ending.OPENED
        ] * 4
        assert phone.card.counts["opened"] == 4
        assert fleet.calls.held == 0


async def test_no_more_than_at_once() -> None:
    async with Fleet(replace(SETTINGS, at_once=3)) as fleet:
        phones = [await fleet.add(Behaviour(open_delay_s=0.02)) for _ in range(9)]
        most = 0
        send = fleet.smsc.send
        under_way = 0

        async def watched(*arguments, **more):
            nonlocal most, under_way
            under_way += 1
            most = max(most, under_way)
            return await send(*arguments, **more)

        async def one(phone: Phone) -> None:
            nonlocal under_way
            assert (await call(fleet, phone)).ending is Ending.OPENED
            under_way -= 1

        fleet.smsc.send = watched
        await asyncio.gather(*map(one, phones))
        assert 1 <= most <= 4  # a call that just ended is counted until its task went on


async def test_a_caller_that_goes_away_leaves_nothing_behind() -> None:
    async with Fleet(replace(SETTINGS, validity_s=60.0)) as fleet:
        phone = await fleet.add()
        phone.fate = None
        task = asyncio.create_task(call(fleet, phone))
        await fleet.until(lambda: len(phone.received) == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert fleet.calls.held == 0
        assert fleet.links._expected == {}
        assert fleet.answers._waiting == {}


class Deaf:
    def __init__(self) -> None:
        self.forgotten: list[bytes] = []

    def expect(self, identification, on_event, valid_ms) -> bool:
        return False

    def forget(self, identification) -> None:
        self.forgotten.append(identification)


async def test_a_server_that_expects_no_more_cards() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        fleet.calls._links = Deaf()
        assert (await call(fleet, phone)).ending is Ending.LATER
        assert fleet.metrics.value(Metric.OTA_BOUNDS, "expected") == 1


async def test_a_link_that_says_too_much_is_given_up() -> None:
    metrics, links = Metrics(process=False), Deaf()
    line = Line(links, b"x", metrics)
    line._on_event(LinkOpened(1, 400, 400))
    for _ in range(MOST_EVENTS):
        line._on_event(LinkDelivered(1, 1))
    assert links.forgotten == [b"x"]
    assert metrics.value(Metric.OTA_BOUNDS, "link_events") == 1
    await line.next_event()
    assert line.opened is None
    assert not line.send(b"x")


# --- where cards are told to call -------------------------------------------------------------------------------------


def test_where_cards_are_told_to_call() -> None:
    reach = read_reach(Ota(host="127.0.0.1"), 4_000)
    assert (str(reach.address), reach.port, reach.bearer) == ("127.0.0.1", 4_000, b"\3")
    reach = read_reach(Ota(public_address="2001:db8::1", public_port=9, bearer="02030000040202"), 4_000)
    assert (reach.address.version, reach.port, reach.bearer.hex()) == (6, 9, "02030000040202")
    assert "2001" not in repr(reach)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (Ota(public_address="ota.example"), "ota.public_address"),
        (Ota(bearer="zz"), "ota.bearer"),
        (Ota(bearer=""), "ota"),
        (Ota(apn="a..b"), "ota"),
    ],
)
def test_where_cards_can_not_be_told_to_call(settings: Ota, field: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_reach(settings, 4_000)
    assert error.value.field == field


def test_a_bearer_with_its_tag_or_without() -> None:
    assert parse_bearer(bytes.fromhex("350103")) == b"\3"
    assert parse_bearer(b"\3") == b"\3"
    assert parse_bearer(bytes.fromhex("b50103")) == b"\3"
    assert isinstance(read_reach(Ota(), 1), Reach)
