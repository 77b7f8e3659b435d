"""A reactor under nonsense from both sides: whatever devices send and the control thread commands, it stays whole.

Seeded: a failure names its seed, and GATEWAY_FUZZ_SEED=… runs it again. GATEWAY_FUZZ_ROUNDS makes it longer.
"""

from __future__ import annotations

import os
import random
import select
import socket
from collections.abc import Callable
from typing import Any

import pytest
from reactor_rig import Rig

from gateway._native import reactor as native
from gateway.model.frames import FrameType, build_frame

SEED = int(os.environ.get("GATEWAY_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
ROUNDS = int(os.environ.get("GATEWAY_FUZZ_ROUNDS", "400"))
SETTINGS: list[dict[str, Any]] = [
    {},
    {"outbox_bytes": 2_048, "linger_ms": 20, "slow_ms": 40, "login_ms": 60},
    {"max_links": 12, "login_frame_bytes": 256, "max_frame_bytes": 1_024, "linger_ms": 10, "login_ms": 30},
]
PEERS = 24


class Nonsense:
    """One run: peers that send anything, a control side that commands anything, and the books it keeps."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.random = random.Random(seed)
        self.peers: list[socket.socket] = []
        self.live: dict[int, int] = {}  # link → device
        self.seen: list[int] = [0, 1 << 56, (1 << 64) - 1]  # links that are or were
        self.downs: dict[int, int] = {}
        self.given: dict[tuple[int, int, int], int] = {}  # (link, seq, registration) → notify commands
        self.ended: dict[tuple[int, int, int], int] = {}  # … → fates told
        self.seq = 0
        self.device = 100

    # --- devices

    def bytes_of_a_device(self) -> bytes:
        pick = self.random
        out = bytearray()
        for _ in range(pick.randrange(1, 6)):
            kind = pick.random()
            if kind < 0.25:
                ids = [pick.choice((pick.randrange(1, self.seq + 3), pick.randrange(1 << 64), 1)) for _ in range(9)]
                kind_of_ack = pick.choice((FrameType.ACK, FrameType.WHOLE, FrameType.SHOWN))
                out += build_frame(kind_of_ack, ids[: pick.randrange(10)])
            elif kind < 0.4:
                out += build_frame(FrameType.PING)
            elif kind < 0.6:
                out += build_frame(pick.randrange(256), {"pad": "x" * pick.choice((0, 3, 200, 900, 5_000, 40_000))})
            elif kind < 0.7:
                out += build_frame(FrameType.HELLO, {"v": 1})
            elif kind < 0.75:
                out += build_frame(FrameType.ACK, [1] * 1_024) * pick.randrange(1, 20)
            elif kind < 0.78:
                out += pick.randbytes(pick.randrange(1, 300))
            else:
                out += bytes((pick.randrange(256), pick.randrange(128)))
        if pick.random() < 0.1 and out:
            out[pick.randrange(len(out))] ^= 1 << pick.randrange(8)
        if pick.random() < 0.3:
            del out[pick.randrange(len(out) + 1) :]
        return bytes(out)

    def device_step(self) -> None:
        pick = self.random
        if len(self.peers) < PEERS and pick.random() < 0.4:
            peer = socket.socket()
            if pick.random() < 0.3:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_024)
            peer.connect(("127.0.0.1", self.rig.port))
            peer.setblocking(False)
            self.peers.append(peer)
            if pick.random() < 0.9:
                self.send(peer, build_frame(FrameType.HELLO, {"v": 1}) + self.bytes_of_a_device() * pick.randrange(2))
        if not self.peers:
            return
        peer = pick.choice(self.peers)
        act = pick.random()
        if act < 0.6:
            self.send(peer, self.bytes_of_a_device())
        elif act < 0.85:
            try:
                if not peer.recv(1 << 16):
                    self.drop(peer)
            except BlockingIOError:
                pass
            except OSError:
                self.drop(peer)
        elif act < 0.9:
            if pick.random() < 0.5:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.drop(peer)
        elif act < 0.92:
            try:
                peer.shutdown(socket.SHUT_WR)
            except OSError:
                self.drop(peer)

    def send(self, peer: socket.socket, data: bytes) -> None:
        try:
            peer.send(data)
        except BlockingIOError:
            pass
        except OSError:
            self.drop(peer)

    def drop(self, peer: socket.socket) -> None:
        peer.close()
        if peer in self.peers:
            self.peers.remove(peer)

    # --- the control thread

    def command(self) -> None:
        pick, reactor = self.random, self.rig.reactor
        link = pick.choice([*self.live, *self.live, pick.choice(self.seen)])
        registration, group = pick.randrange(6), pick.choice((0, 1, 2, 40, 3_000))
        frame = build_frame(FrameType.NOTIFY, {"id": self.seq, "text": "x" * pick.choice((0, 10, 500, 9_000))})
        act = pick.randrange(16)
        if act < 5:
            again = pick.random() < 0.2
            seq = pick.randrange(1, self.seq + 1) if again and self.seq else self.next_seq()
            key = (link, seq, registration)
            if reactor.notify(link, frame, seq, registration, pick.choice((1, 10, 200, 3_000)), again) and not again:
                self.given[key] = self.given.get(key, 0) + 1
        elif act == 5:
            reactor.bind(link, group, registration)
        elif act == 6:
            reactor.unbind(link, registration)
        elif act == 7:
            reactor.fanout(
                [0, 1, 2, 2_999, 77_777][: pick.randrange(1, 6)], frame, self.next_seq(), 50, pick.randrange(4)
            )
        elif act == 8:
            seq = pick.randrange(1, self.seq + 2)
            reactor.fanout([0, 1], frame, seq, 0)
            self.forget(lambda key: key[1] == seq)
        elif act == 9:
            seq = pick.randrange(1, self.seq + 2)
            reactor.cancel(link, seq, registration, pick.choice((None, frame)))
            self.forget(lambda key: key == (link, seq, registration))
        elif act == 10 and pick.random() < 0.2:
            reactor.close(link, pick.choice((None, frame)))
        elif act == 11:
            reactor.hold(link)
        elif act == 12:
            reactor.echo(link)
        elif act == 13:
            reactor.set_silence(link, pick.choice((30, 60_000)))
        elif act == 14:
            reactor.set_floor(link, pick.randrange(4))
        else:
            reactor.send(link, frame)

    def forget(self, cancelled: Callable[[tuple[int, int, int]], bool]) -> None:
        """What is taken back may go without a word."""
        for key in [key for key in self.given if cancelled(key)]:
            del self.given[key]

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def hear(self, limit: int) -> bool:
        acks, others, more = self.rig.reactor.drain(limit)
        for seq, registration, _sent, _acked, _shown, link in acks:
            self.end(link, seq, registration)
        for kind, link, a, b, _c in others:
            if kind == native.EVENT_FRAME and a == FrameType.HELLO:
                self.seen.append(link)
                if self.random.random() < 0.9:
                    self.device += 1
                    window = self.random.choice((1, 4, 32))
                    if self.rig.reactor.welcome(link, self.device, 60_000, window, build_frame(FrameType.WELCOME, {})):
                        self.live[link] = self.device
            elif kind == native.EVENT_DOWN:
                self.downs[link] = self.downs.get(link, 0) + 1
                self.live.pop(link, None)
            elif kind in (native.EVENT_TIMEOUT, native.EVENT_LOST):
                self.end(link, a, b)
        return bool(acks or others or more)

    def end(self, link: int, seq: int, registration: int) -> None:
        key = (link, seq, registration)
        self.ended[key] = self.ended.get(key, 0) + 1


@pytest.mark.parametrize("settings", SETTINGS, ids=["ordinary", "tight", "small"])
def test_whatever_comes_every_link_ends_once_and_every_notification_has_one_fate(settings: dict[str, Any]) -> None:
    print(f"GATEWAY_FUZZ_SEED={SEED}")
    with Rig(**settings) as rig:
        run = Nonsense(rig, SEED)
        for _ in range(ROUNDS):
            for _ in range(run.random.randrange(1, 8)):
                run.device_step()
            for _ in range(run.random.randrange(6)):
                run.command()
            if run.random.random() < 0.7:
                run.hear(run.random.choice((1, 50, 4_096)))
        for peer in list(run.peers):
            run.drop(peer)
        assert rig.reactor.drain_links([build_frame(FrameType.GOAWAY, {})], 0)
        while rig.reactor.counters()["links"] or run.hear(4_096) or select.select([rig.up], [], [], 0.05)[0]:
            run.hear(4_096)
        counters = rig.reactor.counters()
        assert counters["inflight"] == 0
        assert set(run.downs.values()) <= {1}, "a link ended twice"
        assert set(run.seen[3:]) == set(run.downs), "a link that said HELLO never ended, or ended unseen"
        missing = [key for key in run.given if key not in run.ended]
        assert not missing, f"no fate was told of {missing[:3]}"
