"""Two state machines against each other: every SDU once and in order, whatever the network does (TS 102 127 §4)."""

from __future__ import annotations

import dataclasses

import pytest
from cattp_net import CARD_PORT, FAST, SERVER_PORT, Net
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ota.cattp import Cause, Closed, Delivered, Limits, Link, Opened, Received, Refused, State, Transmit
from gateway.ota.cattp_pdu import ACK, EACK, NUL, RST, SEG, SYN, Opening, Pdu, Reason, build_pdu, parse_pdu
from gateway.ota.sequence import distance


def sdus_of(count: int, size: int = 150) -> list[bytes]:
    """No two are alike, sizes differ."""
    return [number.to_bytes(2, "big") * (1 + (number * 37) % (size // 2)) for number in range(1, count + 1)]


def exchange(net: Net, down: list[bytes], up: list[bytes]) -> None:
    net.open()
    for sdu in down:
        net.send(net.server, sdu)
    for sdu in up:
        net.send(net.card, sdu)
    net.until(lambda: len(net.card.sdus) >= len(down) and len(net.server.sdus) >= len(up))
    net.close(net.server)
    net.until(lambda: net.card.link.state is net.server.link.state is State.CLOSE)
    assert net.card.sdus == down
    assert net.server.sdus == up


@pytest.mark.parametrize("seed", range(8))
def test_a_network_that_loses_a_third_doubles_and_reorders(seed: int) -> None:
    """Numbers wrap on the way, in both directions (E8)."""
    net = Net(
        seed=seed,
        loss=0.3,
        twice=0.2,
        delay_ms=(1, 400),
        card_first=65_530 - seed,
        server_first=(32_760, 65_535)[seed % 2] - 3 * seed,
    )
    down, up = sdus_of(60), sdus_of(25, 60)
    exchange(net, down, up)
    assert net.server.link.counts["resent"] > 0
    delivered = sum(event.sdus for event in net.server.events if isinstance(event, Delivered))
    assert delivered == len(down)
    assert [closed.cause for closed in net.server.closed] == [Cause.ASKED]
    assert len(net.card.closed) == 1
    assert net.server.closed[0].undelivered == 0
    assert isinstance(net.card.events[0], Opened)
    assert isinstance(net.card.events[-1], Closed)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    loss=st.floats(0, 0.3),
    twice=st.floats(0, 0.5),
    spread=st.integers(1, 500),
    firsts=st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)),
    windows=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    sizes=st.lists(st.integers(1, 400), max_size=12),
)
def test_any_network_any_numbers_any_windows(seed, loss, twice, spread, firsts, windows, sizes) -> None:
    net = Net(
        seed=seed,
        loss=loss,
        twice=twice,
        delay_ms=(1, spread),
        card_first=firsts[0],
        server_first=firsts[1],
        card=dataclasses.replace(FAST, window=windows[0]),
        server=dataclasses.replace(FAST, window=windows[1]),
    )
    exchange(net, [bytes((n & 0xFF,)) * size for n, size in enumerate(sizes)], [b"up%d" % n for n in range(len(sizes))])


def test_one_pdu_at_a_time_through_a_window_of_one() -> None:
    net = Net(card=dataclasses.replace(FAST, window=1))
    net.open()
    for sdu in sdus_of(10):
        net.send(net.server, sdu)
    flying: set[int] = set()
    seen = len(net.server.sent)
    while len(net.card.sdus) < 10:
        net.step()
        for pdu in net.server.sent[seen:]:
            if pdu.data:
                flying.add(pdu.sequence)
        seen = len(net.server.sent)
        current = net.card.link._receiving.current
        assert len([n for n in flying if 0 < distance(current, n) < 0x8000]) <= 1
    assert net.card.sdus == sdus_of(10)


