"""The simulated card and terminal: power-on, PUSH, a channel on a real socket, a download (E1 to E4, E6)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_scene import CHECK_REQUEST, IMEI, KEYS, NONCE, Scene

from gateway.ota.packet_security import Algorithm, Answer, Counting, Keys, Spi
from gateway.ota.proactive import CloseChannel
from gateway.ota.push import OpenLink, build_push, parse_push_answer
from gateway.ota.result import General, Meaning, Result
from gateway.ota.secured_packet import Command, Status, build_command
from gateway.ota.sim.card import NOT_ALLOWED, OK, WRONG_DATA
from gateway.ota.sim.terminal import Behaviour
from gateway.ota.terminal_profile import Instruction, build_apdu

OTHER_IMEI = bytes.fromhex("5384090214365808")
BLOCKS = [bytes((number,)) * (200 * number + 1) for number in range(1, 8)]


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
        answers = await scene.download(BLOCKS)
        assert scene.card.executed == BLOCKS
        assert [answer.status for answer in answers] == [Status.OK] * len(BLOCKS)
        assert all(parse_push_answer(answer.data).is_done for answer in answers)
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
        assert scene.card.profile.counter == 1


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


@settings(max_examples=150, deadline=None)
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
        await scene.download([b"Geheimnis"])
        scene.terminal.deliver(bytes(10))
        await scene.ask(scene.command(b""), Keys(2, Algorithm.AES, KEYS.kic, bytes(16)))
        shown = caplog.text + repr((scene.card.profile, scene.card.counts, scene.terminal.counts, scene.server.events))
        shown += repr((scene.card.link, list(scene.fetched())))
        for secret in (KEYS.kic, KEYS.kid, IMEI, OTHER_IMEI, NONCE, CHECK_REQUEST, scene.card.profile.iccid, b"Geheim"):
            assert repr(secret)[2:-1] not in shown
            assert secret.hex() not in shown
        for text in ("4999", "12345678901", "127.0.0.1"):
            assert text not in shown
