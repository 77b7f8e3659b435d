"""The device hears over IP that there is something to fetch, and believes nothing else (C11)."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client import WakeListener
from gateway.model.coap import (
    BAD_REQUEST,
    CHANGED,
    NOT_ALLOWED,
    NOT_FOUND,
    POST,
    URI_PATH,
    Coap,
    CoapType,
    build_coap,
    build_empty,
    parse_coap,
)

PAYLOAD = b"\x01" + bytes(38)
PUSH = ((URI_PATH, b"push"),)


def request(
    message_id: int = 1,
    *,
    kind: CoapType = CoapType.CON,
    code: int = POST,
    options: tuple[tuple[int, bytes], ...] = PUSH,
    payload: bytes = PAYLOAD,
) -> bytes:
    return build_coap(Coap(kind, code, message_id, b"tok", options, payload))


async def test_woken_once_and_answered_each_time() -> None:
    woken: list[bytes] = []
    listener = WakeListener(woken.append, quiet_s=0)
    answer = parse_coap(listener.handle(request(), "peer"))
    assert (answer.kind, answer.code, answer.message_id, answer.token) == (CoapType.ACK, CHANGED, 1, b"tok")
    assert parse_coap(listener.handle(request(), "peer")) == answer  # sent again: the answer was lost
    assert woken == [PAYLOAD]
    listener.handle(request(2), "peer")
    listener.handle(request(2), "another peer")
    assert len(woken) == 3


async def test_a_flood_wakes_once_in_a_while() -> None:
    woken: list[bytes] = []
    listener = WakeListener(woken.append, quiet_s=60)
    for n in range(1_000):
        assert parse_coap(listener.handle(request(n), "peer")).code == CHANGED
    assert woken == [PAYLOAD]
    assert len(listener._answered) == 64


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (request(options=((URI_PATH, b"other"),)), NOT_FOUND),
        (request(options=()), NOT_FOUND),
        (request(code=1), NOT_ALLOWED),
        (request(payload=b"\x02" + PAYLOAD[1:]), BAD_REQUEST),
        (request(payload=PAYLOAD[:-1]), BAD_REQUEST),
        (request(payload=b""), BAD_REQUEST),
        (request(options=((9, b"x"), *PUSH)), 0x82),
    ],
)
async def test_what_is_no_wake(data: bytes, code: int) -> None:
    woken: list[bytes] = []
    listener = WakeListener(woken.append)
    assert parse_coap(listener.handle(data, "peer")).code == code
    assert (woken, listener.refused) == ([], 1)


async def test_a_ping_is_reset_and_other_things_are_not_answered() -> None:
    listener = WakeListener(lambda _payload: None)
    assert listener.handle(build_empty(CoapType.CON, 9), "peer") == build_empty(CoapType.RST, 9)
    assert listener.handle(build_empty(CoapType.ACK, 9), "peer") == b""
    assert listener.handle(build_empty(CoapType.RST, 9), "peer") == b""
    assert listener.handle(b"\xff\xff", "peer") == b""
    assert listener.handle(request(kind=CoapType.NON), "peer") == b""


@given(st.lists(st.binary(max_size=60), max_size=5))
async def test_any_datagram_is_survived(datagrams: list[bytes]) -> None:
    listener = WakeListener(lambda _payload: None)
    for data in datagrams:
        listener.handle(data, "peer")
        listener.handle(b"\x43\x02\0\1tok\xb4push\xff" + data, "peer")


async def test_over_a_real_port() -> None:
    woken = asyncio.Event()
    listener = WakeListener(lambda _payload: woken.set())
    port = await listener.start(0, "127.0.0.1")
    assert port == listener.port
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=("127.0.0.1", port))
    transport.sendto(request())
    await asyncio.wait_for(woken.wait(), 30)
    transport.close()
    listener.close()
