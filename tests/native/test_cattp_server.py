"""The CAT_TP server (ext/cattp*.pyx) with its thread on a real UDP socket, through a bad network."""

from __future__ import annotations

import random

import pytest
from cattp_rig import IDENTIFICATION, Cards, Threaded, card

from gateway.ota.cattp import Limits, State
from gateway.ota.cattp_pdu import Reason

FAST = Limits(rto_first_ms=20, rto_least_ms=5, rto_most_ms=60, retries=100, opening_retries=100)


@pytest.mark.parametrize("seed", range(3))
def test_sdus_arrive_whole_and_in_order_through_a_bad_network(seed: int) -> None:
    """Loss of 30 %, doubled and reordered, numbers that wrap, both ways, several cards."""
    with Threaded(FAST, first=65_530) as server:
        cards = Cards(server, random.Random(seed), loss=0.3, double=0.1, reorder=0.3)
        rng = random.Random(seed)
        plan = {}
        for number in range(6):
            identification = bytes([number]) * 16
            assert server.native.expect(identification, number, 60_000)
            limits = Limits(
                max_pdu=rng.choice((40, 100, 1400)), window=rng.choice((1, 10)), rto_first_ms=20, rto_least_ms=5,
                rto_most_ms=60, retries=100, opening_retries=100,
            )  # fmt: skip
            up = [rng.randbytes(rng.randint(1, 150)) for _ in range(12)]
            down = [rng.randbytes(rng.randint(1, 150)) for _ in range(12)]
            plan[number] = (up, down)
            cards.call(card(65_533, limits, identification=identification, port=number), number, up)
        sent: set[int] = set()

        def is_done() -> bool:
            for number, link in server.opened.items():
                if number not in sent:
                    sent.add(number)
                    for sdu in plan[number][1]:
                        assert server.native.send(link, sdu)
            return all(
                server.received.get(number, []) == up
                and cards.received[number] == down
                and server.delivered.get(number) == 12
                for number, (up, down) in plan.items()
            )

        cards.run_until(is_done)
        counters = server.native.counters()
        assert counters["resent"] > 0
        assert counters["duplicate"] > 0
        assert counters["opened"] == 6
        for link in server.opened.values():
            assert server.native.close(link)
        cards.run_until(lambda: len(server.closed) == 6)
        assert set(server.closed.values()) == {("asked", 0, 0)}


def test_a_window_that_is_closed_holds_up_and_goes_on_when_it_opens() -> None:
    with Threaded(FAST) as server:
        cards = Cards(server, random.Random(1))
        assert server.native.expect(IDENTIFICATION, 0, 60_000)
        peer = card(5, Limits(rto_first_ms=40, rto_least_ms=20))
        cards.call(peer, 0, [])
        cards.run_until(lambda: 0 in server.opened)
        cards.give(0, peer.set_window(0, cards.now_ms()))
        cards.give(0, peer.send(b"told with it", cards.now_ms()))
        cards.run_until(lambda: server.received.get(0) == [b"told with it"])
        for number in range(5):
            assert server.native.send(server.opened[0], bytes([number]) * 50)
        cards.run_until(lambda: server.native.counters()["probes"] > 0)
        assert cards.received[0] == []
        cards.give(0, peer.set_window(2, cards.now_ms()))
        cards.run_until(lambda: len(cards.received[0]) == 5)
        cards.run_until(lambda: server.delivered.get(0) == 5)


def test_a_window_that_stays_closed_ends_the_link() -> None:
    with Threaded(Limits(rto_first_ms=20, rto_least_ms=10, rto_most_ms=40, zero_window_ms=150)) as server:
        cards = Cards(server, random.Random(1))
        assert server.native.expect(IDENTIFICATION, 0, 60_000)
        peer = card(5)
        cards.call(peer, 0, [])
        cards.run_until(lambda: 0 in server.opened)
        cards.give(0, peer.set_window(0, cards.now_ms()))
        cards.give(0, peer.send(b"told with it", cards.now_ms()))
        cards.run_until(lambda: server.received.get(0) == [b"told with it"])
        assert server.native.send(server.opened[0], b"never")
        cards.run_until(lambda: 0 in server.closed)
        assert server.closed[0] == ("zero_window", Reason.TEMPORARY, 1)


