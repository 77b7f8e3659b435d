"""The HLR's client before a register that answers, does not, or speaks of something else (C8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sms_scene import IMSI, MSISDN

from gateway.model.ports import Numbers
from gateway.paging.sms.hlr import MOST_OTHERS, OsmoHlr, build_frame

INFO = f"GET_REPLY 1 subscriber.by-x.info id\t1\nimsi\t{IMSI}\nmsisdn\t{MSISDN}\nnam_cs\t1\n"
TRAP = build_frame("TRAP 0 ready 1")


@asynccontextmanager
async def register(answer: bytes, *, hangs: bool = False) -> AsyncIterator[tuple[OsmoHlr, list[bytes]]]:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readexactly(3)
        asked.append(await reader.readexactly(int.from_bytes(head[:2], "big")))
        writer.write(answer)
        if hangs:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield OsmoHlr("127.0.0.1", server.sockets[0].getsockname()[1], 0.3), asked
    server.close()
    await server.wait_closed()


async def test_what_is_missing_is_filled_in() -> None:
    async with register(TRAP + build_frame(INFO)) as (hlr, asked):
        assert await hlr.look_up(Numbers(MSISDN, "")) == (MSISDN, IMSI, False)
        assert await hlr.look_up(Numbers("", IMSI)) == (MSISDN, IMSI, False)
        assert asked == [
            f"\0GET 1 subscriber.by-msisdn-{MSISDN}.info".encode(),
            f"\0GET 1 subscriber.by-imsi-{IMSI}.info".encode(),
        ]


@pytest.mark.parametrize(("cs", "ps"), [(0, 0), (0, 1), (1, 0), (1, 1)])
async def test_a_terminal_that_no_part_of_the_network_has_is_away(cs: int, ps: int) -> None:
    async with register(build_frame(f"{INFO}ms_purged_cs\t{cs}\nms_purged_ps\t{ps}\n")) as (hlr, _):
        known = await hlr.look_up(Numbers(MSISDN, ""))
        assert known is not None
        assert known.is_away is (cs == ps == 1)


async def test_unknown_there_is_none() -> None:
    async with register(build_frame("ERROR 1 No such subscriber.")) as (hlr, _):
        assert await hlr.look_up(Numbers(MSISDN, "")) is None


async def test_what_is_no_number_is_not_asked() -> None:
    async with register(b"") as (hlr, asked):
        assert await hlr.look_up(Numbers("49.info\nSET 1 x", "")) is None
        assert await hlr.look_up(Numbers("", "")) is None
        assert asked == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (build_frame("ERROR 1 Command not found"), ValueError),
        (build_frame("HELLO"), ValueError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", OSError),
        (b"", OSError),
        (b"\x00\xff\xee", OSError),
        (TRAP * (MOST_OTHERS + 1), ValueError),
    ],
)
async def test_what_is_no_answer_is_said_without_a_number(answer: bytes, error: type[Exception]) -> None:
    async with register(answer) as (hlr, _):
        with pytest.raises(error) as caught:
            await hlr.look_up(Numbers(MSISDN, ""))
        assert MSISDN not in str(caught.value)


async def test_one_that_hangs_or_is_not_there() -> None:
    async with register(b"", hangs=True) as (hlr, _):
        with pytest.raises(TimeoutError):
            await hlr.look_up(Numbers(MSISDN, ""))
    with pytest.raises(OSError, match=r".*"):
        await hlr.look_up(Numbers(MSISDN, ""))
