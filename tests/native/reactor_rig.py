"""A reactor on a loopback port with its thread, driven by hand from the test; no control plane around it."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
from collections import deque
from typing import Any

from gateway._native import reactor as native
from gateway.model.frames import FrameReader, FrameType, Goaway, build_frame

WORDS = {
    name: build_frame(FrameType.GOAWAY, Goaway(code=1, name=name))
    for name in native.REASONS
    if name not in ("peer", "socket", "full", "control")
}


class Peer:
    """A device's end of a connection, frames in and out, blocking with a time limit."""

    def __init__(
        self, port: int, *, receive_buffer: int = 0, tls: ssl.SSLContext | None = None, host: str = "localhost"
    ) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(10)
        self.sock.connect(("127.0.0.1", port))
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname=host)
        self.reader = FrameReader()
        self.frames: deque[tuple[int, bytes]] = deque()

    def send(self, kind: int, body: Any = None) -> None:
        self.sock.sendall(build_frame(kind, body))

    def receive(self) -> tuple[int, bytes] | None:
        """Next frame, or None at the end of the stream."""
        while not self.frames:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.frames.extend(self.reader.feed(data))
        return self.frames.popleft()

    def close(self) -> None:
        self.sock.close()


class Rig:
    def __init__(self, *, index: int = 0, **settings: Any) -> None:
        defaults: dict[str, Any] = {
            "mailbox_bytes": 1 << 22,
            "max_links": 1000,
            "login_ms": 10_000,
            "login_frame_bytes": 4096,
            "max_frame_bytes": 65536,
            "outbox_bytes": 262_144,
            "slow_ms": 15_000,
        }
        self.up = os.eventfd(0, os.EFD_NONBLOCK)
        self.down = os.eventfd(0, os.EFD_NONBLOCK)
        self.reactor = native.Reactor(index, self.up, self.down, WORDS, **(defaults | settings))
        self.port = 0
        self.tls_port = 0
        self.failed: BaseException | None = None
        self.acks: list[tuple[int, int, int, int, bool, int]] = []
        self.events: list[tuple[int, int, Any, Any, Any]] = []
        self.peers: list[Peer] = []
        started = threading.Event()

        def bind() -> socket.socket:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", 0))
            listener.listen(128)
            listener.setblocking(False)
            return listener

        def listen() -> int:
            listener = bind()
            self.port = listener.getsockname()[1]
            return listener.detach()

        def listen_tls() -> int:
            listener = bind()
            self.tls_port = listener.getsockname()[1]
            return listener.detach()

        def serve() -> None:
            try:
                self.reactor.open(listen, listen_tls if settings.get("tls") else None)
            except BaseException as exc:
                self.failed = exc
                started.set()
                raise
            started.set()
            self.reactor.run()

        self.thread = threading.Thread(target=serve)
        self.thread.start()
        started.wait(10)
        if self.failed:
            raise self.failed

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.peers:
            peer.close()
        self.reactor.stop()
        while self.thread.is_alive():
            self.reactor.drain()  # a reactor that waits for room must get it to stop
            self.thread.join(0.05)
        os.close(self.up)
        os.close(self.down)

    def connect(self, **options: Any) -> Peer:
        peer = Peer(self.tls_port if options.get("tls") else self.port, **options)
        self.peers.append(peer)
        return peer

    def pump(self, timeout: float = 10) -> bool:
        """Wait for events and take them in; False when none came."""
        acks, others, more = self.reactor.drain()
        while not acks and not others and not more:
            ready, _, _ = select.select([self.up], [], [], timeout)
            if not ready:
                return False
            acks, others, more = self.reactor.drain()
        self.acks += acks
        self.events += others
        return True

    def event(self, kind: int, timeout: float = 10) -> tuple[int, int, Any, Any, Any]:
        """Wait for the next event of this kind and take it out; others stay."""
        while True:
            for i, event in enumerate(self.events):
                if event[0] == kind:
                    return self.events.pop(i)
            if not self.pump(timeout):
                raise TimeoutError(f"no event {kind}; have {self.events}")

    def ack(self, timeout: float = 10) -> tuple[int, int, int, int, bool, int]:
        while not self.acks:
            if not self.pump(timeout):
                raise TimeoutError("no ack")
        return self.acks.pop(0)

    def login(self, device: int = 7, *, silence_ms: int = 60_000, window: int = 32, **options: Any) -> tuple[Peer, int]:
        """A live link: (its device end, link id)."""
        peer = self.connect(**options)
        peer.send(FrameType.HELLO, {"v": 1})
        link = self.event(native.EVENT_FRAME)[1]
        assert self.reactor.welcome(link, device, silence_ms, window, build_frame(FrameType.WELCOME, {"v": 1}))
        assert peer.receive()[0] == FrameType.WELCOME
        return peer, link
