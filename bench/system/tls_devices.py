"""Devices over TLS or without, in a process of their own: `python -m bench.system.tls_devices`, JSON lines each way.

{"do": "connect", "port": …, "count": …, "tls": true, "ca": PEM, "bare": false}: new devices, or those there were come
back; they say HELLO and REGISTER and then nothing, bare ones a few bytes that are answered with any. {"do": "drop"},
{"do": "quit"}.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time
from typing import Any

from bench.system.stage import APP
from gateway.model.frames import FrameReader, FrameType, build_frame, parse_body
from gateway.model.frames import Welcome as WelcomeBody

ANSWER_S = 30.0


class TlsDevices:
    """Blocking sockets, one device after the other: it is the gateway that is measured."""

    def __init__(self) -> None:
        #: what the gateway issued: device id and secret
        self.known: list[dict[str, Any]] = []
        self.sockets: list[socket.socket] = []

    def connect(self, port: int, count: int, context: ssl.SSLContext | None, *, bare: bool = False) -> dict[str, Any]:
        began = time.monotonic()
        for index in range(count):
            hello = self.known[index] if index < len(self.known) else {}
            sock: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)
            if context is not None:
                sock = context.wrap_socket(sock, server_hostname="localhost")
            self.sockets.append(sock)
            if bare:
                sock.sendall(b"any byte")
                if not sock.recv(64):
                    raise ConnectionError("the server closed a connection")
                continue
            register = {"req": 1, "app": APP, "version": "1.0", "account": ""}
            sock.sendall(
                build_frame(FrameType.HELLO, {"v": 1, **hello, "heartbeat": 240})
                + build_frame(FrameType.REGISTER, register)
            )
            welcome = read_answers(sock)
            if not hello:
                self.known.append({"device": welcome.device, "secret": welcome.secret})
        return {"connected": count, "per_s": count / (time.monotonic() - began)}

    def drop(self) -> dict[str, Any]:
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()
        return {}


def read_answers(sock: socket.socket) -> WelcomeBody:
    """WELCOME, once TOKEN is there too."""
    reader = FrameReader()
    frames: dict[int, bytes] = {}
    while FrameType.TOKEN not in frames:
        data = sock.recv(4096)
        if not data:
            raise ConnectionError(f"the gateway closed; before that it sent {sorted(frames)}")
        frames.update(reader.feed(data))
    return parse_body(frames[FrameType.WELCOME], WelcomeBody)


def main() -> None:
    devices = TlsDevices()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if order["do"] == "connect":
                context = None
                if order["tls"]:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                    context.load_verify_locations(cadata=order["ca"])
                answer = devices.connect(order["port"], order["count"], context, bare=order.get("bare", False))
            elif order["do"] == "drop":
                answer = devices.drop()
            else:
                return
        except (OSError, KeyError) as exc:
            answer = {"error": str(exc)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