def test_a_card_that_dies_ends_its_link_after_the_retries() -> None:
    with Threaded(Limits(rto_first_ms=10, rto_least_ms=5, rto_most_ms=20, retries=3)) as server:
        cards = Cards(server, random.Random(1))
        assert server.native.expect(IDENTIFICATION, 0, 60_000)
        cards.call(card(5), 0, [])
        cards.run_until(lambda: 0 in server.opened)
        cards.cut(0)
        assert server.native.send(server.opened[0], b"one")
        assert server.native.send(server.opened[0], b"two")
        cards.run_until(lambda: 0 in server.closed)
        assert server.closed[0] == ("retries", Reason.RETRIES, 2)


def test_a_card_that_moved_to_another_port_goes_on_in_a_new_link() -> None:
    with Threaded(FAST) as server:
        cards = Cards(server, random.Random(2))
        assert server.native.expect(IDENTIFICATION, 0, 60_000)
        cards.call(card(5, FAST), 0, [])
        cards.run_until(lambda: 0 in server.opened)
        old = server.opened[0]
        cards.cut(0)
        cards.call(card(900, FAST), 0, [b"back again"])
        cards.run_until(lambda: server.received.get(0) == [b"back again"])
        assert server.opened[0] != old
        assert server.closed[0][0] == "replaced"
        assert [what for what, _link in server.order] == ["opened", "closed", "opened", "received"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "mapped"])
def test_both_families_of_addresses_are_served(host: str) -> None:
    bind, connect_to = ("::", "127.0.0.1") if host == "mapped" else (host, host)
    with Threaded(FAST, host=bind) as server:
        cards = Cards(server, random.Random(3), host=connect_to)
        assert server.native.expect(IDENTIFICATION, 0, 60_000)
        cards.call(card(5), 0, [b"by any road"])
        cards.run_until(lambda: server.received.get(0) == [b"by any road"])


def test_a_full_mailbox_stops_reading_and_loses_no_event() -> None:
    """The control thread takes nothing for a while: what the mailbox does not hold waits in the kernel, or is sent
    again by the card."""
    limits = Limits(
        max_pdu=4000, max_sdu=4000, window=30, rto_first_ms=40, rto_least_ms=20, rto_most_ms=200, retries=200
    )
    with Threaded(limits, mailbox_bytes=1) as server:
        cards = Cards(server, random.Random(4))
        assert server.native.expect(IDENTIFICATION, 0, 60_000)
        sdus = [bytes([number % 251]) * 3900 for number in range(1500)]
        peer = card(
            5,
            Limits(
                max_pdu=4000,
                max_sdu=4000,
                flight=30,
                rto_first_ms=40,
                rto_least_ms=20,
                retries=200,
                queued_bytes=1 << 24,
            ),
        )
        server.paused = True
        cards.call(peer, 0, sdus)
        cards.run_until(lambda: server.native.counters()["mailbox_full"] > 0)
        server.paused = False
        cards.run_until(lambda: len(server.received.get(0, [])) == len(sdus))
        assert server.received[0] == sdus


def test_a_full_mailbox_refuses_commands() -> None:
    with Threaded(FAST, mailbox_bytes=1, start=False) as server:
        queued = 0
        while server.native.send(1, b"x" * 1000):
            queued += 1
        assert 0 < queued <= 262
        while server.native.close(1):
            pass
        assert not server.native.expect(b"x", 1, 1000)
        server.start()
        cards = Cards(server, random.Random(5))
        cards.run_until(lambda: len(server.refused) == queued)
        assert server.native.expect(b"x", 1, 1000)


def test_stopping_tells_every_card_and_the_control_thread() -> None:
    with Threaded(FAST) as server:
        cards = Cards(server, random.Random(6))
        for number in range(20):
            assert server.native.expect(bytes([number]) * 8, number, 60_000)
            cards.call(card(5, FAST, identification=bytes([number]) * 8, port=number), number, [])
        cards.run_until(lambda: len(server.opened) == 20)
        server.stop()
        assert set(server.closed.values()) == {("stopped", Reason.TEMPORARY, 0)}
        assert len(server.closed) == 20
        cards.run_until(lambda: all(peer.state in (State.CLOSE_WAIT, State.CLOSE) for peer in cards.peers()))
