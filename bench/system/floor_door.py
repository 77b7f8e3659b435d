"""The floor of the device door in a process of its own: `async with FloorDoor() as floor`.

What reads the provider's frames is Python and runs once a broadcast; everything that runs for each device is
bench/floor/door.pyx. Run as a program it serves until its stdin ends, and answers each line with its counts as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import struct
import sys
import threading
from queue import Queue
from typing import Any

import msgspec

from bench.system.asked_process import AskedProcess

_HEAD = struct.Struct("=ii")
BACKLOG = 4_096


class FloorDoor(AskedProcess):
    """The floor's process; `port` is where devices and a provider connect, `heartbeat_s` what it tells the devices,
    `doors` how many threads serve them, each with a descriptor table of its own. Its counts are links, accepted,
    answered, heartbeats, sent, refused, ended."""

    module = "bench.system.floor_door"

    def __init__(self, heartbeat_s: int = 60, doors: int = 1) -> None:
        super().__init__("the floor", [str(heartbeat_s), str(doors)])


def build_first_answer(heartbeat_s: int) -> bytes:
    """WELCOME and TOKEN as the gateway sends them, the same for everybody: what a login costs without the login."""
    from gateway.model.frames import FrameType, Token, Welcome, build_frame

    welcome = Welcome(
        v=1,
        device="floor~AAAAAAAAAAAA",
        secret=bytes(25),
        heartbeat=heartbeat_s,
        heartbeat_min=1,
        heartbeat_max=240,
        window=32,
        max_frame=65_536,
        now_ms=1_800_000_000_000,
    )
    token = Token(req=1, token="A" * 22, created=True)
    return build_frame(FrameType.WELCOME, welcome) + build_frame(FrameType.TOKEN, token)


class Provider:
    """A provider's link: each PUSH becomes one NOTIFY to every link, sent by the floor's own threads."""

    def __init__(self, doors: list[Any], link: socket.socket) -> None:
        from gateway.model.frames import FrameReader

        self._doors = doors
        self._link = link
        self._reader = FrameReader(1 << 20)
        self._id = 0

    def serve(self, begun: bytes) -> None:
        from gateway.model.frames import FrameType, build_frame

        welcome = {"v": 1, "app": "bench", "heartbeat": 60, "heartbeat_min": 1, "heartbeat_max": 240}
        welcome |= {"window": 65_536, "max_batch": 4_096, "max_frame": 262_144, "now_ms": 0, "cursor": 0}
        self._link.setblocking(True)
        self._link.sendall(build_frame(FrameType.WELCOME, welcome))
        data = begun
        with self._link:
            while data:
                for kind, body in self._reader.feed(data):
                    if kind == FrameType.PUSH:
                        self._push(msgspec.msgpack.decode(body))
                data = self._link.recv(1 << 20)

    def _push(self, batch: dict[str, Any]) -> None:
        from gateway.model.frames import FrameType, build_frame

        frames = b""
        for push in batch["pushes"]:
            self._id += 1
            note = {"id": self._id, "app": "bench", "at": 1_800_000_000, "expires": 1_800_086_400}
            note |= {name: push[name] for name in ("title", "text", "data") if name in push}
            frames += build_frame(FrameType.NOTIFY, note)
        for door in self._doors:
            door.broadcast(frames)
        result = {"req": batch["req"], "results": [{"id": "", "targeted": 0} for _ in batch["pushes"]]}
        self._link.sendall(build_frame(FrameType.PUSHED, result))


def _serve_providers(doors: list[Any], handed: int) -> None:
    while True:
        head = os.read(handed, _HEAD.size)
        if len(head) < _HEAD.size:
            return
        descriptor, size = _HEAD.unpack(head)
        begun = os.read(handed, size)
        provider = Provider(doors, socket.socket(fileno=descriptor))
        threading.Thread(target=_quietly, args=(provider, begun), daemon=True).start()


def _quietly(provider: Provider, begun: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        provider.serve(begun)


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _serve(doors: list[Any], wake: int, first: bytes, port: int, opened: Queue[int]) -> None:
    """One thread's life. Its providers are served by threads that share its descriptor table."""
    from gateway._load.door import Door, own_descriptors

    own_descriptors()
    listener = _listen(port)
    handed, handing = os.pipe()
    limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    door = Door(listener.fileno(), wake, handing, first, limit)
    doors.append(door)
    threading.Thread(target=_serve_providers, args=(doors, handed), daemon=True).start()
    opened.put(listener.getsockname()[1])
    door.run()


def main() -> None:
    heartbeat_s, count = map(int, sys.argv[1:])
    first = build_first_answer(heartbeat_s)
    doors: list[Any] = []
    opened: Queue[int] = Queue()
    port = 0
    # made before the threads have tables of their own: any of them may wake any other
    for wake in [os.eventfd(0) for _ in range(count)]:
        threading.Thread(target=_serve, args=(doors, wake, first, port, opened), daemon=True).start()
        port = opened.get()
    print(json.dumps({"port": port}), flush=True)
    for _ in sys.stdin:
        counts = [door.counts() for door in doors]
        print(json.dumps({name: sum(one[name] for one in counts) for name in counts[0]}), flush=True)


if __name__ == "__main__":
    main()
