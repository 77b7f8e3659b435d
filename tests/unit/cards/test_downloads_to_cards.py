"""Downloads end to end: real UDP, real packets, simulated cards (E6, E7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from card_fleet import FAST, FEW, SETTINGS, TAR, Fleet, Phone, apdu, commands, steps

from gateway.cards.progress import Progress
from gateway.cards.transfer import SPARE_COUNTERS
from gateway.metrics import Metric
from gateway.model.cards import Ability, Download, DownloadState, Fate, PacketPlan
from gateway.ota.push import OpenLink
from gateway.ota.result import Bearer, General, Result
from gateway.ota.secured_packet import Status
from gateway.ota.sim.card import OK
from gateway.ota.sim.terminal import Behaviour

# --- capable (E6) -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_native", [False, True], ids=["python", "native"])
@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(),
        Behaviour(open_delay_s=0.05),
        Behaviour(loss=0.05, seed=1),
        Behaviour(loss=0.3, twice=0.1, delay_s=0.01, seed=2),
    ],
    ids=["plain", "slow", "lossy", "bad_network"],
)
async def test_a_capable_card_gets_all_of_it_over_its_link(behaviour: Behaviour, at_once: int, is_native: bool) -> None:
    async with Fleet(replace(SETTINGS, packets_at_once=at_once, validity_s=10.0), is_native=is_native) as fleet:
        phone = await fleet.add(behaviour)
        what = commands(40)
        download = await fleet.run(phone, what)
        assert (download.state, download.way, download.done) == (DownloadState.DONE, "link", 40)
        assert phone.card.executed == list(what)
        assert [over.number for over in fleet.over] == [download.number]
        assert "link_opened" in fleet.evidence(phone)
        await fleet.until(lambda: phone.card.link is None or behaviour.loss > 0)


async def test_the_link_is_closed_and_the_channel_with_it() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        for _ in range(3):  # a channel that stayed open would be busy the next time
            assert (await fleet.run(phone, commands(3))).calls == 1
        assert fleet.links.open_links <= 3


@pytest.mark.parametrize("is_native", [False, True], ids=["python", "native"])
async def test_a_channel_that_is_dropped_in_the_middle(is_native: bool) -> None:
    """The next link goes on at the packet of which nobody knows, and the card executes everything once and in order."""
    async with Fleet(replace(SETTINGS, answer_s=0.3), is_native=is_native) as fleet:
        phone = await fleet.add()
        what = commands(40)

        def perform(command: bytes) -> int:
            if command in (what[11], what[27]):
                phone.terminal.drop_channel()
            return OK

        phone.card.perform = perform
        download = await fleet.run(phone, what)
        assert (download.state, download.calls) == (DownloadState.DONE, 3)
        assert phone.card.executed == list(what)
        assert fleet.metrics.value(Metric.OTA_RESUMES, "plan") == 2
        # executed, but for its answer: the same packet again, and the card knows its counter
        assert fleet.metrics.value(Metric.OTA_PACKETS, "executed_before") == 2


class Returning:
    """A card that opens its channel anew and calls under the same identification, as behind a NAT that forgot it."""

    def __init__(self, phone: Phone) -> None:
        self._phone = phone
        self._tasks: list[asyncio.Task[None]] = []
        self._open = phone.terminal._open
        phone.terminal._open = self._note

    async def _note(self, command):
        self._command = command
        return await self._open(command)

    def come_back(self) -> None:
        self._tasks.append(asyncio.create_task(self._come_back()))

    async def _come_back(self) -> None:
        card, terminal = self._phone.card, self._phone.terminal
        old = card.link
        terminal._close()
        card._drop_link()
        await self._open(self._command)
        card._channel = 1
        terminal._put(lambda: (b"", self._call(old)))

    def _call(self, old) -> int:
        card = self._phone.card
        card._open_link(OpenLink(old.remote_port, None, old._identification))
        return card._status_word()


@pytest.mark.parametrize("is_native", [False, True], ids=["python", "native"])
async def test_a_card_that_comes_back_under_the_same_identification(is_native: bool) -> None:
    """No new call: the transfer goes on over the new link."""
    async with Fleet(is_native=is_native) as fleet:
        phone = await fleet.add()
        returning = Returning(phone)
        what = commands(40)

        def perform(command: bytes) -> int:
            if command in (what[5], what[23]):
                returning.come_back()
            return OK

        phone.card.perform = perform
        download = await fleet.run(phone, what)
        assert (download.state, download.calls) == (DownloadState.DONE, 1)
        assert phone.card.executed == list(what)
        assert fleet.metrics.value(Metric.OTA_RESUMES, "same_link") == 2


async def test_a_card_that_only_comes_back_holds_nobody_up() -> None:
    async with Fleet(replace(FEW, validity_s=5.0, answer_s=3_600.0)) as fleet:
        phone = await fleet.add()
        returning = Returning(phone)
        phone.card._on_sdu = lambda _sdu: returning.come_back()
        download = await fleet.run(phone, commands(40))
        assert download.state is DownloadState.NOTICED
        assert "came back too often" in [step.detail for step in download.steps]


def answers_first(phone: Phone, packet: int, status: Status, *, executes: bool = False) -> None:
    """The card says this to a packet of commands (the first is 1), whose counter it took; `executes`: that later."""
    execute, packets = phone.card._execute, 0

    def answer_so(commands: list[bytes], at: int, answer) -> None:
        nonlocal packets
        if at == 0 and commands and commands[0][:2] != b"\x80\xec":
            packets += 1
            if packets == packet:
                answer(b"", status)
                if not executes:
                    return
        execute(commands, at, answer)

    phone.card._execute = answer_so


@pytest.mark.parametrize("packet", [1, 2, 4])
async def test_a_packet_that_the_card_had_no_room_for_is_not_taken_for_executed(packet: int) -> None:
    """The card took its counter, so the same packet once more would be refused for that and prove nothing."""
    async with Fleet() as fleet:
        phone = await fleet.add()
        answers_first(phone, packet, Status.MEMORY)
        what = commands(40)
        download = await fleet.run(phone, what)
        assert (download.state, download.calls) == (DownloadState.DONE, 2)
        assert phone.card.executed == list(what)
        assert "card" in steps(download)


@pytest.mark.parametrize("ability", [Ability.CAPABLE, Ability.NOT_CAPABLE])
async def test_a_card_that_needs_more_time_is_waited_for(ability: Ability) -> None:
    """It executes what it got, and its answer comes behind the word that it will: nothing is sent twice."""
    async with Fleet() as fleet:
        phone = await fleet.add(ability=ability)
        answers_first(phone, 1, Status.MORE_TIME, executes=True)
        what = commands(5)
        assert (await fleet.run(phone, what)).state is DownloadState.DONE
        assert phone.card.executed == list(what)


async def test_a_card_that_needs_more_time_than_it_has_is_tried_again() -> None:
    async with Fleet(FEW) as fleet:
        phone = await fleet.add(ability=Ability.NOT_CAPABLE)
        answers_first(phone, 1, Status.MORE_TIME)
        what = commands(5)
        download = await fleet.run(phone, what)
        assert (download.state, steps(download)[:3]) == (DownloadState.DONE, ["message", "card", "retry"])
        assert phone.card.executed == list(what)


async def test_a_channel_that_is_dropped_behind_the_first_packet() -> None:
    """Whether a refused counter is that of a packet in doubt, or the card is ahead of us, an empty packet asks."""
    async with Fleet(replace(SETTINGS, answer_s=0.3)) as fleet:
        phone = await fleet.add()
        what = commands(40)
        dropped = []

        def perform(command: bytes) -> int:
            if command == what[3] and not dropped:
                dropped.append(command)
                phone.terminal.drop_channel()
            return OK

        phone.card.perform = perform
        assert (await fleet.run(phone, what)).state is DownloadState.DONE
        assert phone.card.executed == list(what)
        assert fleet.metrics.value(Metric.OTA_PACKETS, "probes") == 1
        assert fleet.metrics.value(Metric.OTA_COUNTER_JUMPS) == 0


@pytest.mark.parametrize("ahead", [0, 1_000])
@pytest.mark.parametrize("probes", [0, 1, SPARE_COUNTERS])
async def test_a_plan_whose_first_packet_never_came_and_a_card_that_may_be_ahead(ahead: int, probes: int) -> None:
    """A restored store: what the card refuses was not executed."""
    async with Fleet() as fleet:
        phone = await fleet.add()
        phone.card.profile.counters[3] = ahead
        what = commands(30)
        first = await fleet.cards.take_counters(fleet.handle(phone), 3, 30)
        plan = PacketPlan(0, first, 200, 3, probes=probes)
        download = msgspec.structs.replace(fleet.build(phone, what), plan=plan, calls=1)
        await fleet.downloads.add([download])
        fleet.engine.start(download)
        assert (await fleet.end(download.number)).state is DownloadState.DONE
        assert phone.card.executed == list(what)
        assert fleet.metrics.value(Metric.OTA_COUNTER_JUMPS) == (1 if ahead else 0)


async def test_with_one_key_set_for_both_a_packet_in_doubt_is_sent_anew() -> None:
    """At least once: the PUSH of the second call has a counter behind that of the packet in doubt."""
    async with Fleet(replace(SETTINGS, answer_s=0.3), data_keys=2) as fleet:
        phone = await fleet.add()
        what = commands(40)
        dropped = []

        def perform(command: bytes) -> int:
            if command == what[11] and not dropped:
                dropped.append(command)
                phone.terminal.drop_channel()
            return OK

        phone.card.perform = perform
        download = await fleet.run(phone, what)
        assert download.state is DownloadState.DONE
        executed = phone.card.executed
        assert list(dict.fromkeys(executed)) == list(what)
        assert len(executed) > len(what)
        assert fleet.metrics.value(Metric.OTA_RESUMES, "anew") == 1


@pytest.mark.parametrize("moment", [1, 5, 11, 12, 27, 39])
async def test_a_gateway_that_is_killed_goes_on_where_it_was(moment: int) -> None:
    async with Fleet(replace(SETTINGS, answer_s=0.5, attempts=50)) as fleet:
        phone = await fleet.add(limits=replace(FAST, keep_alive_ms=50, retries=3, opening_retries=8))
        what = commands(40)
        reached = []
        phone.card.perform = lambda command: reached.append(command) or OK
        number = await fleet.start(phone, what)
        await fleet.until(lambda: len(reached) >= moment)
        await fleet.restart()
        download = await fleet.end(number)
        assert download.state is DownloadState.DONE
        assert phone.card.executed == list(what)
        assert [over.number for over in fleet.over] == [number]


async def test_killed_again_and_again() -> None:
    async with Fleet(replace(SETTINGS, answer_s=0.5, attempts=50)) as fleet:
        phone = await fleet.add(
            Behaviour(loss=0.1, twice=0.1, delay_s=0.005, seed=5),
            limits=replace(FAST, keep_alive_ms=50, retries=3, opening_retries=8),
        )
        what = commands(60)
        reached = []
        phone.card.perform = lambda command: reached.append(command) or OK
        number = await fleet.start(phone, what)
        for moment in range(7, 60, 13):
            await fleet.until(lambda moment=moment: len(reached) >= moment)
            await fleet.restart()
        assert (await fleet.end(number)).state is DownloadState.DONE
        assert phone.card.executed == list(what)


async def test_a_card_that_takes_small_packets_only() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add(limits=replace(FAST, max_sdu=90, window=4))
        what = commands(12)
        assert (await fleet.run(phone, what)).state is DownloadState.DONE
        assert phone.card.executed == list(what)


async def test_a_command_that_does_not_fit_the_cards_packets() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add(limits=replace(FAST, max_sdu=90, window=4))
        download = await fleet.run(phone, [apdu(1), apdu(2, 200)])
        assert (download.state, download.cause) == (DownloadState.FAILED, "impossible")
        assert "command 2 does not fit" in download.steps[-1].detail
        assert phone.card.executed == []


@pytest.mark.parametrize("ability", [Ability.CAPABLE, Ability.NOT_CAPABLE])
async def test_what_is_no_command_is_not_brought(ability: Ability) -> None:
    async with Fleet() as fleet:
        phone = await fleet.add(ability=ability)
        download = await fleet.run(phone, [apdu(1), b"\0\xd6\0\0\5"[:4]])
        assert (download.state, download.steps[-1].detail) == (DownloadState.FAILED, "command 2 is none")
        assert phone.card.executed == []


@pytest.mark.parametrize("ability", [Ability.CAPABLE, Ability.NOT_CAPABLE])
async def test_messages_that_an_smsc_delivers_twice(ability: Ability) -> None:
    """The card refuses the second by its counter, and what it says of that changes nothing."""
    async with Fleet() as fleet:
        phone = await fleet.add(ability=ability)
        deliver = phone.terminal.deliver
        phone.terminal.deliver = lambda tpdu: (deliver(tpdu), deliver(tpdu))
        what = commands(5)
        for _ in range(3):
            assert (await fleet.run(phone, what)).state is DownloadState.DONE
        assert phone.card.executed == list(what) * 3


async def test_a_transfer_has_the_time_of_a_drain_and_a_call_has_not() -> None:
    async with Fleet(replace(SETTINGS, validity_s=60.0)) as fleet:
        phone, deaf = await fleet.add(), await fleet.add()
        deaf.fate = None
        reached = []
        phone.card.perform = lambda command: reached.append(command) or OK
        what = commands(60)
        number, other = await fleet.start(phone, what), await fleet.start(deaf, what)
        await fleet.until(lambda: len(reached) >= 3 and len(deaf.received) == 1)
        await fleet.engine.close(10.0)
        assert fleet.downloads.downloads[number].state is DownloadState.DONE
        assert not fleet.downloads.downloads[other].state.is_final
        deaf.fate = Fate.DELIVERED
        await fleet.restart()
        assert (await fleet.end(other)).state is DownloadState.DONE
        assert (phone.card.executed, deaf.card.executed) == (list(what), list(what))


@pytest.mark.parametrize("is_stopped", [False, True], ids=["drained", "stopped"])
async def test_a_notice_on_its_way_is_sent_once_and_told_of(is_stopped: bool) -> None:
    async with Fleet() as fleet:
        phone = await fleet.add(ability=Ability.NOT_CAPABLE)
        send_text, begun = fleet.smsc.send_text, asyncio.Event()

        async def slow(*args, **options):
            sent = await send_text(*args, **options)
            begun.set()
            await asyncio.sleep(0.1)
            return sent

        fleet.smsc.send_text = slow
        number = await fleet.start(phone, commands(200))
        await begun.wait()
        if is_stopped:
            await fleet.engine.stop(number)
        else:
            await fleet.engine.close(2.0)
            await fleet.restart()
        assert (await fleet.end(number)).state is DownloadState.NOTICED
        assert len(phone.texts) == 1


async def test_a_transfer_that_a_drain_cuts_goes_on_after_the_next_start() -> None:
    async with Fleet(replace(SETTINGS, attempts=50)) as fleet:
        phone = await fleet.add(limits=replace(FAST, keep_alive_ms=50, retries=3, opening_retries=8))
        reached = []
        phone.card.perform = lambda command: reached.append(command) or OK
        what = commands(60)
        number = await fleet.start(phone, what)
        await fleet.until(lambda: len(reached) >= 10)
        await fleet.engine.close()
        assert not fleet.downloads.downloads[number].state.is_final
        await fleet.restart()
        assert (await fleet.end(number)).state is DownloadState.DONE
        assert phone.card.executed == list(what)


async def test_a_command_that_the_card_refuses_ends_it() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        what = commands(40)
        phone.card.perform = lambda command: 0x6A82 if command == what[17] else OK
        download = await fleet.run(phone, what)
        assert (download.state, download.cause, download.done) == (DownloadState.FAILED, "refused", 17)
        assert download.steps[-1].detail == "6A82 at command 18"
        assert phone.card.executed == list(what[:17])


async def test_an_application_that_the_card_does_not_have() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        download = replace_tar(fleet, phone)
        await fleet.downloads.add([download])
        fleet.engine.start(download)
        ended = await fleet.end(download.number)
        assert (ended.state, ended.cause) == (DownloadState.FAILED, "refused")
        assert "status 09" in ended.steps[-1].detail


def replace_tar(fleet: Fleet, phone) -> Download:
    assert TAR != b"\1\2\3"
    return msgspec.structs.replace(fleet.build(phone, commands(3)), tar=b"\1\2\3")


async def test_a_card_that_is_ahead_of_our_counters() -> None:
    """The store is a restored backup: the card has seen higher ones, of both key sets."""
    async with Fleet() as fleet:
        phone = await fleet.add()
        phone.card.profile.counters.update({2: 900, 3: 1_700})
        what = commands(20)
        download = await fleet.run(phone, what)
        assert (download.state, download.calls) == (DownloadState.DONE, 1)
        assert phone.card.executed == list(what)
        assert fleet.metrics.value(Metric.OTA_COUNTER_JUMPS) == 2


async def test_a_card_that_is_too_far_ahead_is_not_chased_for_ever() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        phone.card.profile.counters[3] = 1 << 30
        download = await fleet.run(phone, commands(3))
        assert (download.state, download.cause) == (DownloadState.FAILED, "refused")
        assert phone.card.executed == []


async def test_a_capable_card_that_does_not_come_gets_a_notice_past_the_threshold() -> None:
    async with Fleet(FEW) as fleet:
        phone = await fleet.add(Behaviour(failure=Result(General.BEARER, bytes((Bearer.NO_CHANNEL,)))))
        download = await fleet.run(phone, commands(40), notice="come to the shop")
        assert (download.state, download.calls) == (DownloadState.NOTICED, 2)
        assert phone.texts == ["come to the shop"]
        assert steps(download) == ["called", "terminal", "retry", "called", "terminal", "noticed"]
        assert fleet.capability(phone).ability is Ability.CAPABLE


async def test_a_notice_of_the_settings_where_the_download_has_none() -> None:
    async with Fleet(FEW) as fleet:
        phone = await fleet.add(ability=Ability.NOT_CAPABLE)
        await fleet.run(phone, commands(40))
        assert phone.texts == [FEW.notice]


async def test_a_message_that_is_not_delivered_says_nothing_of_the_terminal() -> None:
    async with Fleet(FEW) as fleet:
        phone = await fleet.add()
        phone.fate = Fate.UNDELIVERED
        download = await fleet.run(phone, commands(40))
        assert download.state is DownloadState.NOTICED
        assert steps(download).count("undelivered") == 2
        assert fleet.capability(phone).ability is Ability.CAPABLE


async def test_a_capable_card_that_is_silent_stays_capable() -> None:
    """E6: another PUSH, up to the threshold; E4 decides only where nothing was known."""
    async with Fleet(FEW) as fleet:
        phone = await fleet.add()
        await phone.terminal.power_off()
        download = await fleet.run(phone, commands(40))
        assert (download.state, download.calls) == (DownloadState.NOTICED, 2)
        assert steps(download).count("silent") == 2
        assert fleet.capability(phone).ability is Ability.CAPABLE
        assert fleet.evidence(phone) == ["validity_over"] * 2


async def test_a_card_that_stops_inside_a_packet_and_calls_it_no_error() -> None:
    async with Fleet() as fleet:
        for ability in (Ability.CAPABLE, Ability.NOT_CAPABLE):
            phone = await fleet.add(ability=ability)
            execute = phone.card._execute

            def no_more_than_two(each: list[bytes], at: int, answer, execute=execute) -> None:
                execute(each if each[0][:2] == b"\x80\xec" else each[:2], at, answer)

            phone.card._execute = no_more_than_two
            what = commands(9)
            assert (await fleet.run(phone, what)).state is DownloadState.DONE
            assert phone.card.executed == list(what)


async def test_a_plan_that_messages_went_past() -> None:
    """Part of a packet of it was executed on another way: what is left of it is another packet."""
    async with Fleet() as fleet:
        phone = await fleet.add()
        what = commands(30)
        first = await fleet.cards.take_counters(fleet.handle(phone), 3, 60)
        plan = PacketPlan(0, first, 200, 3, proved=True)
        download = msgspec.structs.replace(fleet.build(phone, what), plan=plan, calls=1, done=3)
        await fleet.downloads.add([download])
        fleet.engine.start(download)
        assert (await fleet.end(download.number)).state is DownloadState.DONE
        assert phone.card.executed == list(what[3:])


async def test_progress_begins_the_tries_again() -> None:
    """Channels that each carry a little, each behind a call in vain, with a threshold of two."""
    async with Fleet(replace(FEW, answer_s=0.2, packet_bytes=64, validity_s=2.0)) as fleet:
        phone = await fleet.add()
        what = commands(8)
        busy = Behaviour(failure=Result(General.BEARER, bytes((Bearer.NO_CHANNEL,))))

        def perform(command: bytes) -> int:
            if what.index(command) % 2:
                phone.terminal.drop_channel()
            return OK

        def deliver_by_turns(tpdu: bytes, deliver=phone.terminal.deliver) -> None:
            phone.terminal.behaviour = busy if len(phone.received) % 2 else Behaviour()
            deliver(tpdu)

        phone.card.perform = perform
        phone.terminal.deliver = deliver_by_turns
        download = await fleet.run(phone, what)
        assert download.state is DownloadState.DONE
        assert download.calls == 10
        assert phone.card.executed == list(what)


async def test_a_card_that_is_busy_costs_no_try_and_is_asked_after_growing_pauses() -> None:
    """It has a channel open for longer than the threshold of two would last."""
    async with Fleet(replace(FEW, retry_s=0.02, retry_max_s=10.0)) as fleet:
        phone = await fleet.add()
        execute, busy = phone.card._execute, bytes.fromhex("016985")
        pauses: list[float] = []

        def answer_busy(commands: list[bytes], at: int, answer: Callable[[bytes], None]) -> None:
            if len(phone.received) <= 5:
                answer(busy)
            else:
                execute(commands, at, answer)

        wait_again = fleet.engine._wait_again

        def note(progress: Progress, pause: float) -> None:
            assert progress.download.tries == 0
            pauses.append(pause)
            wait_again(progress, pause)

        phone.card._execute = answer_busy
        fleet.engine._wait_again = note
        download = await fleet.run(phone, commands(10))
        assert download.state is DownloadState.DONE
        assert (download.calls, phone.texts) == (6, [])
        assert len(pauses) == 5
        assert all(0.01 * 2**place <= pause <= 0.02 * 2**place for place, pause in enumerate(pauses))


async def test_an_smsc_that_is_down_costs_no_try() -> None:
    async with Fleet(FEW) as fleet:
        phone = await fleet.add()
        fleet.smsc.is_down = True
        number = await fleet.start(phone, commands(10))
        await fleet.until(lambda: fleet.smsc.counts["refused"] >= 4)
        assert not fleet.downloads.downloads[number].state.is_final
        assert fleet.downloads.downloads[number].tries == 0
        fleet.smsc.is_down = False
        download = await fleet.end(number)
        assert (download.state, download.calls) == (DownloadState.DONE, 1)
        # however long it was down, one line says so
        assert steps(download) == ["later", "retry", "called", "opened", "done"]


async def test_a_number_that_the_smsc_refuses_for_good() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        fleet.smsc.refuses = True
        download = await fleet.run(phone, commands(10))
        assert (download.state, download.cause) == (DownloadState.FAILED, "unreachable")