def test_segments_are_marked_but_the_last_and_hold_what_the_peer_takes() -> None:
    net = Net(card=dataclasses.replace(FAST, max_pdu=28))
    net.open()
    net.send(net.server, bytes(range(25)))
    net.until(lambda: bool(net.card.sdus))
    data = [pdu for pdu in net.server.sent if pdu.data]
    assert [len(pdu.data) for pdu in data] == [10, 10, 5]
    assert [bool(pdu.flags & SEG) for pdu in data] == [True, True, False]


def test_nothing_goes_past_a_closed_window_and_all_goes_when_it_opens() -> None:
    net = Net()
    net.open()
    net.run_outputs(net.card, net.card.link.set_window(0, net.now_ms))
    net.run_for(100)
    before = len(net.server.sent)
    for sdu in sdus_of(5):
        net.send(net.server, sdu)
    net.run_for(20_000)
    asked = net.server.sent[before:]
    assert asked  # it asks whether the window is open again
    assert all(pdu.flags & NUL and not pdu.data for pdu in asked)
    assert len({pdu.sequence for pdu in asked}) == 1
    assert net.card.sdus == []
    assert net.server.link.state is State.OPEN
    net.run_outputs(net.card, net.card.link.set_window(4, net.now_ms))
    net.until(lambda: len(net.card.sdus) == 5)
    assert net.card.sdus == sdus_of(5)


def test_a_window_that_opens_is_found_though_its_announcement_is_lost() -> None:
    net = Net()
    net.open()
    net.run_outputs(net.card, net.card.link.set_window(0, net.now_ms))
    net.run_for(100)
    net.send(net.server, b"waits")
    net.loss = 1.0
    net.run_outputs(net.card, net.card.link.set_window(4, net.now_ms))
    net.loss = 0.0
    net.until(lambda: net.card.sdus == [b"waits"])


def test_a_window_that_shrinks_under_what_is_on_its_way() -> None:
    net = Net(delay_ms=(50, 50))
    net.open()
    for sdu in sdus_of(8):
        net.send(net.server, sdu)
    net.run_outputs(net.card, net.card.link.set_window(0, net.now_ms))
    net.run_for(5_000)
    assert net.card.sdus == []
    assert net.card.link.counts["outside"] > 0
    net.run_outputs(net.card, net.card.link.set_window(2, net.now_ms))
    net.until(lambda: len(net.card.sdus) == 8)
    assert net.card.sdus == sdus_of(8)


def test_what_a_closed_window_refused_goes_when_it_opens_and_not_when_its_time_is_up() -> None:
    slow = dataclasses.replace(FAST, rto_first_ms=60_000, rto_least_ms=60_000, rto_most_ms=60_000)
    net = Net(server=slow)
    net.open()
    net.send(net.server, b"refused")
    net.run_outputs(net.card, net.card.link.set_window(0, net.now_ms))
    net.run_for(1_000)
    assert net.card.link.counts["outside"] == 1
    start = net.now_ms
    net.run_outputs(net.card, net.card.link.set_window(4, net.now_ms))
    net.until(lambda: net.card.sdus == [b"refused"])
    assert net.now_ms - start < 100


def test_a_peer_that_takes_a_byte_at_a_time_costs_no_more_than_another() -> None:
    net = Net(card=dataclasses.replace(FAST, max_pdu=19, max_sdu=60_000))
    net.open()
    net.loss = 1.0
    for _ in range(4):
        net.send(net.server, bytes(60_000))
    assert len(net.server.link._sending._queue) == 4
    assert len(net.server.link._sending._flight) == FAST.flight


def test_a_window_that_stays_closed_ends_the_link() -> None:
    net = Net(server=dataclasses.replace(FAST, zero_window_ms=30_000))
    net.open()
    net.run_outputs(net.card, net.card.link.set_window(0, net.now_ms))
    net.run_for(60_000)
    assert net.server.link.state is State.OPEN  # nothing waits for it
    net.send(net.server, b"waits")
    net.run_for(29_000)
    assert net.server.link.state is State.OPEN
    net.run_for(2_000)
    assert net.server.closed == [Closed(Cause.ZERO_WINDOW, Reason.TEMPORARY, 1)]
    assert net.card.closed == [Closed(Cause.PEER, Reason.TEMPORARY, 0)]


