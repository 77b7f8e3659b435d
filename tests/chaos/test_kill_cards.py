"""`kill -9` in the middle of downloads, again and again: each card executes all of its payload once and in order (E6).

The moments come from a seed, printed with every failure; CHAOS_SEED repeats one.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from card_fleet import FAST, SERVER, Fleet, Phone, commands
from chaos_cards import Setup, read_frame, write_frame

from gateway.model.cards import Ability, DownloadState, Fate
from gateway.ota.sim.terminal import Behaviour
from gateway.ota.sms_pp import Deliver, build_deliver, parse_submit

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

KILLS = 15
CARDS = 40
COMMANDS = 150
HERE = Path(__file__).parent
ROOT = HERE.parent.parent


class Network:
    """The terminals, and the SMSC of whichever gateway is connected."""

    def __init__(self) -> None:
        self.phones: dict[str, Phone] = {}
        self.over: dict[int, set[int]] = {}
        self.open = -1
        self._writer: asyncio.StreamWriter | None = None
        self._connected = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.handle(*await read_frame(reader))
        writer.close()

    def say(self, *values: Any) -> None:
        """What is said while no gateway is there is lost."""
        if self._writer is not None and not self._writer.is_closing():
            write_frame(self._writer, *values)

    def handle(self, kind: str, number: int, *values: Any) -> None:
        if kind == "over":
            self.over.setdefault(number, set()).add(values[0])
        elif kind == "states":
            self.open = number
        elif kind == "text":
            self.phones[values[0]].texts.append(values[1])
        else:
            for part in values[1]:
                self.phones[values[0]].terminal.deliver(build_deliver(Deliver(SERVER, part)))
            self.say("fate", number, int(Fate.DELIVERED))

    def on_submit(self, phone: Phone, tpdu: bytes) -> None:
        submit = parse_submit(tpdu)
        self.say("incoming", phone.record.msisdn.removeprefix("+"), submit.user_data, submit.has_header)

    @property
    def executed(self) -> int:
        return sum(len(phone.card.executed) for phone in self.phones.values())


async def spawn(folder: Path, socket: Path) -> asyncio.subprocess.Process:
    path = os.pathsep.join(map(str, (ROOT, HERE, ROOT / "tests/unit/cards")))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "chaos_cards.py"),
        str(folder),
        str(socket),
        env={**os.environ, "PYTHONPATH": path},
    )


async def test_no_command_is_lost_or_executed_twice(tmp_path: Path) -> None:
    given = os.environ.get("CHAOS_SEED")
    seed = int(given) if given else random.SystemRandom().randrange(1 << 32)
    print(f"CHAOS_SEED={seed}")
    rng = random.Random(seed)
    network, fleet, what = Network(), Fleet(), commands(COMMANDS)
    fleet.smsc.on_submit = lambda phone, tpdu: network.on_submit(phone(), tpdu)
    abilities = []
    for number in range(CARDS):
        abilities.append(rng.choice((Ability.CAPABLE, Ability.UNKNOWN)))
        behaviour = Behaviour(
            capable=number % 8 != 7,
            loss=0.05 if number % 4 == 1 else 0.0,
            delay_s=0.02 if number % 4 < 2 else 0.0,
            seed=number,
        )
        phone = await fleet.add(behaviour, limits=replace(FAST, keep_alive_ms=100, retries=4, opening_retries=8))
        network.phones[phone.record.msisdn] = phone
    setup = Setup([phone.record for phone in fleet.phones], [int(each) for each in abilities], list(what))
    (tmp_path / "setup").write_bytes(msgspec.msgpack.encode(setup))
    server = await asyncio.start_unix_server(network.serve, tmp_path / "smsc")
    try:
        killed_at = []
        for _ in range(KILLS):
            process = await spawn(tmp_path, tmp_path / "smsc")
            before = network.executed
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    while network.executed == before:
                        await asyncio.sleep(0.005)
            await asyncio.sleep(rng.uniform(0.0, 0.25))
            process.send_signal(signal.SIGKILL)
            await process.wait()
            killed_at.append(network.executed)
        process = await spawn(tmp_path, tmp_path / "smsc")
        async with asyncio.timeout(90):
            while network.open != 0:
                await asyncio.sleep(0.1)
                network.say("states")
        process.send_signal(signal.SIGKILL)
        await process.wait()
    finally:
        server.close()
        for phone in fleet.phones:
            await phone.terminal.power_off()
    print("commands executed at each kill:", killed_at)
    capable = [phone for phone in fleet.phones if phone.behaviour.capable]
    assert len(set(killed_at)) > 2, "the kills came too early or too late to mean anything"
    for phone in capable:
        assert phone.card.executed == list(what)
    for phone in fleet.phones:
        if not phone.behaviour.capable:
            assert (phone.card.executed, bool(phone.texts)) == ([], True)
    assert all(len(ends) == 1 for ends in network.over.values())
    assert set().union(*network.over.values()) <= {int(DownloadState.DONE), int(DownloadState.NOTICED)}
