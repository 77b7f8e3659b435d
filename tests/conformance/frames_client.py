"""A push device written from docs/frames.md alone: sockets, `msgpack`, and nothing of the gateway.

It takes orders on stdin, one JSON object a line, and says on stdout, one JSON object a line, what came over its links.
`frames_client.mjs` is the same device for Node.js; `test_frames_client.py` gives the orders. Binary is written in hex,
an id of a notification as a decimal string, as it may have 64 bits.

Orders (`do`), all with `link`, a name the tester chose:
  open (port, hello), close, raw (hex), ping, register, unregister, fetch, state, ack (ids), shown (ids),
  confirm (how: ack, shown or none): how notifications are confirmed from now on.
What it says: {link, frame, body}, with `verdict` for a NOTIFY; {link, closed, back}: the link has ended, and the
  bounds of the wait before the next try in milliseconds, or null for "do not come back by yourself".
"""

import json
import os
import select
import socket
import sys
import time

import msgpack

TYPES = {
    "PING": 0x01,
    "PONG": 0x02,
    "HELLO": 0x03,
    "WELCOME": 0x04,
    "REGISTER": 0x05,
    "TOKEN": 0x06,
    "UNREGISTER": 0x07,
    "NOTIFY": 0x08,
    "ACK": 0x09,
    "SHOWN": 0x0A,
    "WHOLE": 0x12,
    "FETCH": 0x0B,
    "FETCHED": 0x0C,
    "RECALL": 0x0D,
    "STATE": 0x0E,
    "DONE": 0x0F,
    "ERROR": 0x10,
    "GOAWAY": 0x11,
}
NAMES = {number: name for name, number in TYPES.items()}
FROM_DEVICE = {"PING", "HELLO", "REGISTER", "UNREGISTER", "ACK", "WHOLE", "SHOWN", "FETCH", "STATE"}
LARGEST = 65_536
REMEMBERED = 1_000
BACK_OFF_MS = (700, 1300)


class Broken(Exception):
    """What came can not be a frame of this protocol."""


def frame_of(name: str, body: object = None) -> bytes:
    packed = b"" if body is None else msgpack.packb(body)
    size, length = len(packed), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([TYPES[name]]) + bytes(length) + packed


def first_frame(buffer: bytearray, largest: int) -> tuple[int, bytes] | None:
    """Take the first whole frame out of the buffer; None where it is not whole."""
    size = 0
    for at in range(1, 5):
        if at >= len(buffer):
            return None
        size |= (buffer[at] & 0x7F) << (7 * (at - 1))
        if buffer[at] < 0x80:
            break
    else:
        raise Broken("length of more than four bytes")
    if size > largest:
        raise Broken("frame too large")
    end = at + 1 + size
    if len(buffer) < end:
        return None
    frame = buffer[0], bytes(buffer[at + 1 : end])
    del buffer[:end]
    return frame


def say(**event: object) -> None:
    sys.stdout.write(json.dumps(event, default=bytes.hex) + "\n")
    sys.stdout.flush()


#: of each device of this process: what was seen, and how it was confirmed
memories: dict[str, dict[tuple, str]] = {}


