"""An IRC server that does as little as a client lets it, for D2 and D3: `python -m bench.system.im_network LOGIN_MS`.

It takes so long for a login, sends messages to all who are there in turn, and knows when each came. Each text begins
with the moment it was sent at, as the swarm reads it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from typing import Any, cast

import uvloop

from bench.system.asked_process import AskedProcess, answer_asked
from bench.system.pacing import most_in, pace

NAME = "irc.bench"
FILLING = " a message of some length, as people write them"


class IrcNetwork(AskedProcess):
    module = "bench.system.im_network"

    def __init__(self, login_ms: int) -> None:
        super().__init__("the IRC server", [str(login_ms)])

    @property
    def form(self) -> dict[str, str]:
        """An account here, as the gateway's users fill it in."""
        return {"server": "127.0.0.1", "port": str(self.port), "tls": "never", "nick": "u{number}"}


def stamp() -> str:
    return f"t{time.monotonic_ns():016x}"


class Client(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._rest = b""
        self._nick = ""
        self._is_in = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._server.came()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._server.left(self, was_in=self._is_in)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        for line in lines:
            word, _, rest = line.decode().partition(" ")
            if word == "NICK":
                self._nick = rest
            elif word == "CAP" and rest.startswith("LS"):
                self._say("CAP * LS :")
            elif word == "CAP":
                self._timer = asyncio.get_running_loop().call_later(self._server.login_s, self._welcome)
            elif word == "PING":
                self._say(f"PONG {NAME} {rest}")
            elif word == "QUIT":
                self._transport.close()

    def _welcome(self) -> None:
        self._is_in = True
        self._say(f"001 {self._nick} :Welcome")
        self._server.entered(self)

    def _say(self, text: str) -> None:
        self._transport.write(f":{NAME} {text}\r\n".encode())

    def tell(self) -> None:
        text = f":friend!friend@there PRIVMSG {self._nick} :{stamp()}{FILLING}\r\n"
        self._transport.write(text.encode())


class Server:
    def __init__(self, login_s: float) -> None:
        self.login_s = login_s
        self._clients: dict[Client, None] = {}
        #: moments at which connections were there, and at which they had logged in
        self._begun: list[float] = []
        self._entered: list[float] = []
        self._connecting = 0
        self._most_connecting = 0

    def came(self) -> None:
        self._begun.append(time.monotonic())
        self._connecting += 1
        self._most_connecting = max(self._most_connecting, self._connecting)

    def entered(self, client: Client) -> None:
        self._entered.append(time.monotonic())
        self._connecting -= 1
        self._clients[client] = None

    def left(self, client: Client, *, was_in: bool) -> None:
        self._connecting -= not was_in
        self._clients.pop(client, None)

    async def look(self) -> dict[str, Any]:
        begun, entered = self._begun, self._entered
        return {
            "here": len(self._clients),
            "begun": len(begun),
            "first_s": begun[0] if begun else 0.0,
            "last_s": entered[-1] if entered else 0.0,
            "middle_s": entered[len(entered) // 2] if entered else 0.0,
            "most_in_1s": most_in(begun, 1.0),
            "most_at_once": self._most_connecting,
        }

    async def say(self, count: int, rate: float) -> dict[str, Any]:
        """So many messages, to each client in turn."""
        clients = list(self._clients)
        began_s = time.monotonic()
        seconds = await pace(count, rate, lambda number: clients[number % len(clients)].tell())
        return {"began_s": began_s, "seconds": seconds}


async def serve(login_s: float) -> None:
    gc.set_threshold(100_000, 50, 1000)
    server = Server(login_s)
    listening = await asyncio.get_running_loop().create_server(lambda: Client(server), "127.0.0.1", 0, backlog=4_096)
    await answer_asked(listening.sockets[0].getsockname()[1], {"look": server.look, "say": server.say})


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]) / 1_000))
