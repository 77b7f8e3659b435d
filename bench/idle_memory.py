"""P1: user-space bytes of the gateway for an idle, logged-in device with one registration, index included.

    .venv/bin/python bench/idle_memory.py --devices 50000

Starts a gateway on loopback, connects the devices over real TCP (HELLO and REGISTER, then silence) and reads the
gateway's private memory before and after. The first 14,000 devices are not counted: with them comes what is allocated
once (`process_bytes` shows how much). Kernel memory of the sockets is not in it (see /proc/net/sockstat). Prints one JSON
object; exit code 1 where the target is missed.
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
from pathlib import Path
from typing import Any, cast

import msgspec

from gateway.model.frames import FrameReader, FrameType, Hello, Register, build_frame
from gateway.tour.stage import APP, Stage

#: one process, one source address: past that the kernel's search for a free port becomes slow
DEVICES_A_PROCESS = 14_000
AT_ONCE = 500
IP_BIND_ADDRESS_NO_PORT = 24  # the port is chosen at connect
#: for commits and answers under way
SETTLE_S = 3.0
TARGET_BYTES = 256
#: not counted; brought up as fast as the others, so that what a storm needs for a moment is there already
WARM_DEVICES = 14_000


def private_bytes(pid: int) -> int:
    """Anonymous memory of the process, bytes: heap, slabs and stacks, not files mapped (the store's pages)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = dict(line.split(":", 1) for line in rollup.splitlines()[1:])
    return int(fields["Anonymous"].split()[0]) * 1024


def hold(port: int, first: int, count: int) -> None:
    """One process of the fleet: `count` devices logged in and registered; then silence until stdin closes."""
    selector = selectors.DefaultSelector()
    sockets: list[socket.socket] = []
    waiting = number = tokens = 0
    while tokens < count:
        while number < count and waiting < AT_ONCE:
            sock = socket.socket()
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.0.{1 + first // DEVICES_A_PROCESS}.1", 0))
            sock.connect(("127.0.0.1", port))
            sock.setblocking(False)
            hello = build_frame(FrameType.HELLO, Hello(v=1, heartbeat=240))
            account = f"account-{first + number}"
            register = Register(req=1, app=APP, version=f"1.{number % 20}", account=account)
            sock.sendall(hello + build_frame(FrameType.REGISTER, register))
            selector.register(sock, selectors.EVENT_READ, FrameReader())
            sockets.append(sock)
            number += 1
            waiting += 1
        for key, _ in selector.select(10):
            sock = cast(socket.socket, key.fileobj)
            for kind, body in key.data.feed(sock.recv(65_536)):
                if kind == FrameType.TOKEN:
                    tokens += 1
                    waiting -= 1
                    selector.unregister(sock)
                elif kind in (FrameType.ERROR, FrameType.GOAWAY):
                    sys.exit(f"the gateway refused a device: {msgspec.msgpack.decode(body)}")
    print("up", flush=True)
    sys.stdin.read()


class Holders:
    """The processes of the fleet."""

    def __init__(self) -> None:
        self._processes: list[asyncio.subprocess.Process] = []
        self._devices = 0

    async def add(self, port: int, count: int, processes: int) -> None:
        """Bring up `count` more devices, by so many processes at once; returns when all have their tokens."""
        started = []
        share = math.ceil(count / processes)
        while count:
            part = min(count, share)
            arguments = ["--hold", str(port), str(self._devices), str(part)]
            process = await asyncio.create_subprocess_exec(
                sys.executable, __file__, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            started.append(process)
            self._processes.append(process)
            self._devices += DEVICES_A_PROCESS
            count -= part
        for process in started:
            assert process.stdout is not None
            if await process.stdout.readline() != b"up\n":
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
    reactors = math.ceil((count + WARM_DEVICES) * 1.1 / limit)
    processes = math.ceil(count / DEVICES_A_PROCESS)
    async with Stage(f"edge.reactors={reactors}") as stage:
        try:
            empty = private_bytes(stage.pid)
            await holders.add(stage.device_port, WARM_DEVICES, processes)
            await asyncio.sleep(SETTLE_S)
            before = private_bytes(stage.pid)
            began = time.perf_counter()
            await holders.add(stage.device_port, count, processes)
            took = time.perf_counter() - began
            await asyncio.sleep(SETTLE_S)
            after = private_bytes(stage.pid)
            each = (after - before) / count
        finally:
            await holders.close()
        await stage.stop_gateway(signal.SIGTERM)
    return {
        "P1": {
            "value": round(each, 1),
            "unit": "bytes a device",
            "devices": count,
            "process_bytes": {"empty": empty, "warm": before, "full": after, "warm_devices": WARM_DEVICES},
            "reactors": reactors,
            "target": TARGET_BYTES,
            "ok": each <= TARGET_BYTES,
            "logins_per_s": round(count / took),
        }
    }


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
