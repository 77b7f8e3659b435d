"""Clause C13: a server invites a terminal whose app does not run; one function a row, raises Failed where it does not
hold.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from gateway.client import Device, Invitation, ServicePages
from gateway.client.service_access import request_access
from gateway.client.service_pages import Outcome
from gateway.model.service_page import build_page, parse_page
from gateway.paging.udh import parse_header
from gateway.tour.fleet import Fleet
from gateway.tour.network import operator
from gateway.tour.stage import APP, Stage, check, eventually

AID = "com.example.chat"


class AppServer:
    """An app's server: asks the gateway about each service access request, and answers."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.url = ""
        self.served: list[str] = []
        self.bodies: list[bytes] = []

    async def ask(self, body: bytes) -> bool:
        headers = {"content-type": "application/json"}
        answer = await self._stage.call("POST", "/v1/service-access", content=body, headers=headers)
        check(answer.status_code == 200, f"the gateway answered {answer.status_code} {answer.text}")
        said = answer.json()
        if said["valid"]:
            self.served.append(said["push"])
        return bool(said["valid"])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line.partition(b":")[2]) for line in head if line.startswith(b"content-length:"))
        self.bodies.append(await reader.readexactly(length))
        status = b"200 OK" if await self.ask(self.bodies[-1]) else b"403 Forbidden"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()


@contextlib.asynccontextmanager
async def app_server(stage: Stage) -> AsyncIterator[AppServer]:
    server = AppServer(stage)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listener:
        server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/access"
        yield server


async def by_service_page(_stage: Stage, _fleet: Fleet) -> str:
    """The device registers once and leaves; a signed short message starts its app, which its server serves once."""
    async with operator() as network, app_server(network.stage) as server:
        stage = network.stage
        await stage.change_app(notifiers={"service": {"aid": AID, "servers": server.url}})
        opaque = (await network.trigger("attach"))["ids"][0]["id"]
        statuses: list[int] = []

        async def start(invitation: Invitation) -> None:
            check(invitation.params == b"table=7", f"the app was started with {invitation.params!r}")
            statuses.append((await request_access(invitation)).status)

        pages = ServicePages()
        pages.on_page(APP, start, aid=AID)
        async with Device("127.0.0.1", stage.device_port, pages=pages) as device:
            token = (await device.register(APP, "1.0", addresses={"service": opaque})).token
        await stage.disconnected(token)
        push = await stage.push({"token": token}, "c13", fallback=["service"], service={"params": "table=7"})
        _, page = parse_header(await network.paged(1))
        forged = pages.take(build_page(parse_page(page), bytes(32)))
        check(forged is Outcome.FORGED, f"a page signed by nobody: {forged}")
        taken = pages.take(page)
        check(taken is Outcome.STARTED, f"the page: {taken}")

        async def answered() -> bool:
            return bool(statuses)

        await eventually(answered, "the answer of the app's server")
        check((statuses, server.served) == ([200], [push]), f"the server answered {statuses}")
        check(pages.take(page) is Outcome.REPLAYED, "the same page was taken twice")
        check(not await server.ask(server.bodies[0]), "the same service access request was served twice")
        log = (stage.folder / "gateway.log").read_text() + (await stage.call("GET", "/metrics")).text
        check("table=7" not in log and token not in log, "a page was shown")
        network.check_strict()
    return (
        f"{len(page)} bytes by {network.by_what} started the app, its server asked the gateway and answered; forged,"
        " replayed: refused"
    )


CLAUSES = {"C13": ("an app that does not run is started", by_service_page)}
