"""Which servers a user may name for a connector."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from gateway.im.connectors import hosts
from gateway.im.connectors.hosts import resolve
from gateway.model.im import Rejected, Transient


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "::1", "10.1.2.3", "169.254.169.254", "::ffff:127.0.0.1", "0.0.0.0", "224.0.0.1"),
        *("::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:a00:1::", "fec0::1", "ff02::1"),
    ],
)
async def test_servers_in_the_operators_own_network_are_refused(host: str) -> None:
    with pytest.raises(Rejected, match="public internet"):
        await resolve(host, 443, allows_private=False)


async def test_they_are_found_where_the_operator_allows_it() -> None:
    assert await resolve("127.0.0.1", 443, allows_private=True) == ["127.0.0.1"]


@pytest.mark.parametrize("host", ["no such name", "", "a" * 70 + ".example", "x\x00y"])
async def test_what_is_no_name_is_rejected(host: str) -> None:
    with pytest.raises(Rejected):
        await resolve(host, 443, allows_private=False)


async def test_name_servers_that_never_answer_hold_up_no_other_work_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = threading.Event()

    def look_up(*_: Any, **__: Any) -> list[Any]:
        over.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(hosts, "LOOKUP_S", 0.2)
    asking = [asyncio.create_task(resolve(f"slow{n}.example", 443, allows_private=False)) for n in range(100)]
    await asyncio.sleep(0.05)
    try:
        async with asyncio.timeout(2):
            assert await asyncio.to_thread(sum, [1, 2]) == 3
            found = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(one, Transient) for one in found)
    finally:
        over.set()
