"""What is known of cards' terminals: asked, concluded, kept, void when it changed (E1 to E5)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from card_fleet import OTHER_IMEI, SETTINGS, Fleet, Phone, build_keys, commands

from gateway.cards.calls import Called, Ending
from gateway.metrics import Metric
from gateway.model.cards import Ability, DownloadState, Fate
from gateway.ota.check_request import build_check_request
from gateway.ota.result import General, Result
from gateway.ota.sim.terminal import Behaviour, Terminal

SHORT = replace(SETTINGS, validity_s=0.15)
DAY_MS = 86_400_000


async def settle(fleet: Fleet) -> None:
    await fleet.until(lambda: fleet.capabilities.checking == 0)


async def move(fleet: Fleet, phone: Phone, behaviour: Behaviour, imei: bytes = OTHER_IMEI) -> None:
    """The card goes into another terminal."""
    await phone.terminal.power_off()
    phone.behaviour = behaviour
    phone.terminal = Terminal(
        phone.card,
        imei,
        phone.terminal._centre,
        behaviour,
        lambda tpdu: fleet.smsc.on_submit(lambda: phone, tpdu),
    )
    await phone.terminal.power_on()


async def test_a_card_in_another_terminal_asks_and_is_found_capable() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add(ability=Ability.UNKNOWN, imei=OTHER_IMEI)
        await fleet.until(lambda: fleet.capability(phone).ability is Ability.CAPABLE)
        await settle(fleet)
        assert fleet.evidence(phone) == ["check_request", "link_opened"]
        await fleet.until(lambda: phone.card.link is None)


async def test_the_terminal_changes_and_so_does_what_is_known() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        await move(fleet, phone, Behaviour(capable=False))
        await fleet.until(lambda: fleet.capability(phone).ability is Ability.NOT_CAPABLE)
        await settle(fleet)
        assert fleet.evidence(phone) == ["check_request", "terminal_result"]
        await move(fleet, phone, Behaviour(), imei=bytes.fromhex("5384090214365809"))
        await fleet.until(lambda: fleet.capability(phone).ability is Ability.CAPABLE)
        # one power-on in the terminal that it knows: nothing is asked
        await settle(fleet)
        before = len(phone.received)
        await phone.terminal.power_off()
        await phone.terminal.power_on()
        await phone.terminal.settle()
        assert len(phone.received) == before


async def test_a_delivered_message_and_silence_is_not_capable() -> None:
    async with Fleet(SHORT) as fleet:
        phone = await fleet.add(ability=Ability.UNKNOWN)
        await phone.terminal.power_off()
        assert fleet.capabilities.ask(fleet.handle(phone))
        await settle(fleet)
        assert fleet.capability(phone).ability is Ability.NOT_CAPABLE
        assert fleet.evidence(phone) == ["validity_over"]


@pytest.mark.parametrize("fate", [Fate.UNDELIVERED, None])
async def test_a_message_that_did_not_arrive_concludes_nothing(fate: Fate | None) -> None:
    async with Fleet(replace(SHORT, attempts=3)) as fleet:
        phone = await fleet.add(ability=Ability.UNKNOWN)
        phone.fate = fate
        fleet.capabilities.ask(fleet.handle(phone))
        await settle(fleet)
        assert fleet.capability(phone).ability is Ability.UNKNOWN
        assert len(phone.received) == 3
        assert fleet.metrics.value(Metric.OTA_CHECKS, "given_up") == 1


async def test_what_may_pass_is_asked_again() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add(Behaviour(failure=Result(General.TERMINAL_BUSY, b"\1")), ability=Ability.UNKNOWN)
        fleet.capabilities.ask(fleet.handle(phone))
        await fleet.until(lambda: len(phone.received) == 2)
        phone.terminal.behaviour = Behaviour()
        await settle(fleet)
        assert fleet.capability(phone).ability is Ability.CAPABLE
        assert fleet.evidence(phone)[0] == "terminal"


async def test_a_channel_and_never_a_link_is_not_capable_in_the_end() -> None:
    async with Fleet(replace(SHORT, attempts=2)) as fleet:
        phone = await fleet.add(Behaviour(loss=1.0), ability=Ability.UNKNOWN)
        fleet.capabilities.ask(fleet.handle(phone))
        await fleet.until(lambda: fleet.evidence(phone) == ["no_link"])
        assert fleet.capability(phone).ability is Ability.UNKNOWN
        phone.terminal.drop_channel()
        await fleet.until(lambda: len(fleet.evidence(phone)) == 2)
        assert fleet.evidence(phone)[-1] in ("no_link", "busy")


async def test_what_is_known_expires_and_the_next_download_asks() -> None:
    async with Fleet(replace(SETTINGS, capability_days=2.0)) as fleet:
        phone = await fleet.add(ability=Ability.UNKNOWN)
        fleet.capabilities.ask(fleet.handle(phone))
        await settle(fleet)
        assert fleet.capability(phone).ability is Ability.CAPABLE
        fleet.later_ms = DAY_MS
        assert fleet.capability(phone).ability is Ability.CAPABLE
        fleet.later_ms = 3 * DAY_MS
        assert fleet.capability(phone).ability is Ability.UNKNOWN
        assert (await fleet.run(phone, commands(40))).state is DownloadState.DONE
        assert fleet.capability(phone).ability is Ability.CAPABLE


async def test_the_evidence_log_is_bounded() -> None:
    async with Fleet(replace(SETTINGS, evidence_lines=4)) as fleet:
        phone = await fleet.add()
        for _ in range(6):
            fleet.capabilities.invalidate(fleet.handle(phone), "operator")
        assert fleet.evidence(phone) == ["terminal_changed"] * 4
        assert fleet.capability(phone).ability is Ability.UNKNOWN
        assert fleet.evidence_lines(phone)[0].detail == "operator"


async def test_a_call_of_before_the_change_concludes_nothing() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add(ability=Ability.UNKNOWN)
        card = fleet.handle(phone)
        began = fleet.capabilities.mark(card)
        fleet.later_ms = 5
        fleet.capabilities.invalidate(card, "")
        fleet.later_ms = 10
        assert fleet.capabilities.learn(card, Called(Ending.OPENED), began) is Ability.UNKNOWN
        assert fleet.evidence(phone)[-1] == "link_opened_of_another_terminal"
        assert fleet.capabilities.learn(card, Called(Ending.OPENED), fleet.capabilities.mark(card)) is Ability.CAPABLE


async def test_a_clock_that_is_set_back_behind_a_change_keeps_nothing_from_being_concluded() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add()
        fleet.capabilities.invalidate(fleet.handle(phone), "told")
        fleet.later_ms = -3_600_000
        fleet.capabilities.ask(fleet.handle(phone))
        await settle(fleet)
        assert fleet.capability(phone).ability is Ability.CAPABLE
        assert fleet.evidence(phone) == ["terminal_changed", "link_opened"]


async def test_a_change_that_the_store_does_not_take_is_in_force_and_written_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The card says it once: in a terminal that it knows it says nothing."""
    monkeypatch.setattr("gateway.cards.capability._AGAIN_S", 0.01)
    async with Fleet(replace(SHORT, attempts=1)) as fleet:
        phone = await fleet.add()
        card = fleet.handle(phone)
        phone.fate = Fate.UNDELIVERED
        fleet.cards.full.writes = 3
        began = fleet.capabilities.mark(card)
        fleet.capabilities.on_check_request(card)
        assert fleet.capability(phone).ability is Ability.UNKNOWN
        assert fleet.capabilities.learn(card, Called(Ending.OPENED), began) is Ability.UNKNOWN
        await settle(fleet)
        await fleet.until(lambda: fleet.cards.capability(card).ability is Ability.UNKNOWN)
        assert fleet.capability(phone).ability is Ability.UNKNOWN


