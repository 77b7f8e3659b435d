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
import socket
import sys
import threading
import time
from typing import Any

from bench.system.asked_process import AskedProcess
from bench.system.stage import private_bytes

CATTP_PORT = 9000
BUFFER_BYTES = 4 << 20
EXPECTED_MS = 3_600_000
#: for all cards to be expected; a million takes some seconds
_PREPARE_S = 120.0


def identifications(count: int) -> bytes:
    """What the cards say in their SYNs: 16 bytes each, packed, the same for whoever asks."""
    return b"".join(hashlib.blake2b(number.to_bytes(4, "big"), digest_size=16).digest() for number in range(count))


class CattpServer(AskedProcess):
    """`links`: how many it is to have room for, and takes (identifications). Its counts are `links` at least; of the
    gateway's also `bytes`, what it says that its links take."""

    module = "bench.system.cattp_servers"

    def __init__(self, kind: str, links: int) -> None:
        super().__init__(f"the {kind} server", [kind, str(links)])

    def private_bytes(self) -> int:
        return private_bytes(self.pid)


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
    end = time.monotonic() + _PREPARE_S

    def wait_a_little() -> None:
        if time.monotonic() > end:
            sys.exit(f"{server.counters()['expected']} of {links} cards are expected after {_PREPARE_S:g} s")
        time.sleep(0.001)

    for number in range(links):
        while not server.expect(packed[16 * number : 16 * number + 16], number, EXPECTED_MS):
            wait_a_little()
    while server.counters()["expected"] < links:
        wait_a_little()
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    _answer_lines(counts)


def main() -> None:
    kind, links = sys.argv[1], int(sys.argv[2])
    {"floor": serve_floor, "gateway": serve_gateway, "python": serve_python}[kind](links)


if __name__ == "__main__":
    main()
