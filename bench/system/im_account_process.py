"""XMPP accounts in a process of their own, for D1: `python -m bench.system.im_account_process SIDE COUNT PORT`; says
what they take, and holds them until it is ended."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import uvloop
from slixmpp import ClientXMPP

from bench.system.im_accounts import FIRST, PASSWORD
from bench.system.stage import private_bytes
from gateway.model.im import Credentials, Session
from gateway.tour.networks.prosody import DOMAIN

AT_ONCE = 16
SETTLE_S = 3.0

Connect = Callable[[int], Awaitable[None]]


def through_connector(port: int, stack: AsyncExitStack, held: list[object]) -> Connect:
    # not for the floor: it makes the library's login faster
    from gateway.im.connectors import ConnectorSettings
    from gateway.im.connectors.xmpp import build

    connector = build(ConnectorSettings(private_hosts=True))
    form = {"password": PASSWORD, "host": "127.0.0.1", "port": str(port), "tls": "never"}

    async def read(session: Session) -> None:
        async for _ in session.events():
            pass

    async def connect(number: int) -> None:
        credentials = Credentials({**form, "jid": f"user{number}@{DOMAIN}"})
        session = await stack.enter_async_context(connector.open(credentials, None))
        held.append(asyncio.create_task(read(session)))

    return connect


def bare(port: int, held: list[object]) -> Connect:
    async def connect(number: int) -> None:
        client = ClientXMPP(
            f"user{number}@{DOMAIN}", PASSWORD, plugin_config={"feature_mechanisms": {"unencrypted_scram": True}}
        )
        client.enable_starttls = client.enable_direct_tls = False
        client.enable_plaintext = True
        started = asyncio.Event()
        client.add_event_handler("session_start", lambda _: started.set())
        client.connect("127.0.0.1", port)
        await started.wait()
        client.send_presence()
        await client.get_roster()
        held.append(client)

    return connect


async def hold(side: str, count: int, port: int) -> None:
    held: list[object] = []
    async with AsyncExitStack() as stack:
        connect = bare(port, held) if side == "bare" else through_connector(port, stack, held)
        for number in range(FIRST):
            await connect(number)
        await asyncio.sleep(1.0)
        gc.collect()
        before, cpu_s = private_bytes(os.getpid()), time.process_time()
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with turns:
                await connect(number)

        await asyncio.gather(*(one(FIRST + number) for number in range(count)))
        cpu_s = time.process_time() - cpu_s
        await asyncio.sleep(SETTLE_S)
        gc.collect()
        print(json.dumps({"bytes": private_bytes(os.getpid()) - before, "cpu_s": cpu_s}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(hold(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