async def test_a_check_request_during_a_check_is_asked_for_again() -> None:
    """The first call found the old terminal."""
    async with Fleet(SHORT) as fleet:
        phone = await fleet.add(ability=Ability.UNKNOWN)
        await phone.terminal.power_off()
        card = fleet.handle(phone)
        fleet.capabilities.ask(card)
        await fleet.until(lambda: len(phone.received) == 1)
        fleet.later_ms = 5
        await move(fleet, phone, Behaviour())
        await settle(fleet)
        assert fleet.capability(phone).ability is Ability.CAPABLE
        assert "validity_over_of_another_terminal" in fleet.evidence(phone)


async def test_a_check_request_in_the_last_call_of_a_check_is_followed() -> None:
    async with Fleet(replace(SHORT, attempts=1)) as fleet:
        phone = await fleet.add(ability=Ability.UNKNOWN)
        await phone.terminal.power_off()
        fleet.capabilities.ask(fleet.handle(phone))
        await fleet.until(lambda: len(phone.received) == 1)
        fleet.later_ms = 5
        await move(fleet, phone, Behaviour())
        await settle(fleet)
        assert fleet.capability(phone).ability is Ability.CAPABLE


async def test_a_check_request_in_the_pause_of_a_check_is_followed_at_once() -> None:
    async with Fleet(replace(SETTINGS, attempts=2, retry_s=60.0, retry_max_s=60.0)) as fleet:
        phone = await fleet.add(Behaviour(failure=Result(General.TERMINAL_BUSY, b"\1")), ability=Ability.UNKNOWN)
        fleet.capabilities.ask(fleet.handle(phone))
        await fleet.until(lambda: fleet.evidence(phone) == ["terminal"])
        await move(fleet, phone, Behaviour())
        await fleet.until(lambda: fleet.capability(phone).ability is Ability.CAPABLE)
        await settle(fleet)


