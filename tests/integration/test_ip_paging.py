"""The whole gateway on uvloop with a NAS and a terminal that run here: a push that is kept while the terminal is off
line reaches it over IP, after any number of tries and over a restart (C11)."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from open_house import House, until

from gateway.metrics import Metric
from gateway.model.errors import ConfigError
from gateway.paging.ip.accounting import INTERIM, START
from gateway.paging.ip.local import LocalTerminal
from gateway.paging.ip.local_nas import SECRET, LocalNas

Open = Callable[..., Any]
IMSI, HERE = "001010123456789", "127.0.0.1"


def find_app_port() -> int:
    """A free one of those that apps have. Tried by a plain socket: uvloop leaves what it could not bind behind."""
    for port in range(16_000, 17_000):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried, contextlib.suppress(OSError):
            tried.bind((HERE, port))
            return port
    raise AssertionError("no port from 16000 to 16999 is free")


@pytest.fixture
async def terminal() -> AsyncIterator[LocalTerminal]:
    made = LocalTerminal()
    await made.start(find_app_port())
    yield made
    made.close()


def settings(folder: Path, terminal: LocalTerminal) -> dict[str, Any]:
    file = folder / "radius-secret"
    file.write_bytes(SECRET)
    file.chmod(0o600)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((HERE, 0))
        port = free.getsockname()[1]
    return {
        "radius.port": port,
        "radius.clients": [HERE],
        "radius.secret_file": str(file),
        "ip.networks": ["127.0.0.0/8"],
        "ip.loopback": True,
        "ip.port": terminal.port,
        "paging.jitter_s": 0,
        "delivery.retry_ms": 20,
        "delivery.notifier_ack_ms": 200,  # so long after a restart what waits is looked at
        "identity.host": "push.example.com",
    }


async def away(house: House) -> str:
    """Token of a device that registered with an opaque id and left."""
    key = house.gateway.admin_key_file.read_text().strip()
    answer = await house.http.post(
        "/v1/subscribers",
        json={"network_ids": [{"kind": "imsi", "value": IMSI}], "trigger": "attach", "app": "shop"},
        headers={"authorization": f"Bearer {key}"},
    )
    assert answer.status_code == 200, answer.text
    device = house.device()
    await device.login()
    token = str(await device.register(addresses={"ip": answer.json()["ids"][0]["id"]}, fallback=["ip"]))
    device.close()

    async def is_away() -> bool:
        return not await house.shop.is_connected(token)

    await until(is_away)
    return token


async def test_kept_however_often_it_is_tried(open_house: Open, tmp_path: Path, terminal: LocalTerminal) -> None:
    house: House = await open_house(settings(tmp_path, terminal))
    push = await house.shop.push(await away(house), "wake up", text="there is news")
    # more often than a notifier that fails is tried
    await until(lambda: house.value(Metric.NOTIFIER_OUTCOMES, "ip offline") >= 8)
    assert terminal.datagrams == 0
    async with LocalNas(house.settings["radius.port"]) as nas:
        await nas.tell(START, ip=HERE, imsi=IMSI)
    await until(lambda: len(terminal.received) == 1)
    await house.shop.reaches(push, "notified")
    assert (terminal.received[0].title, terminal.received[0].text) == ("wake up", "there is news")
    assert terminal.faults == []


async def test_after_a_restart_an_interim_update_says_who_is_on_line(
    open_house: Open, tmp_path: Path, terminal: LocalTerminal
) -> None:
    house: House = await open_house(settings(tmp_path, terminal))
    token = await away(house)
    async with LocalNas(house.settings["radius.port"]) as nas:
        await nas.tell(START, ip=HERE, imsi=IMSI)
        await house.restart()
        push = await house.shop.push(token, "wake up")
        await until(lambda: house.value(Metric.NOTIFIER_OUTCOMES, "ip offline") >= 1)
        await nas.tell(INTERIM, ip=HERE, imsi=IMSI)
    await until(lambda: len(terminal.received) == 1)
    await house.shop.reaches(push, "notified")


async def test_a_push_that_waits_outlives_the_gateway(
    open_house: Open, tmp_path: Path, terminal: LocalTerminal
) -> None:
    house: House = await open_house(settings(tmp_path, terminal))
    push = await house.shop.push(await away(house), "wake up")
    await until(lambda: house.value(Metric.NOTIFIER_OUTCOMES, "ip offline") >= 1)
    await house.restart()
    async with LocalNas(house.settings["radius.port"]) as nas:
        await nas.tell(START, ip=HERE, imsi=IMSI)
    await until(lambda: len(terminal.received) == 1)
    await house.shop.reaches(push, "notified")


async def test_a_port_that_is_taken_stops_the_start(open_house: Open, tmp_path: Path, terminal: LocalTerminal) -> None:
    taken = settings(tmp_path, terminal)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((HERE, taken["radius.port"]))
        with pytest.raises(ConfigError) as caught:
            await open_house(taken)
    assert caught.value.field == "radius.port"
