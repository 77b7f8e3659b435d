"""The compiled CAT_TP server and `gateway.ota.cattp.Link` are given the same datagrams, SDUs and times: they must send
the same bytes and say the same things."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from cattp_rig import (
    CARD_PORT,
    IDENTIFICATION,
    PORT,
    Network,
    Stepped,
    card,
    outputs_of,
    said,
)  # fmt: skip

from gateway.ota.cattp import Limits, Link, Refused, State, Transmit
from gateway.ota.cattp_pdu import ACK, EACK, NUL, RST, SEG, SYN, Opening, Pdu, build_pdu, parse_pdu
from gateway.ota.malformed import Malformed

RST_BYTES = 19


class Pair:
    """Model and server side by side."""

    def __init__(self, limits: Limits, first: int, **settings: int) -> None:
        self.model = Link(limits, PORT, first, admit=lambda identification: identification == IDENTIFICATION)
        self.model.listen()
        self.native = Stepped(limits, first=first, **settings)
        assert self.native.server.expect(IDENTIFICATION, 77, 1 << 29)
        self.native.step(now_ms=0)
        self.link = 0
        self.seen: Counter[str] = Counter()
        #: whether there is still something to compare
        self.alive = True

    def _same(self, outputs: list[object], *datagrams: bytes, now_ms: int) -> list[bytes]:
        out, events = outputs_of(outputs)  # type: ignore[arg-type]
        if not self.link and events and events[0][0] == "closed":
            events = []  # of a half-open link nobody was told
        native_out = self.native.step(*datagrams, now_ms=now_ms)
        raw = self.native.take()
        self.link = raw[-1][1] if raw else self.link
        assert [describe(data) for data in native_out] == [describe(data) for data in out]
        assert native_out == out
        assert said(raw) == events
        self.seen.update(event[0] for event in events)
        self.seen["datagrams"] += len(out)
        return out

    def handle(self, data: bytes, now_ms: int) -> list[bytes]:
        was = self.model.state
        if was is State.CLOSE_WAIT and is_call(data):
            self.alive = False  # the server takes it as that of a new link
            return []
        # a step of the server does what is due as well
        outputs = self.model.handle(data, now_ms)
        if was is State.SYN_RCVD and self.model.state is was and len(data) < RST_BYTES:
            outputs = [
                output for output in outputs if not is_rst(output)
            ]  # the server's answer is never the longer one
        outputs += self.model.tick(now_ms)
        if was is State.SYN_RCVD and self.model.state is State.CLOSE_WAIT:
            self.alive = False  # a half-open link has no CLOSE-WAIT in the server
        if was is State.CLOSE_WAIT and self.model.state is State.CLOSE:
            self.alive = False
        return self._same(outputs, data, now_ms=now_ms)

    def tick(self, now_ms: int) -> list[bytes]:
        was = self.model.state
        outputs = self.model.tick(now_ms)
        if was in (State.SYN_RCVD, State.CLOSE_WAIT) and self.model.state in (State.CLOSE_WAIT, State.CLOSE):
            self.alive = False
        return self._same(outputs, now_ms=now_ms)

    def send(self, sdu: bytes, now_ms: int) -> list[bytes]:
        try:
            outputs = [*self.model.send(sdu, now_ms), *self.model.tick(now_ms)]
        except Refused:
            return []
        assert self.native.server.send(self.link, sdu)
        return self._same(outputs, now_ms=now_ms)

    def close(self, now_ms: int) -> list[bytes]:
        if self.model.state is not State.OPEN:
            return []
        outputs = [*self.model.close(now_ms), *self.model.tick(now_ms)]
        assert self.native.server.close(self.link)
        return self._same(outputs, now_ms=now_ms)


def describe(data: bytes) -> str:
    try:
        return repr(parse_pdu(data))
    except Malformed as error:
        return str(error)


def is_rst(output: object) -> bool:
    return isinstance(output, Transmit) and bool(parse_pdu(output.data).flags & RST)


def is_call(data: bytes) -> bool:
    try:
        pdu = parse_pdu(data)
    except Malformed:
        return False
    return pdu.opening is not None and not pdu.flags & ACK


def sdus(rng: random.Random, count: int, most: int) -> list[bytes]:
    return [rng.randbytes(rng.randint(1, most)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(60))
def test_a_conversation_is_the_same_to_the_datagram(seed: int) -> None:
    rng = random.Random(seed)
    limits = Limits(
        max_pdu=rng.choice((30, 64, 200)),
        max_sdu=rng.choice((100, 700)),
        window=rng.choice((1, 2, 5, 10, 118)),
        flight=rng.choice((1, 3, 10, 118)),
        rto_first_ms=rng.choice((30, 100)),
        rto_least_ms=20,
        rto_most_ms=500,
        retries=rng.choice((3, 6, 10)),
        keep_alive_ms=rng.choice((0, 400, 5_000)),
        idle_ms=rng.choice((0, 700, 20_000)),
        zero_window_ms=rng.choice((300, 5_000)),
        close_wait_ms=200,
    )
    # the wrap of the clock, and of every number
    pair = Pair(
        limits, rng.choice((0, 65_530, 0x7FFA, rng.randrange(65_536))), uptime_ms=rng.choice((0, (1 << 32) - 900))
    )
    peer = card(
        rng.choice((65_533, 0x7FFE, rng.randrange(65_536))),
        Limits(
            max_pdu=rng.choice((19, 40, 300)), max_sdu=rng.choice((200, 900)), window=rng.choice((1, 3, 10)),
            rto_first_ms=60, rto_least_ms=20, rto_most_ms=400, retries=8,
        ),
    )  # fmt: skip
    loss = rng.choice((0.0, 0.05, 0.3))
    delay = rng.choice(((5, 5), (1, 60)))
    to_server = Network(rng, loss=loss, double=loss / 2, delay_ms=delay)
    to_card = Network(rng, loss=loss, double=loss / 2, delay_ms=delay)
    now = 10
    for data in outputs_of(peer.connect(now))[0]:
        to_server.put(data, now)
    ours = sdus(rng, 12, 300)
    theirs = sdus(rng, 12, 120)
    next_talk = 50
    for _ in range(4_000):
        times = [to_server.due_ms, to_card.due_ms, peer.due_ms, pair.model.due_ms, next_talk]
        now = max(now, min(time for time in times if time is not None))
        if now > 60_000 or not pair.alive:
            break
        out: list[bytes] = []
        if now >= next_talk:
            next_talk = now + rng.randint(5, 120)
            what = rng.random()
            if ours and what < 0.5:
                out += pair.send(ours.pop(), now)
            elif theirs and peer.state is State.OPEN and what < 0.9:
                try:
                    for data in outputs_of(peer.send(theirs.pop(), now))[0]:
                        to_server.put(data, now)
                except Refused:
                    pass
            elif what < 0.94:
                for data in outputs_of(peer.set_window(rng.choice((0, peer.limits.window)), now))[0]:
                    to_server.put(data, now)
            elif not ours and not theirs and what < 0.97:
                out += pair.close(now)
            elif not ours and not theirs:
                for data in outputs_of(peer.close(now))[0]:
                    to_server.put(data, now)
        for data in to_server.take(now):
            out += pair.handle(data, now)
            if not pair.alive:
                break
        else:
            out += pair.tick(now)
        for data in out:
            to_card.put(data, now)
        for data in to_card.take(now):
            for answer in outputs_of(peer.handle(data, now))[0]:
                to_server.put(answer, now)
        for answer in outputs_of(peer.tick(now))[0]:
            to_server.put(answer, now)
    assert pair.seen["datagrams"] > 0
    pair.native.close()


def random_pdu(rng: random.Random, model: Link) -> bytes:
    """Valid bytes, odd content: numbers lie around those that the link knows."""
    receiving = model._receiving
    around = receiving.current if receiving is not None else rng.randrange(65_536)
    sending = model._sending
    kind = rng.choice((0, 0, 0, SYN, RST, NUL, EACK, SEG, SEG))
    flags = kind | (ACK if kind not in (SYN, RST) or rng.random() < 0.3 else 0)
    data = rng.randbytes(rng.randint(1, 90)) if kind in (0, SEG) or (kind == EACK and rng.random() < 0.4) else b""
    if kind == 0 and rng.random() < 0.4:
        data = b""
    return build_pdu(
        Pdu(
            flags,
            CARD_PORT,
            PORT,
            (around + rng.choice((0, 1, 1, 1, 2, 3, 4, 9, 12, -1, -3, 0x8000, rng.randrange(65_536)))) & 0xFFFF,
            (sending.next + rng.choice((-1, -1, -2, -3, -5, 0, 1, 0x8000))) & 0xFFFF,
            rng.choice((0, 1, 2, 5, 10, 118, 65_535)),
            data,
            Opening(rng.choice((0, 18, 19, 60)), rng.choice((0, 1, 500)), rng.choice((IDENTIFICATION, b"who")))
            if kind == SYN
            else None,
            tuple((sending.next - rng.randint(1, 8)) & 0xFFFF for _ in range(rng.randint(1, 6)))
            if kind == EACK
            else (),
            rng.choice((0, 1, 5, 99)) if kind == RST else 0,
            rng.choice((0,) * 30 + (1,)),
        )
    )


@pytest.mark.parametrize("seed", range(150))
def test_odd_pdus_get_the_same_answers(seed: int) -> None:
    """Nothing a peer may send makes the two differ: this one follows no protocol at all."""
    rng = random.Random(1_000_000 + seed)
    limits = Limits(
        max_pdu=100, max_sdu=300, window=rng.choice((1, 4, 10)), flight=rng.choice((1, 5, 10)), rto_first_ms=50,
        rto_least_ms=20, rto_most_ms=300, retries=4, keep_alive_ms=300, idle_ms=rng.choice((0, 900)),
        zero_window_ms=400, close_wait_ms=300,
    )  # fmt: skip
    first = rng.randrange(65_536)
    pair = Pair(limits, first)
    number = rng.choice((0, 65_535, rng.randrange(65_536)))
    opening = Opening(rng.choice((19, 30, 200)), 600, IDENTIFICATION)
    now = 5
    pair.handle(build_pdu(Pdu(SYN, CARD_PORT, PORT, number, opening=opening)), now)
    if rng.random() < 0.9:
        pair.handle(build_pdu(Pdu(ACK, CARD_PORT, PORT, (number + 1) & 0xFFFF, first, rng.choice((1, 5, 10)))), now)
    for _ in range(300):
        what = rng.random()
        now += rng.choice((0, 0, 1, 5, 20))
        due = pair.model.due_ms
        while due is not None and due <= now and pair.alive:
            pair.tick(max(due, pair.native.now_ms))
            due = pair.model.due_ms
        if not pair.alive:
            break
        if what < 0.65:
            pair.handle(random_pdu(rng, pair.model), now)
        elif what < 0.72:
            data = bytearray(random_pdu(rng, pair.model))
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            pair.handle(bytes(data), now)
        elif what < 0.95:
            pair.send(rng.randbytes(rng.randint(1, 200)), now)
        elif what < 0.96:
            pair.close(now)
        if not pair.alive:
            break
    pair.native.close()
