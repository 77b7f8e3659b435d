"""Frames that are too large, cut, broken, unknown or out of order: a clear error, a counter, and the others live on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
from bare_device import frame, pack
from open_house import House, until

from gateway.metrics import Metric
from gateway.model.errors import (
    FrameTooLarge,
    InvalidField,
    MalformedFrame,
    OutOfOrder,
    UnknownFrame,
    UnsupportedVersion,
)
from gateway.model.frames import PROTOCOL_VERSION, FrameType

TOO_LONG_LENGTH = bytes((FrameType.HELLO, 0xFF, 0xFF, 0xFF, 0xFF, 0x01))


async def test_a_frame_over_the_login_limit_ends_the_link_before_its_body_came(house: House) -> None:
    device = await house.device().connect()
    device.send_raw(bytes((FrameType.HELLO, 0x81, 0x20)))  # says 4,097 bytes and brings none
    await device.sent_away(FrameTooLarge, FrameType.ERROR)
    assert house.ended("frame_too_large") == 1
    assert house.value(Metric.FRAMES_MALFORMED, "frame_too_large") == 1


async def test_a_hello_of_exactly_the_login_limit_is_taken(house: House) -> None:
    device = await house.device().connect()
    body = {"v": 1, "pad": ""}
    body["pad"] = "x" * (4096 - len(msgspec.msgpack.encode(body)) - 2)
    raw = msgspec.msgpack.encode(body)
    assert len(raw) == 4096
    device.send(FrameType.HELLO, body)
    assert (await device.receive(FrameType.WELCOME))["v"] == PROTOCOL_VERSION


async def test_after_login_a_frame_may_be_larger_up_to_the_limit_that_welcome_names(house: House) -> None:
    device = house.device()
    limit = (await device.login())["max_frame"]
    assert limit == 65_536
    body = {"req": 3, "pad": ""}
    body["pad"] = "x" * (limit - len(msgspec.msgpack.encode(body)) - 4)
    while len(msgspec.msgpack.encode(body)) < limit:
        body["pad"] += "x"
    device.send(FrameType.STATE, body)
    assert (await device.receive(FrameType.DONE))["req"] == 3
    device.send_raw(bytes((FrameType.STATE, 0x81, 0x80, 0x04)))  # 65,537
    await device.sent_away(FrameTooLarge, FrameType.ERROR)


async def test_a_length_of_more_than_four_bytes_is_malformed_before_and_after_login(house: House) -> None:
    fresh = await house.device().connect()
    fresh.send_raw(TOO_LONG_LENGTH)
    await fresh.sent_away(MalformedFrame, FrameType.ERROR)
    known = house.device()
    await known.login()
    known.send_raw(TOO_LONG_LENGTH)
    await known.sent_away(MalformedFrame, FrameType.ERROR)
    assert house.ended("malformed_frame") == 2


async def test_a_truncated_frame_is_waited_for_and_its_end_with_the_link_harms_nobody(house: House) -> None:
    device = house.device()
    token = await device.join()
    push = await house.shop.push(token, "one")
    await device.note()
    device.send_raw(pack(FrameType.ACK, [1] * 100)[:50])
    device.close()
    await until(lambda: house.counter("links") == 0)
    assert (await house.shop.delivery(push))["state"] == "waiting"
    await device.join()
    await device.note(ack=True)
    await house.shop.reaches(push, "acked")


async def test_a_hello_that_is_no_msgpack_is_malformed(house: House) -> None:
    bodies = [b"\xc1", b"\x81\xa1v", b"\x82\xa1v\x01", b"\xdb\xff\xff\xff\xff", b"\x82\xa1v\x01\xa1p" + b"\x91" * 4_000]
    for raw in bodies:
        device = await house.device().connect()
        device.send_raw(frame(FrameType.HELLO, raw))
        await device.sent_away(MalformedFrame, FrameType.ERROR)
    assert house.value(Metric.FRAMES_MALFORMED, "malformed_frame") == len(bodies)
    assert house.value(Metric.LOGINS, "malformed_frame") == len(bodies)


async def test_a_request_that_is_no_msgpack_ends_the_link_and_is_counted(house: House) -> None:
    device = house.device()
    await device.login()
    device.send_raw(frame(FrameType.REGISTER, b"\xc1"))
    await device.sent_away(MalformedFrame, FrameType.ERROR)
    assert house.value(Metric.FRAMES_MALFORMED, "malformed_frame") == 1


async def test_acks_that_are_no_array_of_ids_are_malformed(house: House) -> None:
    too_many = b"\xdc\x04\x01" + b"\x01" * 1025
    bodies = [b"", b"\xc0", b"\x80", b"\x91\xff", b"\x91\xc0", b"\x92\x01", b"\x91\xa11", b"\x90\x01", too_many]
    for raw in bodies:
        device = house.device()
        await device.login()
        device.send_raw(frame(FrameType.ACK, raw))
        await device.sent_away(MalformedFrame, FrameType.ERROR)
    assert house.ended("malformed_frame") == len(bodies)


async def test_a_wrong_field_is_named_and_the_link_lives_on(house: House) -> None:
    device = house.device()
    await device.login()
    good = {"req": 5, "app": "shop", "version": "1"}
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("app", {**good, "app": 17}),
        ("version", {"req": 5, "app": "shop"}),
        ("version", {**good, "version": ""}),
        ("account", {**good, "account": "x" * 2_000}),
        ("tags", {**good, "tags": ["x"] * 2_000}),
        ("keep", {**good, "keep": 1}),
        ("alias", {**good, "alias": b"bytes"}),
    ]
    for field, body in wrong:
        device.send(FrameType.REGISTER, body)
        assert field in (await device.error(InvalidField, req=5))["message"]
    assert house.value(Metric.FRAMES_MALFORMED, "invalid_field") == len(wrong)
    assert await device.register()


async def test_a_field_nobody_knows_is_passed_over(house: House) -> None:
    """So that an older gateway serves a newer device."""
    device = house.device()
    await device.login(colour="blue")
    assert await device.register(colour="blue")


async def test_unknown_frame_types_are_answered_and_ignored(house: House) -> None:
    device = house.device()
    token = await device.join()
    for kind in (0x7F, 0x20, 0xFF, 0x00, FrameType.WELCOME, FrameType.PONG, FrameType.NOTIFY):
        device.send(kind, {"req": 4})
        await device.error(UnknownFrame, req=4)
    device.send(0x7F)
    await device.error(UnknownFrame)
    assert house.value(Metric.FRAMES_MALFORMED, "unknown_frame") == 8
    await house.shop.push(token, "still there")
    assert (await device.note())["title"] == "still there"


async def test_every_other_frame_before_hello_is_out_of_order(house: House) -> None:
    kinds = [kind for kind in FrameType if kind != FrameType.HELLO] + [0x7F]
    for kind in kinds:
        device = await house.device().connect()
        device.send(kind, {"req": 1})
        await device.sent_away(OutOfOrder, FrameType.ERROR)
    assert house.ended("out_of_order") == len(kinds)


async def test_a_second_hello_is_out_of_order_and_pending_is_kept(house: House) -> None:
    device = house.device()
    token = await device.join()
    push = await house.shop.push(token, "kept")
    await device.note()
    device.send(FrameType.HELLO, device.hello())
    await device.sent_away(OutOfOrder, FrameType.ERROR)
    await device.join()
    assert (await device.note(ack=True))["title"] == "kept"
    await house.shop.reaches(push, "acked")


async def test_a_second_hello_right_behind_the_first_leaves_no_session(house: House) -> None:
    device = await house.device().connect()
    device.send_raw(pack(FrameType.HELLO, {"v": 1}) * 2)
    await device.sent_away(OutOfOrder, FrameType.ERROR)
    await house.is_empty()


async def test_a_byte_at_a_time_is_as_good_as_all_at_once(house: House) -> None:
    device = await house.device().connect()

    async def drip(raw: bytes) -> None:
        for i in range(len(raw)):
            read = house.counter("bytes_in")
            device.send_raw(raw[i : i + 1])
            await until(lambda read=read: house.counter("bytes_in") > read, pause_s=0)

    await drip(pack(FrameType.HELLO, {"v": 1}))
    await device.receive(FrameType.WELCOME)
    await drip(pack(FrameType.REGISTER, {"req": 300, "app": "shop", "version": "1.0", "alias": "é" * 60}))
    assert (await device.receive(FrameType.TOKEN))["req"] == 300
    push = await house.shop.push({"alias": "é" * 60}, "drip")
    note = await device.note()
    await drip(pack(FrameType.ACK, [note["id"]]) + pack(FrameType.PING))
    await device.until(lambda: device.take(FrameType.PONG), "PONG")
    await house.shop.reaches(push, "acked")


async def test_register_may_come_right_behind_hello(house: House) -> None:
    device = await house.device().connect()
    device.send_raw(
        pack(FrameType.HELLO, {"v": 1})
        + pack(FrameType.PING)
        + pack(FrameType.REGISTER, {"req": 1, "app": "shop", "version": "1.0"})
        + pack(FrameType.STATE, {"req": 2})
    )
    assert await device.receive(FrameType.WELCOME)
    token = (await device.receive(FrameType.TOKEN))["token"]
    await device.receive(FrameType.DONE)
    await device.receive(FrameType.PONG)
    await house.shop.push(token, "hello")
    assert (await device.note())["title"] == "hello"


async def test_frames_behind_a_hello_that_is_refused_are_not_answered(house: House) -> None:
    device = await house.device().connect()
    device.send_raw(
        pack(FrameType.HELLO, {"v": 2}) + pack(FrameType.REGISTER, {"req": 1, "app": "shop", "version": "1.0"})
    )
    body = await device.sent_away(UnsupportedVersion, FrameType.ERROR)
    assert body["versions"] == [PROTOCOL_VERSION]
    assert len(device.frames) == 1
    await house.is_empty()


async def test_a_flood_of_wrong_frames_whose_answers_nobody_reads_is_bounded(open_house: Callable[..., Any]) -> None:
    house = await open_house({"edge.outbox_bytes": 4096, "edge.slow_timeout_s": 60.0})
    device = await house.device().connect(receive_buffer=4096)
    await device.login()
    device.transport.pause_reading()
    device.send_raw(pack(0x7F) * 200_000)
    await until(lambda: house.ended("slow_consumer") == 1)


async def test_noise_of_every_kind_ends_in_an_answer_or_an_end_and_harms_nobody(house: House) -> None:
    """Frames of random types, bodies and cuts, before and after login; an error of ours in the log fails the test."""
    chance = random.Random(20_260_101)
    calm = house.device()
    token = await calm.join()

    def body() -> Any:
        ids = [chance.choice((0, 1, 2, 1 << 31, 1 << 63, (1 << 64) - 1, -1)) for _ in range(chance.randrange(4))]
        words = [
            "",
            "shop",
            token,
            "1.0",
            "\u00e9" * 30,
            "x" * 70,
            None,
            True,
            -1,
            0,
            1,
            5,
            1 << 40,
            2.5,
            b"\xff",
            ids,
            {},
        ]
        keys = ["req", "app", "version", "account", "keep", "alias", "tags", "addresses", "fallback", "token", "forget"]
        keys += ["ids", "heartbeat", "urgency", "foreground", "v", "role", "device", "secret"]
        fields = {key: chance.choice(words) for key in chance.sample(keys, chance.randrange(len(keys)))}
        if chance.random() < 0.6:
            fields |= {"req": chance.randrange(1 << 32), "app": "shop", "version": "1.0", "token": token}
        return chance.choice((fields, fields, ids, None, chance.choice(words)))

    def noise() -> bytes:
        raw = msgspec.msgpack.encode(body()) if chance.random() < 0.9 else chance.randbytes(chance.randrange(40))
        if chance.random() < 0.1:
            raw = raw[: chance.randrange(len(raw) + 1)]
        return frame(chance.choice((*range(0x14), 0x20, 0x30, 0x7F, 0xFF)), raw)

    for _ in range(150):
        device = await house.device().connect()
        if chance.random() < 0.8:
            device.send(FrameType.HELLO, {"v": 1})
        stream = b"".join(noise() for _ in range(chance.randrange(1, 40)))
        if chance.random() < 0.3:
            stream = stream[: chance.randrange(len(stream) + 1)]
        cut = chance.randrange(len(stream) + 1)
        device.send_raw(stream[:cut])
        device.send_raw(stream[cut:])
        device.close()
        await device.end()
    push = await house.shop.push(token, "calm")
    while (await calm.note(ack=True))["title"] != "calm":
        pass
    await house.shop.reaches(push, "acked")
    await until(lambda: house.counter("links") == 1)
    assert house.sessions == 1
    assert await house.shop.is_connected(token)
