"""A Device in a fleet of gateways: the next address when one fails, and the one that GOAWAY names; over real TCP."""

from __future__ import annotations

import socket

from scripted_gateway import Conversation, Hourglass, ScriptedGateway, goaway

from gateway.client import Connection, Device
from gateway.model import errors


async def stays(talk: Conversation) -> None:
    await talk.login()
    await talk.expect_end()


def away(**fields: object) -> object:
    async def script(talk: Conversation) -> None:
        await talk.login()
        talk.send(goaway(errors.Draining, after_ms=0, jitter_ms=1_000, **fields))
        await talk.expect_end()

    return script


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def device(first: int, *others: int, sleep: Hourglass) -> Device:
    order = iter(range(1_000))
    nodes = [f"127.0.0.1:{port}" for port in others]
    return Device("127.0.0.1", first, nodes=nodes, sleep=sleep, random=lambda: next(order) if others else 0.5)


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    sleep = Hourglass()
    async with ScriptedGateway(stays) as gateway, device(closed_port(), gateway.port, sleep=sleep) as phone:
        await phone.connected()
    assert len(sleep.delays) == 1


async def online_again(phone: Device, sleep: Hourglass, waits: int) -> None:
    async for state in phone.states():
        if state.connection is Connection.ONLINE and len(sleep.delays) == waits:
            return


async def test_a_device_that_is_sent_away_goes_where_goaway_says_with_the_same_id() -> None:
    hellos = []

    async def takes(talk: Conversation) -> None:
        hellos.append(await talk.login())
        await talk.expect_end()

    sleep = Hourglass()
    async with (
        ScriptedGateway(takes) as other,
        ScriptedGateway(away(host="127.0.0.1", port=other.port)) as gateway,
        device(gateway.port, sleep=sleep) as phone,
    ):
        await online_again(phone, sleep, 1)
    assert [hello.device for hello in hellos] == ["dev~1"]
    assert sleep.delays == [0.5]  # nothing, and a part of the jitter


async def test_a_named_gateway_that_is_not_there_costs_one_try() -> None:
    sleep = Hourglass()
    async with (
        ScriptedGateway(away(host="127.0.0.1", port=closed_port()), stays) as gateway,
        device(gateway.port, sleep=sleep) as phone,
    ):
        await online_again(phone, sleep, 2)
    assert sleep.delays == [0.5, 1.0]


async def test_before_the_login_nobody_is_believed_who_names_another() -> None:
    async def refuses(talk: Conversation) -> None:
        talk.send(goaway(errors.Overloaded, after_ms=5, host="127.0.0.1", port=trap.port))

    sleep = Hourglass()
    async with (
        ScriptedGateway() as trap,
        ScriptedGateway(refuses, stays) as gateway,
        device(gateway.port, sleep=sleep) as phone,
    ):
        await phone.connected()
