"""A device of the load test: its own client over a plain socket, with the frames of gateway.model alone.

It checks what it gets: a notification for another token, or one it was given before on this link, is a failure.
"""

from __future__ import annotations

import os
import random
import socket
import time
from typing import Any

import gevent
from locust import User, constant, events, task

from gateway.model import frames
from gateway.model.errors import GatewayError
from gateway.model.frames import FrameReader, FrameType, build_frame, parse_body
from load.scenarios.inbox import Inbox, Misbehaved
from load.scenarios.storms import STORMS
from load.scenarios.tokens import LIVE

APP = "shop"
TAGS = ("north", "south", "east", "west")
VERSIONS = ("1.0", "1.1", "2.0")
HEARTBEAT_S = 15
LOGIN_S = 30.0


class DeviceUser(User):
    """Logs in, registers with an alias and a tag, heartbeats, acks; drops and comes back when the storm says so."""

    wait_time = constant(1)
    fixed_count = 0
    number = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        DeviceUser.number += 1
        self.index = DeviceUser.number
        self.device, self.secret, self.token = "", b"", ""
        self.inbox = Inbox()
        self.sock: socket.socket | None = None
        self.back_at = 0.0
        self._reader: Any = None
        self._pinged = 0.0
        self._next_beat = 0.0

    # --- life

    def on_start(self) -> None:
        self.come_on_line()

    def on_stop(self) -> None:
        self.go_off_line()

    @task
    def live(self) -> None:
        now = time.monotonic()
        if self.sock is None:
            if now >= self.back_at:
                self.come_on_line()
        elif STORMS.hits(self):
            self.go_off_line()
            self.back_at = now + random.uniform(0, 1)
        elif now >= self._next_beat:
            self._beat(now)

    def come_on_line(self) -> None:
        host, port = device_door(self.environment)
        began = time.perf_counter()
        try:
            sock = socket.create_connection((host, port), timeout=LOGIN_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = FrameReader(1 << 20)
            hello = frames.Hello(v=1, device=self.device, secret=self.secret, heartbeat=HEARTBEAT_S)
            register = frames.Register(
                req=1,
                app=APP,
                version=VERSIONS[self.index % len(VERSIONS)],
                alias=f"user-{self.index}",
                tags=[TAGS[self.index % len(TAGS)]],
            )
            sock.sendall(build_frame(FrameType.HELLO, hello) + build_frame(FrameType.REGISTER, register))
            self._log_in(sock, reader)
        except (OSError, GatewayError, Misbehaved) as error:
            self._fire("login", began, error)
            self.back_at = time.monotonic() + random.uniform(1, 3)
            return
        self._fire("login", began)
        self.sock = sock
        self.inbox.link += 1
        LIVE.add(self.token)
        sock.settimeout(None)
        self._next_beat = time.monotonic() + HEARTBEAT_S * random.uniform(0.5, 1)
        self._reader = gevent.spawn(self._read, sock, reader)

    def _log_in(self, sock: socket.socket, reader: FrameReader) -> None:
        while True:
            data = sock.recv(65_536)
            if not data:
                raise ConnectionResetError("the gateway closed the link during the login")
            reader.append(data)
            while (frame := reader.take()) is not None:
                kind, body = frame
                if kind == FrameType.WELCOME:
                    welcome = parse_body(body, frames.Welcome)
                    self.device, self.secret = welcome.device, welcome.secret or self.secret
                elif kind == FrameType.TOKEN:
                    token = parse_body(body, frames.Token).token
                    if self.token and token != self.token:
                        raise Misbehaved("another token for the same device and app")
                    self.token = token
                    return
                elif kind in (FrameType.ERROR, FrameType.GOAWAY):
                    raise ConnectionRefusedError(f"refused: {parse_body(body, frames.Goaway).name}")

    def go_off_line(self) -> None:
        sock, self.sock = self.sock, None
        LIVE.remove(self.token)
        if self._reader is not None:
            self._reader.kill(block=False)
            self._reader = None
        if sock is not None:
            sock.close()

    # --- on line

    def _beat(self, now: float) -> None:
        assert self.sock is not None
        self._next_beat = now + HEARTBEAT_S
        self._pinged = time.perf_counter()
        try:
            self.sock.sendall(build_frame(FrameType.PING))
        except OSError as error:
            self._fire("heartbeat", self._pinged, error)
            self.go_off_line()

    def _read(self, sock: socket.socket, reader: FrameReader) -> None:
        """Until the link ends; a greenlet of its own."""
        try:
            while True:
                acks: list[int] = []
                while (frame := reader.take()) is not None:
                    self._on_frame(*frame, acks)
                if acks:
                    sock.sendall(build_frame(FrameType.ACK, acks))
                data = sock.recv(65_536)
                if not data:
                    raise ConnectionResetError("the gateway closed the link")
                reader.append(data)
        except (OSError, GatewayError) as error:
            if self.sock is sock:
                self._fire("link", time.perf_counter(), error)
                self._reader = None
                self.go_off_line()
                self.back_at = time.monotonic() + random.uniform(1, 3)

    def _on_frame(self, kind: int, body: bytes, acks: list[int]) -> None:
        began = time.perf_counter()
        if kind == FrameType.NOTIFY:
            note = parse_body(body, frames.Notify)
            acks.append(note.id)
            try:
                self.inbox.check(note, self.token)
            except Misbehaved as error:
                self._fire("notification", began, error)
            else:
                self._fire("notification", began)
        elif kind == FrameType.PONG and self._pinged:
            self._fire("heartbeat", self._pinged)
            self._pinged = 0.0
        elif kind == FrameType.GOAWAY:
            raise ConnectionResetError(f"sent away: {parse_body(body, frames.Goaway).name}")

    def _fire(self, name: str, began: float, error: BaseException | None = None) -> None:
        self.environment.events.request.fire(
            request_type="device",
            name=name,
            response_time=(time.perf_counter() - began) * 1000,
            response_length=0,
            exception=error,
            context={},
        )


@events.init_command_line_parser.add_listener
def _add_options(parser: Any) -> None:
    parser.add_argument("--device-host", default=os.environ.get("HELIOGRAPH_DEVICE_HOST", "127.0.0.1"))
    parser.add_argument("--device-port", type=int, default=int(os.environ.get("HELIOGRAPH_DEVICE_PORT", "7400")))
    parser.add_argument("--scenario", choices=("day", "storm", "burst"), default="day", help="shape of the run")
    parser.add_argument("--full-users", type=int, default=200, help="users at the peak")
    parser.add_argument("--full-seconds", type=int, default=60, help="length of the whole shape")


def device_door(environment: Any) -> tuple[str, int]:
    options = environment.parsed_options
    return options.device_host, options.device_port