def test_what_is_missing_is_named_and_comes_before_its_time_is_up() -> None:
    slow = dataclasses.replace(FAST, rto_first_ms=60_000, rto_least_ms=60_000, rto_most_ms=60_000, window=8, flight=8)
    net = Net(card=slow, server=slow)
    net.open()
    net.loss = 1.0
    net.send(net.server, b"lost")
    net.loss = 0.0
    for text in (b"one", b"two", b"three"):
        net.send(net.server, text)
    start = net.now_ms
    net.until(lambda: len(net.card.sdus) == 4)
    assert net.now_ms - start < 1_000
    assert net.card.sdus == [b"lost", b"one", b"two", b"three"]
    named = [pdu.eacks for pdu in net.card.sent if pdu.flags & EACK]
    assert named == [(202,), (202, 203), (202, 203, 204)]


def test_a_peer_that_is_gone_ends_the_link_after_the_retries() -> None:
    limits = dataclasses.replace(FAST, retries=3)
    net = Net(server=limits)
    net.open()
    net.loss = 1.0
    net.send(net.server, b"never")
    net.until(lambda: bool(net.server.closed))
    assert net.server.closed == [Closed(Cause.RETRIES, Reason.RETRIES, 1)]
    assert len([pdu for pdu in net.server.sent if pdu.data]) == 4
    assert net.server.sent[-1].reason == Reason.RETRIES


def test_a_server_that_does_not_answer_a_syn() -> None:
    net = Net(loss=1.0, card=dataclasses.replace(FAST, opening_retries=3))
    net.connect()
    net.until(lambda: bool(net.card.closed))
    assert net.card.closed == [Closed(Cause.RETRIES, Reason.RETRIES, 0)]
    assert [pdu.flags for pdu in net.card.sent] == [SYN] * 4 + [RST]
    net.until(lambda: net.card.link.state is State.CLOSE)


def test_a_peer_that_dies_is_noticed_by_keep_alive() -> None:
    net = Net(server=dataclasses.replace(FAST, retries=2))
    net.open()
    net.run_for(20_000)
    assert net.server.link.state is State.OPEN
    assert any(pdu.flags & NUL for pdu in net.server.sent)
    net.loss = 1.0
    net.run_for(60_000)
    assert [closed.cause for closed in net.server.closed] == [Cause.RETRIES]


def test_an_idle_link_closes() -> None:
    net = Net(server=dataclasses.replace(FAST, idle_ms=8_000))
    net.open()
    net.run_for(9_000)
    assert net.server.closed == [Closed(Cause.IDLE, Reason.NORMAL, 0)]
    assert net.card.closed == [Closed(Cause.PEER, Reason.NORMAL, 0)]


@pytest.mark.parametrize("reason", [*Reason, 99])
@pytest.mark.parametrize("by_card", [True, False])
def test_a_rst_of_any_reason_ends_the_link(reason: int, by_card: bool) -> None:
    net = Net()
    net.open()
    net.send(net.server, b"x")
    side, other = (net.card, net.server) if by_card else (net.server, net.card)
    link = side.link
    data = build_pdu(Pdu(RST | ACK, link.local_port, link.remote_port, link._sending.next, 0, reason=reason))
    net.run_outputs(other, other.link.handle(data, net.now_ms))
    assert [(closed.cause, closed.reason) for closed in other.closed] == [(Cause.PEER, reason)]
    with pytest.raises(Refused):
        other.link.send(b"y", net.now_ms)


