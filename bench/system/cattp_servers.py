"""Who answers CAT_TP in O1 and O2, in a process of its own: `async with CattpServer("gateway") as server`.

`gateway` is the native server as the gateway runs it, with what it says read and dropped; `floor` is
bench/floor/cattp.pyx; `python` is `gateway.ota.cattp.Link` on uvloop's datagrams, without its timers: what one would
take instead. Run as a program it serves until its stdin ends, and answers each line with its counts as JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import select
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

from bench.system.stage import BenchFailed, Process, cpu_seconds, private_bytes

START_S = 60.0
CATTP_PORT = 9000
BUFFER_BYTES = 4 << 20
EXPECTED_MS = 3_600_000


def identifications(count: int) -> bytes:
    """What the cards say in their SYNs: 16 bytes each, packed, the same for whoever asks."""
    return b"".join(hashlib.blake2b(number.to_bytes(4, "big"), digest_size=16).digest() for number in range(count))


class CattpServer:
    """`links`: how many it is to have room for, and takes (identifications)."""

    def __init__(self, kind: str, links: int) -> None:
        self._words = [kind, str(links)]
        self._folder = Path(tempfile.mkdtemp(prefix="heliograph-cattp-"))
        self._process = Process(f"the {kind} server", self._folder)
        self.port = 0

    async def __aenter__(self) -> Self:
        command = [sys.executable, "-m", "bench.system.cattp_servers", *self._words]
        try:
            await self._process.start(command, piped=True)
            self.port = (await self._line())["port"]
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def counts(self) -> dict[str, int]:
        """`links` at least; of the gateway's also `bytes`, what it says that its links take."""
        stdin = self._process.child.stdin
        assert stdin is not None
        stdin.write(b"\n")
        return await self._line()

    async def _line(self) -> dict[str, int]:
        stdout = self._process.child.stdout
        assert stdout is not None
        line = await asyncio.wait_for(stdout.readline(), START_S)
        if not line:
            await self._process.child.wait()
            raise BenchFailed(f"it ended: {self._process.said()}")
        answer: dict[str, int] = json.loads(line)
        return answer

    def cpu_seconds(self) -> float:
        return cpu_seconds(self._process.pid)

    def private_bytes(self) -> int:
        return private_bytes(self._process.pid)


def open_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def _answer_lines(counts: Any) -> None:
    for _ in sys.stdin:
        print(json.dumps(counts()), flush=True)


def serve_floor(links: int) -> None:
    from gateway._load.cattp import CattpFloor

    sock = open_socket()
    floor = CattpFloor(sock.fileno(), links)
    threading.Thread(target=floor.run, daemon=True).start()
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    _answer_lines(floor.counts)
    floor.stop()


class PythonServer(asyncio.DatagramProtocol):
    """Links by the address and the CAT_TP port of their cards."""

    def __init__(self, known: set[bytes]) -> None:
        from gateway.ota.cattp import Limits

        self._limits = Limits()
        self._known = known
        self._links: dict[tuple[Any, int], Any] = {}
        self.received = self.sdus = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        from gateway.ota.cattp import Link, Received, State, Transmit
        from gateway.ota.cattp_pdu import parse_pdu
        from gateway.ota.malformed import Malformed

        self.received += 1
        try:
            pdu = parse_pdu(data)
        except Malformed:
            return
        key = (addr, pdu.source)
        link = self._links.get(key)
        if link is None:
            link = Link(self._limits, CATTP_PORT, 1, admit=self._known.__contains__)
            link.listen()
        for output in link.handle_pdu(pdu, time.monotonic_ns() // 1_000_000):
            if isinstance(output, Transmit):
                self._transport.sendto(output.data, addr)
            elif isinstance(output, Received):
                self.sdus += 1
        if link.state is not State.LISTEN:
            self._links[key] = link

    def counts(self) -> dict[str, int]:
        return {"links": len(self._links), "received": self.received, "sdus": self.sdus}


def serve_python(links: int) -> None:
    import uvloop

    packed = identifications(links)
    server = PythonServer({packed[at : at + 16] for at in range(0, len(packed), 16)})

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        sock = open_socket()
        await loop.create_datagram_endpoint(lambda: server, sock=sock)
        print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
        await asyncio.to_thread(_answer_lines, server.counts)

    uvloop.run(serve())


def serve_gateway(links: int) -> None:
    from gateway._native.cattp import EVENT_RECEIVED, CattpServer
    from gateway.config.ota_section import Ota

    limits = Ota()
    sock = open_socket()
    events, commands = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
    server = CattpServer(
        sock.fileno(),
        events,
        commands,
        local_port=CATTP_PORT,
        max_links=max(links, limits.max_links),
        max_half_open=limits.max_half_open,
        max_expected=max(links, limits.max_expected + limits.max_links),
    )
    sdus = 0

    def drain() -> None:
        """What comes up is read, as the gateway has to, and dropped."""
        nonlocal sdus
        while True:
            # the server wakes only who found nothing before
            told, more = server.drain()
            sdus += sum(event[0] == EVENT_RECEIVED for event in told)
            if not more:
                select.select([events], [], [])

    def counts() -> dict[str, int]:
        counted = server.counters()
        return {"links": counted["open"], "sdus": sdus, "bytes": server.link_bytes, "busy_bytes": counted["busy_bytes"]}

    threading.Thread(target=server.run, daemon=True).start()
    threading.Thread(target=drain, daemon=True).start()
    packed = identifications(links)
    for number in range(links):
        while not server.expect(packed[16 * number : 16 * number + 16], number, EXPECTED_MS):
            time.sleep(0.001)
    while server.counters()["expected"] < links:
        time.sleep(0.001)
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    _answer_lines(counts)


def main() -> None:
    kind, links = sys.argv[1], int(sys.argv[2])
    {"floor": serve_floor, "gateway": serve_gateway, "python": serve_python}[kind](links)


if __name__ == "__main__":
    main()
