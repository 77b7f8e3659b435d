"""UP and DOWN on the device door: who may ask, what is answered, what is bounded; and who is told to be connected."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from bare_device import BareDevice
from open_house import House, until

from gateway.client import Device
from gateway.edge.asks import MAX_ASKS
from gateway.model.errors import BadRequest, Forbidden, GatewayError, Unauthorized
from gateway.model.frames import FrameType
from gateway.model.registration import build_token, parse_token


class Door:
    """Answers with what was asked; `gate` holds answers back."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def ask(self, token: bytes, op: str, body: bytes) -> bytes:
        self.asked.append((build_token(token), op))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        if op == "large":
            return msgspec.msgpack.encode({"data": "x" * 70_000})
        return body or msgspec.msgpack.encode({})


@pytest.fixture
def door(house: House) -> Door:
    door = Door()
    house.gateway.edge.open_to_users(door, "shop")
    return door


async def register(house: House) -> tuple[BareDevice, str]:
    device = house.device()
    await device.login()
    device.send(FrameType.REGISTER, {"req": 1, "app": "shop", "version": "1.0"})
    token = (await device.receive(FrameType.TOKEN))["token"]
    return device, token


async def test_an_answer_comes_with_the_request_s_number(house: House, door: Door) -> None:
    device, token = await register(house)
    device.send(FrameType.UP, {"req": 7, "token": token, "op": "echo", "body": {"a": [1, "ü"]}})
    assert await device.receive(FrameType.DOWN) == {"req": 7, "body": {"a": [1, "ü"]}}
    device.send(FrameType.UP, {"req": 8, "token": token, "op": "echo"})
    assert await device.receive(FrameType.DOWN) == {"req": 8, "body": {}}
    assert door.asked == [(token, "echo")] * 2


async def test_only_the_app_of_im_may_ask_and_only_with_a_token_of_its_link(house: House, door: Door) -> None:
    device, token = await register(house)
    other, _ = await register(house)
    other.send(FrameType.UP, {"req": 2, "token": token, "op": "echo"})
    assert (await other.receive(FrameType.ERROR))["name"] == "unknown_token"
    house.gateway.edge.open_to_users(door, "other")
    device.send(FrameType.UP, {"req": 3, "token": token, "op": "echo"})
    assert (await device.receive(FrameType.ERROR))["name"] == "forbidden"
    assert door.asked == []


async def test_without_im_it_is_said_which_setting_is_missing(house: House) -> None:
    device, token = await register(house)
    device.send(FrameType.UP, {"req": 2, "token": token, "op": "echo"})
    error = await device.receive(FrameType.ERROR)
    assert (error["name"], error["req"]) == ("not_configured", 2)
    assert "im.app" in error["message"]


@pytest.mark.parametrize("body", [{"req": -1}, {"req": 1}, {"req": 1, "op": "no spaces"}, {"req": 1, "op": ""}])
async def test_a_frame_that_is_wrong_costs_no_link(house: House, door: Door, body: dict[str, object]) -> None:
    device, token = await register(house)
    device.send(FrameType.UP, {"token": token, **body})
    assert (await device.receive(FrameType.ERROR))["name"] == "invalid_field"
    device.send(FrameType.UP, {"req": 9, "token": token, "op": "echo"})
    assert (await device.receive(FrameType.DOWN))["req"] == 9


@pytest.mark.parametrize(
    ("error", "name"),
    [(BadRequest("x", field="to"), "bad_request"), (Unauthorized(), "forbidden"), (GatewayError(), "internal")],
)
async def test_an_error_answers_its_request_and_never_ends_the_link(
    house: House, door: Door, error: GatewayError, name: str
) -> None:
    device, token = await register(house)
    door.error = error
    device.send(FrameType.UP, {"req": 5, "token": token, "op": "echo"})
    told = await device.receive(FrameType.ERROR)
    assert (told["name"], told["req"]) == (name, 5)
    door.error = None
    device.send(FrameType.UP, {"req": 6, "token": token, "op": "echo"})
    assert (await device.receive(FrameType.DOWN))["req"] == 6