def test_a_rst_with_a_number_out_of_the_window_is_not_believed() -> None:
    net = Net()
    net.open()
    for sequence in (50, 100 + FAST.window + 3, 40_000):
        data = build_pdu(Pdu(RST, CARD_PORT, SERVER_PORT, sequence, 0))
        assert net.server.link.handle(data, net.now_ms) == []
    assert net.server.link.state is State.OPEN
    assert net.server.link.counts["outside"] == 3


def test_both_close_at_a_time() -> None:
    net = Net(delay_ms=(50, 50))
    net.open()
    net.close(net.card)
    net.close(net.server)
    start = net.now_ms
    net.until(lambda: net.card.link.state is net.server.link.state is State.CLOSE)
    assert net.now_ms - start < 100  # each RST answers the other: nobody waits
    assert net.card.closed == net.server.closed == [Closed(Cause.ASKED, Reason.NORMAL, 0)]


def test_closing_waits_for_what_was_sent_and_takes_no_more() -> None:
    net = Net(loss=0.3, seed=5)
    net.open()
    for sdu in sdus_of(20):
        net.send(net.server, sdu)
    net.close(net.server)
    with pytest.raises(Refused):
        net.server.link.send(b"late", net.now_ms)
    net.until(lambda: bool(net.server.closed))
    assert net.card.sdus == sdus_of(20)


def test_a_lost_rst_is_said_again_to_who_still_sends() -> None:
    net = Net()
    net.open()
    net.loss = 1.0
    net.close(net.server)
    net.loss = 0.0
    net.send(net.card, b"still here")
    net.until(lambda: bool(net.card.closed))
    assert net.card.closed == [Closed(Cause.PEER, Reason.NORMAL, 1)]


def test_both_call_at_a_time() -> None:
    net = Net(delay_ms=(20, 20))
    net.server.link = Link(FAST, SERVER_PORT, 200, remote_port=CARD_PORT)
    net.run_outputs(net.server, net.server.link.connect(net.now_ms))
    net.open()
    net.send(net.card, b"up")
    net.send(net.server, b"down")
    net.until(lambda: net.card.sdus == [b"down"] and net.server.sdus == [b"up"])


def test_the_exchange_of_the_specification_byte_for_byte() -> None:
    """SYN, SYN/ACK, ACK as they are on the wire."""
    limits = Limits(max_pdu=1_024, max_sdu=512, window=4)
    card = Link(limits, 1, 0x0100, remote_port=9_000, identification=bytes.fromhex("98443000000000000010"))
    server = Link(limits, 9_000, 0x0200)
    server.listen()
    (syn,) = card.connect(0)
    assert syn == Transmit(bytes.fromhex("80000021000123280000010000000004f6e8040002000a98443000000000000010"))
    (answer,) = server.handle(syn.data, 0)
    assert answer == Transmit(bytes.fromhex("c000001723280001000002000100000413bb0400020000"))
    opened, ack = card.handle(answer.data, 0)
    assert opened == Opened(Opening(1_024, 512))
    assert ack == Transmit(bytes.fromhex("4000001200012328000001010200000499bf"))
    (opened,) = server.handle(ack.data, 0)
    assert opened == Opened(Opening(1_024, 512, bytes.fromhex("98443000000000000010")))


def test_who_is_not_admitted_gets_no_answer() -> None:
    net = Net(admit=lambda identification: identification == b"nonce")
    net.connect()
    net.run_for(2_000)
    assert net.server.sent == []
    assert net.server.link.state is State.LISTEN
    assert net.server.link.counts["not_admitted"] > 1