class Link:
    """One connection, from connect to its end."""

    def __init__(self, name: str, port: int, hello: dict) -> None:
        self.name = name
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.buffer = bytearray()
        self.largest = LARGEST
        self.welcomed = False
        self.bound: dict[str, tuple[str, str]] = {}
        self.seen: dict[tuple, str] = {}
        self.asked: dict[int, tuple[str, dict]] = {}
        self.last_req = 0
        self.confirm = "ack"
        self.back: tuple[float, float] | None = BACK_OFF_MS
        self.interval = 0.0
        self.sent_at = self.heard_at = time.monotonic()
        self.pinged_at = 0.0
        self.says_whole = False
        if "secret" in hello:
            hello["secret"] = bytes.fromhex(hello["secret"])
        self.send("HELLO", {"v": 1, **hello})

    # --- to the gateway

    def send(self, name: str, body: object = None) -> None:
        self.write(frame_of(name, body))

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)
        self.sent_at = time.monotonic()

    def request(self, name: str, body: dict) -> None:
        self.last_req += 1
        if name == "REGISTER" and not body.get("keep"):
            account = body.get("account", "")
            self.bound = {t: b for t, b in self.bound.items() if b[0] != body["app"] or b[1] == account}
        if name == "UNREGISTER":
            self.bound.pop(body["token"], None)
        if "ids" in body:
            body["ids"] = [int(one) for one in body["ids"]]
        self.asked[self.last_req] = (name, body)
        self.send(name, {"req": self.last_req, **body})

    def ping(self) -> None:
        self.send("PING")
        self.pinged_at = self.pinged_at or self.sent_at

    # --- from the gateway

    def read(self) -> None:
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionResetError
        self.heard_at, self.pinged_at = time.monotonic(), 0.0
        self.buffer += data
        while frame := first_frame(self.buffer, self.largest):
            self.take(*frame)

    def take(self, number: int, packed: bytes) -> None:
        name = NAMES.get(number)
        if name is None:
            return
        if name in FROM_DEVICE:
            raise Broken(f"{name} is no frame of the gateway's")
        body = msgpack.unpackb(packed, strict_map_key=False) if packed else None
        event: dict[str, object] = {"link": self.name, "frame": name, "body": body}
        if name == "WELCOME":
            self.welcomed = True
            self.largest = max(LARGEST, body["max_frame"])
            self.says_whole = body.get("whole", False)
            self.interval = body["heartbeat"]
            self.seen = memories.setdefault(body["device"], {})
        elif name in ("TOKEN", "DONE", "FETCHED"):
            self.answered(name, body)
        elif name == "NOTIFY":
            event["verdict"] = self.notified(body)
            body["id"] = str(body["id"])
        elif name == "RECALL":
            event["body"] = [str(one) for one in body]
        elif name in ("ERROR", "GOAWAY"):
            self.asked.pop(body.get("req", 0), None)
            self.back = self.wait_after(name, body)
        say(**event)

    def answered(self, name: str, body: dict) -> None:
        asked, request = self.asked.pop(body["req"])
        if name == "TOKEN":
            assert asked == "REGISTER"
            self.bound[body["token"]] = (request["app"], request.get("account", ""))
        elif name == "DONE":
            assert asked in ("UNREGISTER", "STATE")
            self.interval = body.get("heartbeat", 0) or self.interval

    def notified(self, body: dict) -> str:
        token, app = body.get("token", ""), body.get("app", "")
        known = token in self.bound if token else any(bound[0] == app for bound in self.bound.values())
        if not known:
            return "dropped"
        source, more = token or f"app {app}", body.get("more", False)
        light, whole = (source, body["id"], True), (source, body["id"], False)
        if whole in self.seen or (more and light in self.seen):
            if more:
                self.seen.setdefault(light, self.confirm)
            is_body = whole in self.seen and light in self.seen and bool(token)
            self.confirmed(self.seen[whole if whole in self.seen else light], [body["id"]], is_body=is_body)
            return "again"
        self.seen[light if more else whole] = self.confirm
        if len(self.seen) > REMEMBERED:
            del self.seen[next(iter(self.seen))]
        self.confirmed(self.confirm, [body["id"]], is_body=not more and light in self.seen and bool(token))
        return "tip" if more else "message"

    def confirmed(self, how: str, ids: list[int], *, is_body: bool = False) -> None:
        if how == "none":
            return
        is_body = is_body and self.says_whole
        if how == "shown" or not is_body:
            self.send(how.upper(), ids)
        if is_body:
            self.send("WHOLE", ids)

    def wait_after(self, name: str, body: dict) -> tuple[float, float] | None:
        if not body.get("retry"):
            return None
        after, jitter = body.get("after_ms", 0), body.get("jitter_ms", 0)
        if not after and not jitter:
            return BACK_OFF_MS
        return after, after + (jitter if name == "GOAWAY" else after * 0.3)

    # --- time

    def due(self) -> float:
        """When something is to be done though nothing comes."""
        if not self.welcomed or not self.interval:
            return float("inf")
        if self.pinged_at:
            return min(self.sent_at + self.interval, self.pinged_at + max(10.0, self.interval / 6))
        return self.sent_at + self.interval

    def tick(self, now: float) -> None:
        if self.pinged_at and now >= self.pinged_at + max(10.0, self.interval / 6):
            raise Broken("no PONG")
        self.ping()


class Device:
    """The loop around links and orders."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self.orders = bytearray()

    def obey(self, order: dict) -> None:
        do, name = order.pop("do"), order.pop("link")
        if do == "open":
            try:
                self.links[name] = Link(name, order["port"], order.get("hello", {}))
            except OSError:
                say(link=name, closed=True, back=BACK_OFF_MS)
            return
        link = self.links.get(name)
        if link is None:
            return  # its end is on its way to the tester
        if do == "close":
            self.end(link)
        elif do == "raw":
            link.write(bytes.fromhex(order["hex"]))
        elif do == "ping":
            link.ping()
        elif do == "confirm":
            link.confirm = order["how"]
        elif do in ("ack", "shown"):
            link.confirmed(do, [int(one) for one in order["ids"]])
        else:
            link.request(do.upper(), order)

    def end(self, link: Link) -> None:
        del self.links[link.name]
        link.socket.close()
        say(link=link.name, closed=True, back=link.back)

    def on_link(self, link: Link, what, *arguments: object) -> None:
        try:
            what(*arguments)
        except (OSError, Broken, ValueError) as error:
            if not isinstance(error, OSError):
                say(link=link.name, broken=str(error))
            self.end(link)

    def run(self) -> None:
        while True:
            due = min((link.due() for link in self.links.values()), default=float("inf"))
            timeout = None if due == float("inf") else max(0.0, due - time.monotonic())
            ready, _, _ = select.select([0, *(link.socket for link in self.links.values())], [], [], timeout)
            for link in [*self.links.values()]:
                if link.socket in ready:
                    self.on_link(link, link.read)
                elif time.monotonic() >= link.due():
                    self.on_link(link, link.tick, time.monotonic())
            if 0 in ready:
                data = os.read(0, 65_536)
                if not data:
                    return
                self.orders += data
                *lines, rest = self.orders.split(b"\n")
                self.orders = bytearray(rest)
                for line in lines:
                    self.obey(json.loads(line))


if __name__ == "__main__":
    Device().run()
