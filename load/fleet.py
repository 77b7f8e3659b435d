"""A fleet of devices in processes of their own: log in, register, then silence; only through the device door.

One process holds 14,000 connections from one source address (past that the kernel's search for a free port becomes
slow); `Holders` starts as many as are needed and tells them all at once what to do.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import sys
from typing import cast

import msgspec

from gateway.model.frames import FrameReader, FrameType, Hello, Register, Welcome, build_frame, parse_body

DEVICES_A_PROCESS = 14_000
#: logins under way at once in one process
AT_ONCE = 500
IP_BIND_ADDRESS_NO_PORT = 24  # the port is chosen at connect


class Fleet:
    """The devices of one process; they keep what WELCOME gave them for the next time."""

    def __init__(self, app: str, port: int, first: int, count: int) -> None:
        self._app = app
        self._port = port
        self._first = first
        self._credentials: list[tuple[str, bytes]] = [("", b"")] * count
        self._sockets: list[socket.socket] = []

    def connect(self) -> None:
        """All logged in and registered, each with its token; raises SystemExit where one is refused."""
        selector = selectors.DefaultSelector()
        number = tokens = 0
        while tokens < len(self._credentials):
            while number < len(self._credentials) and number - tokens < AT_ONCE:
                selector.register(self._begin(number), selectors.EVENT_READ, (number, FrameReader()))
                number += 1
            for key, _ in selector.select(10):
                sock = cast(socket.socket, key.fileobj)
                device, reader = key.data
                for kind, body in reader.feed(sock.recv(65_536)):
                    if kind == FrameType.WELCOME:
                        welcome = parse_body(body, Welcome)
                        self._credentials[device] = (welcome.device, welcome.secret or self._credentials[device][1])
                    elif kind == FrameType.TOKEN:
                        tokens += 1
                        selector.unregister(sock)
                    elif kind in (FrameType.ERROR, FrameType.GOAWAY):
                        sys.exit(f"the gateway refused a device: {msgspec.msgpack.decode(body)}")
        selector.close()

    def _begin(self, number: int) -> socket.socket:
        device, secret = self._credentials[number]
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.0.{1 + self._first // DEVICES_A_PROCESS}.1", 0))
        sock.connect(("127.0.0.1", self._port))
        sock.setblocking(False)
        hello = Hello(v=1, heartbeat=240, device=device, secret=secret)
        register = Register(req=1, app=self._app, version=f"1.{number % 20}", account=f"account-{self._first + number}")
        sock.sendall(build_frame(FrameType.HELLO, hello) + build_frame(FrameType.REGISTER, register))
        self._sockets.append(sock)
        return sock

    def drop(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()


def hold(app: str, port: int, first: int, count: int) -> None:
    """One process of the fleet: does what stdin says, a word a line, and says when it is done."""
    fleet = Fleet(app, port, first, count)
    for line in sys.stdin:
        {"connect": fleet.connect, "drop": fleet.drop}[line.strip()]()
        print("done", flush=True)


class Holders:
    """The processes of the fleet."""

    def __init__(self) -> None:
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self, app: str, port: int, count: int) -> None:
        for first in range(0, count, DEVICES_A_PROCESS):
            numbers = (port, first, min(DEVICES_A_PROCESS, count - first))
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                __file__,
                app,
                *map(str, numbers),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            self._processes.append(process)

    async def tell(self, word: str) -> None:
        """All do it at once; returns when all are done."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(word.encode() + b"\n")
        for process in self._processes:
            assert process.stdout is not None
            if await process.stdout.readline() != b"done\n":
                raise SystemExit("a process of the fleet failed")

    async def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()


if __name__ == "__main__":
    hold(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