@pytest.mark.parametrize(
    ("pdu", "reason"),
    [
        (Pdu(ACK, 1, SERVER_PORT, 5, 6, data=b"x"), Reason.UNEXPECTED_PDU),
        (Pdu(SYN | ACK, 1, SERVER_PORT, 5, 6, opening=Opening(100, 100)), Reason.UNEXPECTED_PDU),
        (Pdu(SYN, 1, 77, 5, opening=Opening(100, 100)), Reason.PORT),
        (Pdu(SYN, 1, SERVER_PORT, 5, opening=Opening(18, 100)), Reason.ILLEGAL_PARAMETERS),
        (Pdu(SYN, 1, SERVER_PORT, 5, opening=Opening(100, 0)), Reason.ILLEGAL_PARAMETERS),
        (Pdu(SYN, 1, SERVER_PORT, 5, opening=Opening(100, 100), version=1), Reason.VERSION),
    ],
)
def test_what_a_listening_link_refuses(pdu: Pdu, reason: Reason) -> None:
    link = Link(FAST, SERVER_PORT, 200)
    link.listen()
    (answer,) = link.handle(build_pdu(pdu), 0)
    refusal = parse_pdu(answer.data)
    assert refusal.flags & RST
    assert refusal.reason == reason
    assert len(answer.data) <= len(build_pdu(pdu)) or pdu.opening is None
    assert link.state is State.LISTEN


def test_a_listening_link_does_not_answer_a_rst() -> None:
    link = Link(FAST, SERVER_PORT, 200)
    link.listen()
    assert link.handle(build_pdu(Pdu(RST, 1, SERVER_PORT, 5)), 0) == []


def test_a_card_that_starts_again_gets_a_link_again() -> None:
    """An old link answers the new SYN with its acknowledgement, the card with a RST, and so the old link ends."""
    net = Net()
    net.open()
    net.card.link = Link(FAST, CARD_PORT, 30_000, remote_port=SERVER_PORT)
    net.connect()
    net.until(lambda: bool(net.server.closed))
    net.server.link = Link(FAST, SERVER_PORT, 40_000)
    net.server.link.listen()
    net.until(lambda: net.card.link.state is State.OPEN)


@pytest.mark.parametrize("what", ["pdu", "sdu"])
def test_a_peer_that_sends_more_than_it_may(what: str) -> None:
    net = Net()
    net.open()
    size, count = (FAST.max_pdu, 1) if what == "pdu" else (40, 11)
    for number in range(count):
        pdu = Pdu(ACK | SEG, CARD_PORT, SERVER_PORT, 101 + number, 200, 4, bytes(size))
        net.run_outputs(net.server, net.server.link.handle(build_pdu(pdu), net.now_ms))
    assert net.server.closed == [Closed(Cause.ILLEGAL, Reason.ILLEGAL_PARAMETERS, 0)]


def test_a_wrong_checksum_is_counted_and_changes_nothing() -> None:
    net = Net()
    net.open()
    data = bytearray(build_pdu(Pdu(ACK, CARD_PORT, SERVER_PORT, 101, 200, 4, b"text")))
    for place in range(len(data)):
        broken = bytes(data[:place]) + bytes((data[place] ^ 0x40,)) + bytes(data[place + 1 :])
        assert net.server.link.handle(broken, net.now_ms) == []
    assert net.server.link.counts["malformed"] == len(data)
    assert net.server.link.handle(bytes(data), net.now_ms)[0].sdu == b"text"


def test_an_acknowledgement_of_what_was_never_sent() -> None:
    net = Net()
    net.open()
    before = net.server.link.counts["impossible"]
    pdu = Pdu(ACK, CARD_PORT, SERVER_PORT, 101, 300, 4, b"text")
    (answer,) = net.server.link.handle(build_pdu(pdu), net.now_ms)
    assert net.server.link.counts["impossible"] == before + 1
    assert parse_pdu(answer.data).flags == ACK


def test_what_send_refuses() -> None:
    net = Net(server=dataclasses.replace(FAST, queued_bytes=500))
    link = net.server.link
    with pytest.raises(Refused):
        link.send(b"x", 0)
    net.open()
    for sdu in (b"", bytes(401)):
        with pytest.raises(Refused):
            link.send(sdu, net.now_ms)
    net.loss = 1.0
    net.send(net.server, bytes(400))
    net.send(net.server, bytes(250))
    with pytest.raises(Refused):
        link.send(bytes(400), net.now_ms)


