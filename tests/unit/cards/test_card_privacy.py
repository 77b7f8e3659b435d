"""Who a card is, its keys and what it is sent are in no log, metric, history, evidence or repr."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import structlog
from card_fleet import IMEI, OTHER_IMEI, SETTINGS, Fleet, Phone, build_keys, commands

from gateway.model.cards import Ability, Fate
from gateway.ota.packet_security import Keys
from gateway.ota.sim.terminal import Behaviour

SECRET = tuple(bytes((0, 0xD6, 0, number, 24)) + b"\xfeGeheimnis-der-Nutzlast\xfe" for number in range(12))


def secrets(phone: Phone) -> Iterator[str]:
    record = phone.record
    for digits in (record.iccid, record.imsi, record.msisdn.removeprefix("+")):
        yield digits
        yield digits.encode().hex()
    swapped = phone.card.profile.iccid.hex()
    yield swapped
    for key_set in record.key_sets:
        for key in (key_set.kic, key_set.kid):
            yield key.hex()
            yield repr(key)[2:-1]
    for imei in (IMEI, OTHER_IMEI):
        yield imei.hex()
    yield "Geheimnis"
    yield b"Geheimnis".hex()
    yield phone.card.profile.check_request.hex()


def rekey(phone: Phone, keys: Keys) -> None:
    phone.card.profile = replace(phone.card.profile, keys=keys)


async def test_nothing_shows_who_or_what(caplog: pytest.LogCaptureFixture) -> None:
    shown: list[str] = []
    with structlog.testing.capture_logs() as logs:
        async with Fleet(replace(SETTINGS, attempts=2, validity_s=0.2, answer_s=0.3)) as fleet:
            phones = [
                await fleet.add(),
                await fleet.add(Behaviour(capable=False)),
                await fleet.add(ability=Ability.UNKNOWN, imei=OTHER_IMEI),
                await fleet.add(ability=Ability.NOT_CAPABLE),
                await fleet.add(),
                await fleet.add(),
                await fleet.add(),
            ]
            phones[4].fate = Fate.UNDELIVERED
            phones[5].card.profile.counters.update({2: 900, 3: 900})
            phones[6].terminal.deliver(b"\0")
            rekey(phones[6], build_keys(99, 2))
            numbers = []
            for phone in phones:
                numbers.append(await fleet.start(phone, SECRET))
                numbers.append(await fleet.start(phone, commands(40)))
                fleet.smsc.say(phone.record.msisdn, phone.card.profile.check_request, has_header=False)
                fleet.smsc.say(phone.record.msisdn, b"\5\0\3\1\2\1" + bytes(30), has_header=True)
            # a fault of ours: its trace must not show them either
            fleet.capabilities.learn = lambda *_arguments, **_more: 1 / 0
            fault = await fleet.add(ability=Ability.UNKNOWN)
            number = await fleet.start(fault, commands(60))
            await fleet.until(lambda: fleet.downloads.downloads[number].cause == "fault")
            del fleet.capabilities.learn
            for each in (*numbers, number):
                await fleet.end(each)
            await fleet.until(lambda: fleet.capabilities.checking == 0)
            every = [*phones, fault]
            for phone in every:
                shown.append(repr(fleet.evidence_lines(phone)))
                shown.append(repr(phone.record))
            for download in fleet.downloads.downloads.values():
                shown.append(repr(download))
            shown += [repr(payload) for payload in fleet.downloads.payloads.values()]
            shown.append(fleet.metrics.render().decode())
            shown.append(repr(fleet.engine.__dict__) + repr(fleet.calls.__dict__) + repr(fleet.answers.__dict__))
            shown.append(repr(fleet.incoming.__dict__))
    shown.append(repr(logs))
    shown.append(caplog.text)
    text = "\n".join(shown)
    assert any(entry["event"] == "card_download_failed" for entry in logs)
    assert any(entry["event"] == "card_counter_jumped" for entry in logs)
    for phone in every:
        for secret in secrets(phone):
            assert secret not in text, f"shown: a secret of {len(secret)} characters"
