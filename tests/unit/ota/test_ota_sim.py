"""The simulated card and terminal: power-on, PUSH, a channel on a real socket, a download (E1 to E4, E6)."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_scene import CHECK_REQUEST, ICCID, IMEI, KEYS, NONCE, TAR, Scene, write_apdu

from gateway.ota.cattp import State
from gateway.ota.channel import Channel, TransportType
from gateway.ota.check_request import parse_check_request
from gateway.ota.malformed import Malformed
from gateway.ota.packet_security import Algorithm, Answer, Counting, Keys, Spi
from gateway.ota.proactive import CloseChannel, parse_proactive
from gateway.ota.push import OpenLink, PushAnswer, build_push, parse_push_answer
from gateway.ota.result import General, Meaning, Result
from gateway.ota.secured_packet import Command, Status, build_command, parse_answer
from gateway.ota.sim.card import NOT_ALLOWED, OK, WRONG_DATA, WRONG_LENGTH
from gateway.ota.sim.commands import split_commands
from gateway.ota.sim.terminal import Behaviour
from gateway.ota.terminal_profile import Instruction, build_apdu

OTHER_IMEI = bytes.fromhex("5384090214365808")
#: packets of one to seven commands each
BLOCKS = [[write_apdu(number, 190 + number)] * number for number in range(1, 8)]


async def test_a_card_in_the_terminal_that_it_knows_says_nothing() -> None:
    async with Scene() as scene:
        assert scene.requests == []
        assert scene.card.terminal.says_udp


async def test_a_card_in_another_terminal_asks_once_to_be_checked() -> None:
    async with Scene(imei=OTHER_IMEI) as scene:
        assert scene.requests == [CHECK_REQUEST]
        assert scene.card.profile.imei == IMEI
        await scene.terminal.power_off()
        await scene.terminal.power_on()
        await scene.terminal.settle()
        assert scene.requests == [CHECK_REQUEST]
        await scene.terminal.power_off()
        scene.terminal = scene.insert(OTHER_IMEI)
        await scene.terminal.power_on()
        await scene.terminal.settle()
        assert scene.requests == [CHECK_REQUEST] * 2


async def test_a_check_request_that_did_not_go_out_is_asked_again_at_power_on() -> None:
    async with Scene(Behaviour(sends_messages=False), imei=b"") as scene:
        assert scene.requests == []
        assert scene.card.profile.imei == b""
        await scene.terminal.power_off()
        scene.behaviour = Behaviour()
        scene.terminal = scene.insert(IMEI)
        await scene.terminal.power_on()
        await scene.terminal.settle()
        assert scene.requests == [CHECK_REQUEST]


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(),
        Behaviour(open_delay_s=0.05),
        Behaviour(loss=0.2, twice=0.2, delay_s=0.01, seed=4),
        Behaviour(loss=0.1, twice=0.1, delay_s=0.02, seed=9),
    ],
    ids=["capable", "slow", "lossy", "reorders"],
)
async def test_a_download_over_a_real_socket(behaviour: Behaviour) -> None:
    """By PUSH and CAT_TP, each block once and in order, and the channel is closed behind it."""
    async with Scene(behaviour) as scene:
        await scene.open()
        answers = await scene.download([b"".join(block) for block in BLOCKS])
        assert scene.card.executed == [command for block in BLOCKS for command in block]
        assert [answer.status for answer in answers] == [Status.OK] * len(BLOCKS)
        assert [parse_push_answer(answer.data) for answer in answers] == [
            PushAnswer(len(block), OK) for block in BLOCKS
        ]
        await scene.hang_up()
        if not behaviour.loss:
            await scene.until(lambda: scene.card.link is None)
            assert any(isinstance(command, CloseChannel) for command in scene.fetched())
        else:
            assert scene.terminal.counts["lost"] > 0
            assert scene.server.link.counts["resent"] > 0


async def test_a_terminal_that_knows_no_channels() -> None:
    async with Scene(Behaviour(capable=False)) as scene:
        answer = await scene.push_channel()
        assert answer.status_word == 0x6F00
        assert answer.result is not None
        assert answer.result.meaning is Meaning.NOT_CAPABLE
        assert not scene.card.terminal.says_udp
        assert (await scene.push_link()).status_word == NOT_ALLOWED


@pytest.mark.parametrize(
    "failure", [Result(General.BEARER, b"\1"), Result(General.BEARER, b"\5"), Result(General.NETWORK_BUSY, b"\0")]
)
async def test_a_channel_that_does_not_open_says_why(failure: Result) -> None:
    async with Scene(Behaviour(failure=failure)) as scene:
        answer = await scene.push_channel()
        assert (answer.status_word, answer.result) == (0x6F00, failure)


async def test_a_link_that_the_server_does_not_admit_opens_nothing() -> None:
    async with Scene() as scene:
        assert (await scene.push_channel()).is_done
        answer = await scene.ask(scene.command(build_push(OpenLink(9_000, None, b"guessed"))))
        assert parse_push_answer(answer.data).is_done
        await scene.until(lambda: scene.server.link.counts["not_admitted"] > 0)
        assert scene.server.events == []


async def test_a_bearer_that_goes_away_and_a_channel_after_it() -> None:
    async with Scene() as scene:
        await scene.open()
        scene.terminal.drop_channel()
        await scene.terminal.settle()
        assert scene.card.link is None
        assert (await scene.push_channel()).is_done


@pytest.mark.parametrize("open_delay_s", [0.0, 0.02], ids=["before it opens", "while it opens"])
async def test_a_bearer_that_is_not_there_yet_can_not_go_away(open_delay_s: float) -> None:
    """Were the card told so of the channel that it opens next, it would forget that one, its terminal keep it, and have
    none for any later PUSH."""
    async with Scene(Behaviour(open_delay_s=open_delay_s)) as scene:
        pushed = asyncio.create_task(scene.push_channel())
        await asyncio.sleep(open_delay_s / 2)
        scene.terminal.drop_channel()
        assert (await pushed).is_done
        await scene.terminal.settle()
        assert (await scene.push_link()).is_done


async def test_the_end_of_a_bearer_is_not_told_of_the_channel_after_it() -> None:
    async with Scene() as scene:
        await scene.open()

        def lose_it_behind_the_next_push(apdu: bytes) -> None:
            if apdu[1] == Instruction.FETCH and isinstance(parse_proactive(apdu[5:-2])[1], CloseChannel):
                scene.deliver(build_command(scene.command_channel(), KEYS))
                scene.terminal.drop_channel()

        scene.on_apdu = lose_it_behind_the_next_push
        await scene.hang_up()
        await scene.until(lambda: bool(scene.packets[2:]))
        await scene.terminal.settle()
        assert (await scene.push_link()).is_done


async def test_a_command_that_comes_twice_is_done_once() -> None:
    async with Scene() as scene:
        command = scene.command(b"\0\xa4")
        assert (await scene.ask(command)).status == Status.OK
        assert (await scene.ask(command)).status == Status.COUNTER_LOW


async def test_a_counter_that_jumps() -> None:
    async with Scene() as scene:
        spi = Spi(counting=Counting.NEXT)
        scene.counter = 10
        assert (await scene.ask(scene.command(b"", spi))).status == Status.COUNTER_HIGH


async def test_another_application() -> None:
    async with Scene() as scene:
        command = Command(Spi(), bytes(3), 1, b"")
        assert (await scene.ask(command)).status == Status.TAR_UNKNOWN


async def test_a_wrong_key_is_answered_by_an_error_that_proves_nothing() -> None:
    async with Scene() as scene:
        answer = await scene.ask(scene.command(b""), Keys(2, Algorithm.AES, KEYS.kic, bytes(16)))
        assert (answer.status, answer.authentic) == (Status.CHECK_FAILED, False)
        answer = await scene.ask(scene.command(b""), Keys(7, Algorithm.AES, KEYS.kic, KEYS.kid))
        assert (answer.status, answer.authentic) == (Status.SECURITY, False)


async def test_no_answer_where_none_is_wanted() -> None:
    async with Scene() as scene:
        quiet = scene.command(b"", Spi(answer=Answer.NONE))
        scene.deliver(build_command(quiet, KEYS))
        await scene.terminal.settle()
        assert scene.packets == []
        assert scene.card.profile.counters == {KEYS.key_set: 1}


async def test_a_push_that_makes_no_sense() -> None:
    async with Scene() as scene:
        answer = await scene.ask(scene.command(bytes.fromhex("80ec010100")))
        assert parse_push_answer(answer.data).status_word == WRONG_DATA


async def test_a_command_in_several_messages() -> None:
    async with Scene() as scene:
        assert (await scene.ask(scene.command(bytes(700)))).status == Status.OK
        assert len([apdu for apdu in scene.apdus if apdu[1] == 0xC2]) == 6


async def test_garbage_from_the_network_does_not_stop_a_card() -> None:
    async with Scene() as scene:
        for tpdu in (b"", b"\x40", bytes(160), bytes.fromhex("400881214365877ff622705200000000" + "03027000")):
            scene.terminal.deliver(tpdu)
        await scene.terminal.settle()
        assert scene.card.counts["malformed"] == 4
        assert (await scene.push_channel()).is_done


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(sorted(Instruction)), st.binary(max_size=60)), max_size=12), st.booleans())
def test_no_apdu_breaks_a_card(apdus: list[tuple[Instruction, bytes]], has_channel: bool) -> None:
    card = Scene().card
    if has_channel:
        card._channel = 1
    for number, (instruction, data) in enumerate(apdus):
        _, status_word = card.apdu(build_apdu(instruction, data), number)
        assert status_word in (OK, WRONG_DATA, NOT_ALLOWED) or status_word >> 8 == 0x91
        card.tick(number)
    card.apdu(b"", 0)


async def test_nothing_of_a_card_shows_in_logs_or_reprs(caplog: pytest.LogCaptureFixture) -> None:
    async with Scene(Behaviour(loss=0.1, seed=2), imei=OTHER_IMEI) as scene:
        await scene.open()
        await scene.download([write_apdu(1, 9, b"Geheimnis")])
        scene.terminal.deliver(bytes(10))
        await scene.ask(scene.command(b""), Keys(2, Algorithm.AES, KEYS.kic, bytes(16)))
        shown = caplog.text + repr((scene.card.profile, scene.card.counts, scene.terminal.counts, scene.server.events))
        shown += repr((scene.card.link, list(scene.fetched())))
        for secret in (KEYS.kic, KEYS.kid, IMEI, OTHER_IMEI, NONCE, CHECK_REQUEST, scene.card.profile.iccid, b"Geheim"):
            assert repr(secret)[2:-1] not in shown
            assert secret.hex() not in shown
        for text in ("4999", "12345678901", "127.0.0.1"):
            assert text not in shown


async def test_what_a_card_asks_to_be_checked_by_is_its_own() -> None:
    async with Scene(imei=OTHER_IMEI) as scene:
        request = parse_check_request(scene.requests[0])
        assert request.iccid == ICCID
        assert request.is_genuine(KEYS)


async def test_a_packet_ends_at_the_first_command_that_fails() -> None:
    """The answer says how many were done, that one among them, and its status word."""
    commands = [write_apdu(number, 20) for number in range(5)]
    async with Scene() as scene:
        scene.card.perform = lambda command: 0x6A82 if command[3] == 3 else OK
        answer = await scene.ask(scene.command(b"".join(commands)))
        assert parse_push_answer(answer.data) == PushAnswer(4, 0x6A82)
        assert scene.card.executed == commands[:3]


async def test_commands_that_can_not_be_told_apart() -> None:
    async with Scene() as scene:
        answer = await scene.ask(scene.command(write_apdu(1, 20) + b"\0\xd6\0\1\x20"))
        assert parse_push_answer(answer.data).status_word == OK  # the last one wants 32 bytes of an answer
        answer = await scene.ask(scene.command(write_apdu(1, 20) + b"\0\xd6\0\1\x20\1"))
        assert parse_push_answer(answer.data).status_word == WRONG_LENGTH
        assert len(scene.card.executed) == 2


async def test_both_pushes_in_one_packet() -> None:
    async with Scene() as scene:
        channel = Channel(TransportType.UDP, scene.server.port, ipaddress.ip_address("127.0.0.1"), "internet")
        both = build_push(channel) + build_push(OpenLink(9_000, 4_000, NONCE))
        assert parse_push_answer((await scene.ask(scene.command(both))).data) == PushAnswer(2, OK)
        await scene.until(lambda: scene.server.link.state is State.OPEN)


async def test_key_sets_count_for_themselves() -> None:
    """What protects messages is another set than what protects packets over a link."""
    async with Scene() as scene:
        further = Keys(5, Algorithm.DES3_TWO_KEYS, bytes(range(40, 56)), bytes(range(60, 76)))
        scene.card.profile.more_keys = (further,)
        scene.counter = 7
        assert (await scene.ask(scene.command(b""))).status == Status.OK
        command = Command(Spi(), TAR, 1, write_apdu(1, 3))
        scene.deliver(build_command(command, further))
        await scene.until(lambda: len(scene.packets) == 2)
        assert parse_answer(scene.packets[1], command, further).status == Status.OK
        assert scene.card.profile.counters == {KEYS.key_set: 8, further.key_set: 1}


async def test_push_has_an_application_of_its_own() -> None:
    async with Scene() as scene:
        scene.card.profile.push_tar = b"\xb2\x01\x07"
        command = Command(Spi(), b"\xb2\x01\x07", 1, b"")
        assert (await scene.ask(command)).status == Status.OK


@given(st.binary(max_size=60))
def test_no_bytes_break_what_cuts_commands(data: bytes) -> None:
    try:
        commands = split_commands(data)
    except Malformed:
        return
    assert b"".join(commands) == data