def test_bounds_of_limits_are_named() -> None:
    for wrong in ({"window": 0}, {"window": 119}, {"max_pdu": 18}, {"retries": 0}, {"rto_least_ms": 70_000}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Limits(**wrong)


def test_the_wait_follows_the_round_trip_and_doubles_with_each_try() -> None:
    net = Net(delay_ms=(200, 200), server=dataclasses.replace(FAST, rto_most_ms=5_000))
    net.open()
    for sdu in sdus_of(30):
        net.send(net.server, sdu)
    net.until(lambda: len(net.card.sdus) == 30)
    assert 500 <= net.server.link._sending.clock.rto_ms <= 540  # 1.3 times 400
    net.run_for(2_000)
    net.loss = 1.0
    net.send(net.server, b"x")
    times = []
    for _ in range(4):
        times.append(net.server.link.due_ms - net.now_ms)
        net.now_ms = net.server.link.due_ms
        net.run_outputs(net.server, net.server.link.tick(net.now_ms))
    first = times[0]
    assert times == [first, 2 * first, 4 * first, 8 * first]


def test_nothing_of_what_is_sent_shows_in_a_repr() -> None:
    net = Net()
    net.open()
    net.send(net.server, b"Geheimnis")
    net.until(lambda: bool(net.card.sdus))
    shown = repr((net.server.events, net.card.events, net.server.sent, net.card.sent, net.server.link, net.card.link))
    for text in ("Geheimnis", "98443", "\\x98D0"):
        assert text not in shown
    assert isinstance(net.card.events[-1], Received)


@settings(max_examples=150)
@given(st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 0xFF).map(lambda f: f)), max_size=30), st.data())
def test_no_pdu_breaks_a_link(inputs, data) -> None:
    """Any bytes, and any PDU that is whole: a link never raises, and what it sends is always a PDU."""
    net = Net()
    if data.draw(st.booleans()):
        net.open()
    now = net.now_ms
    for item in inputs:
        if isinstance(item, int):
            flags = item & 0xFC
            pdu = Pdu(
                flags,
                CARD_PORT,
                SERVER_PORT,
                data.draw(st.integers(95, 115)),
                data.draw(st.integers(195, 210)),
                data.draw(st.integers(0, 6)),
                data.draw(st.binary(max_size=50)),
                Opening(data.draw(st.integers(0, 70)), data.draw(st.integers(0, 70))),
                tuple(data.draw(st.lists(st.integers(195, 210), max_size=3))),
                data.draw(st.integers(0, 255)),
            )
            item = build_pdu(pdu)
        for output in net.server.link.handle(item, now):
            if isinstance(output, Transmit):
                parse_pdu(output.data)
        due = net.server.link.due_ms
        if due is not None and data.draw(st.booleans()):
            now = max(now, due)
            net.server.link.tick(now)
            again = net.server.link.due_ms
            assert again is None or again > now or net.server.link.state is not State.OPEN


def test_a_peer_that_reports_the_oldest_and_never_acknowledges_it_is_given_up() -> None:
    """What is next in order can not have come out of order; a NUL would not be sent, for something is on its way."""
    net = Net(server=dataclasses.replace(FAST, retries=3))
    net.open()
    net.loss = 1.0
    net.send(net.server, b"never")
    (sent,) = [pdu for pdu in net.server.sent if pdu.data]
    net.now_ms += 1
    said = Pdu(ACK | EACK, CARD_PORT, SERVER_PORT, 101, sent.sequence - 1, 4, eacks=(sent.sequence,))
    net.server.link.handle(build_pdu(said), net.now_ms)
    net.until(lambda: bool(net.server.closed))
    assert net.server.closed == [Closed(Cause.RETRIES, Reason.RETRIES, 1)]
