"""P1: user-space bytes of the gateway for an idle, logged-in device with one registration, index included.

    .venv/bin/python bench/idle_memory.py --devices 50000

Reads the private memory of an empty gateway; has all devices register once; restarts the gateway on that store, so that
it holds what a running one does; has all devices come back over real TCP (HELLO and REGISTER, then silence), and reads
its memory again. Kernel memory of the sockets is not in it (/proc/net/sockstat has it). Prints one JSON object; exit
code 1 where the target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

import msgspec

from gateway.model.frames import FrameReader, FrameType, Hello, Register, Welcome, build_frame, parse_body
from gateway.tour.stage import APP, Stage

#: one process, one source address: past that the kernel's search for a free port becomes slow
DEVICES_A_PROCESS = 14_000
AT_ONCE = 500
IP_BIND_ADDRESS_NO_PORT = 24  # the port is chosen at connect
#: for commits and answers under way
SETTLE_S = 3.0
TARGET_BYTES = 256


def private_bytes(pid: int) -> int:
    """Anonymous memory of the process, bytes: heap, slabs and stacks, not files mapped (the store's pages)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = dict(line.split(":", 1) for line in rollup.splitlines()[1:])
    return int(fields["Anonymous"].split()[0]) * 1024


class Fleet:
    """The devices of one process; they keep what WELCOME gave them for the next time."""

    def __init__(self, port: int, first: int, count: int) -> None:
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
        register = Register(req=1, app=APP, version=f"1.{number % 20}", account=f"account-{self._first + number}")
        sock.sendall(build_frame(FrameType.HELLO, hello) + build_frame(FrameType.REGISTER, register))
        self._sockets.append(sock)
        return sock

    def drop(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()


def hold(port: int, first: int, count: int) -> None:
    """One process of the fleet: does what stdin says, a word a line, and says when it is done."""
    fleet = Fleet(port, first, count)
    for line in sys.stdin:
        {"connect": fleet.connect, "drop": fleet.drop}[line.strip()]()
        print("done", flush=True)


class Holders:
    """The processes of the fleet."""

    def __init__(self) -> None:
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self, port: int, count: int) -> None:
        for first in range(0, count, DEVICES_A_PROCESS):
            arguments = ["--hold", str(port), str(first), str(min(DEVICES_A_PROCESS, count - first))]
            process = await asyncio.create_subprocess_exec(
                sys.executable, __file__, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
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


async def measure(count: int) -> dict[str, Any]:
    holders = Holders()
    # Each reactor has a descriptor table of its own; the kernel spreads connections over them not quite evenly.
    limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reactors = math.ceil(count * 1.1 / limit)
    async with Stage(f"edge.reactors={reactors}") as stage:
        empty = private_bytes(stage.pid)
        try:
            await holders.start(stage.device_port, count)
            first_s = await _timed(holders.tell("connect"))
            await holders.tell("drop")
            await stage.stop_gateway(signal.SIGTERM)
            await stage.start_gateway()
            again_s = await _timed(holders.tell("connect"))
            await asyncio.sleep(SETTLE_S)
            full = private_bytes(stage.pid)
        finally:
            await holders.close()
        await stage.stop_gateway(signal.SIGTERM)
    each = (full - empty) / count
    return {
        "P1": {
            "value": round(each, 1),
            "unit": "bytes a device",
            "devices": count,
            "process_bytes": {"empty": empty, "full": full},
            "reactors": reactors,
            "target": TARGET_BYTES,
            "ok": each <= TARGET_BYTES,
            "first_logins_per_s": round(count / first_s),
            "logins_per_s": round(count / again_s),
        }
    }


async def _timed(work: Awaitable[None]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=50_000)
    parser.add_argument("--hold", type=int, nargs=3, metavar=("PORT", "FIRST", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold:
        hold(*arguments.hold)
        return
    result = asyncio.run(measure(arguments.devices))
    print(json.dumps(result))
    sys.exit(0 if result["P1"]["ok"] else 1)


if __name__ == "__main__":
    main()