async def test_two_checks_and_a_download_at_a_time_do_not_race() -> None:
    async with Fleet() as fleet:
        phone = await fleet.add(ability=Ability.UNKNOWN)
        card = fleet.handle(phone)
        assert fleet.capabilities.ask(card)
        assert fleet.capabilities.ask(card)
        download = await fleet.run(phone, commands(40))
        await settle(fleet)
        assert download.state is DownloadState.DONE
        assert phone.card.executed == list(commands(40))
        assert len(phone.received) == 2


async def test_too_many_checks() -> None:
    async with Fleet(replace(SETTINGS, at_once=1)) as fleet:
        phones = [await fleet.add(ability=Ability.UNKNOWN) for _ in range(2)]
        assert [fleet.capabilities.ask(fleet.handle(phone)) for phone in phones] == [True, False]
        assert fleet.metrics.value(Metric.OTA_BOUNDS, "checks") == 1
        await settle(fleet)


# --- check requests that are not to be believed (E1) ------------------------------------------------------------------


async def test_a_forged_check_request_changes_nothing() -> None:
    async with Fleet() as fleet:
        phone, other = await fleet.add(), await fleet.add()
        genuine = phone.card.profile.check_request
        forged = build_check_request(phone.record.iccid, build_keys(99, 2))
        with_data_keys = build_check_request(phone.record.iccid, build_keys(1, 3))
        for source, data in (
            (phone, forged),
            (phone, with_data_keys),
            (phone, genuine[:-1]),
            (phone, other.card.profile.check_request),
            (other, genuine),
        ):
            fleet.smsc.say(source.record.msisdn, data, has_header=False)
        fleet.smsc.say("+447000000000", genuine, has_header=False)
        assert fleet.capabilities.checking == 0
        assert fleet.capability(phone).ability is Ability.CAPABLE
        kinds = {"forged": 2, "malformed": 1, "of_another_card": 2, "unknown_sender": 1}
        assert {kind: fleet.metrics.value(Metric.OTA_INCOMING, kind) for kind in kinds} == kinds


async def test_a_check_request_said_again_and_again_is_not_followed() -> None:
    async with Fleet(replace(SETTINGS, checks_per_hour=2)) as fleet:
        phone = await fleet.add()
        for _ in range(5):
            fleet.smsc.say(phone.record.msisdn, phone.card.profile.check_request, has_header=False)
            await settle(fleet)
        assert len(phone.received) == 2
        assert fleet.metrics.value(Metric.OTA_CHECKS, "too_often") == 3
        assert fleet.capability(phone).ability is Ability.CAPABLE
        fleet.later_ms = 3_600_000
        fleet.smsc.say(phone.record.msisdn, phone.card.profile.check_request, has_header=False)
        await settle(fleet)
        assert len(phone.received) == 3


async def test_after_a_restart_a_check_that_was_not_ended_leaves_the_card_unknown() -> None:
    async with Fleet(replace(SETTINGS, validity_s=60.0)) as fleet:
        phone = await fleet.add()
        phone.fate = None
        await move(fleet, phone, Behaviour())
        await fleet.until(lambda: len(phone.received) == 1)
        await fleet.restart()
        assert fleet.capability(phone).ability is Ability.UNKNOWN
        phone.fate = Fate.DELIVERED
        assert (await fleet.run(phone, commands(40))).state is DownloadState.DONE
        assert fleet.capability(phone).ability is Ability.CAPABLE