async def test_a_fault_of_ours_tells_nothing_of_what_was_asked(
    house: House, door: Door, expected_errors: set[str]
) -> None:
    expected_errors.add("ask_failed")
    device, token = await register(house)
    door.error = RuntimeError("alice@example.org")
    device.send(FrameType.UP, {"req": 5, "token": token, "op": "echo"})
    told = await device.receive(FrameType.ERROR)
    assert (told["name"], told["req"]) == ("internal", 5)
    assert "alice" not in told["message"]


async def test_an_answer_that_fits_no_frame_is_an_error(house: House, door: Door) -> None:
    device, token = await register(house)
    device.send(FrameType.UP, {"req": 5, "token": token, "op": "large"})
    assert (await device.receive(FrameType.ERROR))["name"] == "payload_too_large"


async def test_a_question_without_an_answer_holds_up_nothing_and_there_is_a_most(house: House, door: Door) -> None:
    device, token = await register(house)
    door.gate.clear()
    for req in range(100, 100 + MAX_ASKS):
        device.send(FrameType.UP, {"req": req, "token": token, "op": "echo"})
    device.send(FrameType.UP, {"req": 500, "token": token, "op": "echo"})
    error = await device.receive(FrameType.ERROR)
    assert (error["name"], error["req"], error["retry"]) == ("queue_full", 500, True)
    device.send(FrameType.STATE, {"req": 501, "urgency": 0})
    assert (await device.receive(FrameType.DONE))["req"] == 501
    door.gate.set()
    assert [(await device.receive(FrameType.DOWN))["req"] for _ in range(MAX_ASKS)] == list(range(100, 100 + MAX_ASKS))
    assert len(house.gateway.edge.asks) == 0


async def test_a_device_that_goes_leaves_nothing_behind(house: House, door: Door) -> None:
    device, token = await register(house)
    door.gate.clear()
    device.send(FrameType.UP, {"req": 5, "token": token, "op": "echo"})
    await until(lambda: door.asked)
    device.vanish()
    door.gate.set()
    await until(lambda: len(house.gateway.edge.asks) == 0)


async def test_what_nobody_asked_for_comes_with_its_registration(house: House, door: Door) -> None:
    device, token = await register(house)
    raw = parse_token(token)
    assert raw is not None
    edge = house.gateway.edge
    edge.asks.tell(edge.attendance.link(raw), token, msgspec.msgpack.encode({"kind": "presence"}))
    assert await device.receive(FrameType.DOWN) == {"token": token, "body": {"kind": "presence"}}


async def test_who_comes_and_goes_is_told(house: House, door: Door) -> None:
    heard: list[tuple[str, str]] = []
    attendance = house.gateway.edge.attendance
    attendance.on_connected = lambda token: heard.append(("came", build_token(token)))
    attendance.on_disconnected = lambda token: heard.append(("left", build_token(token)))
    device, token = await register(house)
    await until(lambda: heard)
    raw = parse_token(token)
    assert raw is not None
    assert attendance.is_connected(raw)
    device.vanish()
    await until(lambda: len(heard) == 2)
    assert not attendance.is_connected(raw)
    assert heard == [("came", token), ("left", token)]


async def test_the_sdk_asks_and_is_told(house: House, door: Door) -> None:
    told: list[bytes] = []
    async with Device("127.0.0.1", house.gateway.edge.port) as device:
        registration = await device.register("shop", "1.0")
        registration.on_told(told.append)
        assert await registration.ask("echo", b"\x81\xa1a\x01") == b"\x81\xa1a\x01"
        door.error = Forbidden("no")
        with pytest.raises(Forbidden):
            await registration.ask("echo")
        door.error = None
        raw = parse_token(registration.token)
        assert raw is not None
        edge = house.gateway.edge
        edge.asks.tell(edge.attendance.link(raw), registration.token, b"\x81\xa1b\x02")
        await until(lambda: told)
        assert told == [b"\x81\xa1b\x02"]


async def test_the_sdk_asks_again_on_the_next_link(house: House, door: Door) -> None:
    async with Device("127.0.0.1", house.gateway.edge.port) as device:
        registration = await device.register("shop", "1.0")
        door.gate.clear()
        asking = asyncio.create_task(registration.ask("echo", b"\x80"))
        await until(lambda: len(door.asked) == 1)
        device.cut()
        await until(lambda: len(door.asked) == 2)
        door.gate.set()
        assert await asking == b"\x80"
