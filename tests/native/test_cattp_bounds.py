"""Whose SYN the CAT_TP server takes, what is bounded, and what follows at each bound; by steps of an injected clock."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator

import pytest
from cattp_rig import (
    ADDRESS,
    ARRIVALS,
    CARD_PORT,
    IDENTIFICATION,
    PORT,
    Stepped,
    card,
    connect,
    opening,
    outputs_of,
    pdu,
    said,
)

from gateway._native import cattp as native
from gateway.ota.cattp import Limits, State
from gateway.ota.cattp_pdu import ACK, EACK, NUL, RST, SYN, Opening, Pdu, Reason, build_pdu, parse_pdu

#: of a published exchange (docs/ota.md)
SYN_VECTOR = bytes.fromhex("80000021000123280000010000000004f6e8040002000a98443000000000000010")
SYN_ACK_VECTOR = bytes.fromhex("c000001723280001000002000100000413bb0400020000")
ACK_VECTOR = bytes.fromhex("4000001200012328000001010200000499bf")
VECTOR_ID = bytes.fromhex("98443000000000000010")


@pytest.fixture
def stepped() -> Iterator[Stepped]:
    made = Stepped(first=0x0200)
    yield made
    made.close()


def add_up(counters: dict[str, int]) -> int:
    return sum(counters[name] for name in ARRIVALS)


# --- the handshake ---------------------------------------------------------------------------------------------------


def test_the_published_exchange_is_answered_byte_for_byte() -> None:
    server = Stepped(Limits(max_pdu=1024, max_sdu=512, window=4), first=0x0200)
    assert server.server.expect(VECTOR_ID, 5, 1000)
    assert server.step(SYN_VECTOR) == [SYN_ACK_VECTOR]
    assert server.events == []  # a SYN is no evidence
    assert server.step(ACK_VECTOR) == []
    assert [event[2] for event in server.events] == [5]
    assert said(server.events) == [("opened", 0x0400, 0x0200)]
    server.close()


def test_a_syn_of_whom_nobody_expects_gets_no_answer(stepped: Stepped) -> None:
    assert stepped.step(opening(1)) == []
    assert stepped.step(opening(1, b"x" * 17)) == []
    assert stepped.step(opening(1, b"")) == []
    assert stepped.server.counters()["not_admitted"] == 3
    assert stepped.server.counters()["links"] == 0


def test_a_syn_is_taken_inside_its_time_only(stepped: Stepped) -> None:
    assert stepped.server.expect(IDENTIFICATION, 5, 1000)
    stepped.step(now_ms=0)
    assert stepped.step(now_ms=999) == []
    assert len(stepped.step(opening(1))) == 1
    assert stepped.server.expect(b"later", 6, 1000)
    stepped.step(now_ms=2000)
    assert stepped.step(opening(1, b"later", source=9), now_ms=3001) == []
    assert stepped.server.counters()["not_admitted"] == 1
    assert stepped.server.counters()["expected"] == 1  # the first one's half-open link holds it


def test_a_final_ack_that_is_late_opens_nothing(stepped: Stepped) -> None:
    assert stepped.server.expect(IDENTIFICATION, 5, 1000)
    stepped.step(now_ms=0)
    assert len(stepped.step(opening(1), now_ms=900)) == 1
    (answer,) = stepped.step(pdu(ACK, 2, 0x0200), now_ms=1100)
    assert parse_pdu(answer).reason == Reason.TEMPORARY
    assert stepped.events == []
    assert stepped.server.counters()["links"] == stepped.server.counters()["expected"] == 0


def test_a_forgotten_identification_opens_nothing_and_leaves_an_open_link(stepped: Stepped) -> None:
    assert stepped.server.expect(IDENTIFICATION, 5, 10_000)
    link = connect(stepped)
    assert stepped.server.forget(IDENTIFICATION)
    assert stepped.step(opening(7, source=9)) == []
    assert stepped.server.send(link, b"still here")
    assert len(stepped.step()) == 1
    assert stepped.server.expect(b"half", 6, 10_000)
    assert len(stepped.step(opening(7, b"half", source=10))) == 1
    assert stepped.server.forget(b"half")
    stepped.step(pdu(ACK, 8, 0x0200, source=10))
    assert [event[0] for event in stepped.take()] == []
    assert stepped.server.abort(link, Reason.NORMAL)
    stepped.step()
    assert [(event[0], event[2]) for event in stepped.take()] == [(native.EVENT_CLOSED, 5)]


def test_the_same_identification_under_another_cookie_leaves_the_older_link_its_own(stepped: Stepped) -> None:
    assert stepped.server.expect(IDENTIFICATION, 5, 10_000)
    link = connect(stepped)
    assert stepped.server.expect(IDENTIFICATION, 6, 10_000)
    stepped.step()
    other = connect(stepped, source=9)
    assert stepped.server.close(link)
    assert stepped.server.close(other)
    stepped.step()
    assert [(event[1], event[2]) for event in stepped.take()] == [(link, 5), (other, 6)]


# --- abuse -----------------------------------------------------------------------------------------------------------


def test_half_open_links_are_bounded_and_those_past_it_get_no_answer() -> None:
    server = Stepped(max_half_open=3)
    for number in range(5):
        assert server.server.expect(bytes([number]), number, 10_000)
    out = [server.step(opening(1, bytes([number]), source=number)) for number in range(5)]
    assert [len(each) for each in out] == [1, 1, 1, 0, 0]
    assert server.server.counters()["half_open_full"] == 2
    (answer,) = out[0]
    server.step(pdu(ACK, 2, parse_pdu(answer).sequence, source=0))
    assert len(server.step(opening(1, bytes([4]), source=4))) == 1  # one has opened: there is a place
    server.close()


def test_one_identification_has_a_few_half_open_links_at_most(stepped: Stepped) -> None:
    assert stepped.server.expect(IDENTIFICATION, 5, 10_000)
    answered = sum(len(stepped.step(opening(1, source=source))) for source in range(20))
    assert answered == 8
    assert stepped.server.counters()["half_open_full"] == 12


def test_links_are_bounded() -> None:
    server = Stepped(max_links=4)
    for number in range(6):
        server.server.expect(bytes([number]), number, 10_000)
    assert [event[0] for event in server.take()] == []
    server.step()
    # as many identifications as links: two were one too many
    assert [(event[0], event[2]) for event in server.take()] == [
        (native.EVENT_UNEXPECTED, 4),
        (native.EVENT_UNEXPECTED, 5),
    ]
    for number in range(4):
        connect(server, bytes([number]), source=number)
    assert server.step(opening(1, bytes([0]), source=77)) == []
    assert server.server.counters()["full"] == 1
    assert server.server.counters()["unexpected"] == 2
    server.close()


def test_before_the_final_ack_no_more_goes_out_than_is_allowed() -> None:
    for times, answers in ((1, 1), (3, 5), (16, 6)):
        server = Stepped(Limits(opening_retries=5), amplification=times, first=0)
        assert server.server.expect(IDENTIFICATION, 5, 1 << 29)
        sent = server.step(opening(1))
        for _ in range(20):
            sent += server.step(now_ms=server.now_ms + 60_000)
        came = len(opening(1))
        assert sum(map(len, sent)) <= times * came
        assert sum(bool(parse_pdu(data).flags & SYN) for data in sent) == answers
        assert server.server.counters()["unproved"] == 1
        assert server.events == []
        server.close()


def test_a_syn_that_comes_again_is_answered_however_little_was_allowed() -> None:
    server = Stepped(amplification=1, first=0)
    assert server.server.expect(IDENTIFICATION, 5, 10_000)
    assert [len(server.step(opening(1))) for _ in range(4)] == [1, 1, 1, 1]
    assert server.server.counters()["duplicate"] == 3
    server.close()


def test_what_has_no_link_is_told_so_but_never_with_more_than_it_sent() -> None:
    server = Stepped(refusals_per_s=2)
    assert server.step(pdu(ACK, 1, 2)) == []  # 18 bytes; a RST has 19
    (answer,) = server.step(pdu(ACK, 1, 2, data=b"?"))
    assert (parse_pdu(answer).flags, parse_pdu(answer).reason) == (RST | ACK, Reason.UNEXPECTED_PDU)
    assert (parse_pdu(answer).sequence, parse_pdu(answer).acknowledgement) == (3, 1)
    (answer,) = server.step(pdu(ACK, 1, 2, data=b"?", destination=PORT + 1))
    assert parse_pdu(answer).reason == Reason.PORT
    assert server.step(pdu(ACK, 1, 2, data=b"?")) == []  # two a second
    assert len(server.step(pdu(ACK, 1, 2, data=b"?"), now_ms=500)) == 1
    assert server.step(pdu(RST | ACK, 1, 2), now_ms=5000) == []  # to a RST nobody answers
    versioned = build_pdu(Pdu(SYN, CARD_PORT, PORT, 1, opening=Opening(100, 100, IDENTIFICATION), version=1))
    (answer,) = server.step(versioned)
    assert parse_pdu(answer).reason == Reason.VERSION
    counters = server.server.counters()
    assert (counters["stray"], counters["foreign"], counters["version"]) == (5, 1, 1)
    assert (counters["refusals"], counters["refusals_withheld"]) == (4, 2)
    server.close()


def test_sizes_that_make_no_sense_are_refused(stepped: Stepped) -> None:
    assert stepped.server.expect(IDENTIFICATION, 5, 10_000)
    for sizes in ((18, 100), (100, 0)):
        (answer,) = stepped.step(opening(1, sizes=sizes))
        assert parse_pdu(answer).reason == Reason.ILLEGAL_PARAMETERS
    assert stepped.server.counters()["illegal"] == 2
    assert stepped.server.counters()["links"] == 0


# --- a card that comes back ------------------------------------------------------------------------------------------


def test_a_newer_link_of_the_same_identification_takes_the_place_of_the_older(stepped: Stepped) -> None:
    assert stepped.server.expect(IDENTIFICATION, 5, 1000)
    stepped.step(now_ms=0)
    old = connect(stepped)
    assert stepped.server.send(old, b"lost with it")
    stepped.step(now_ms=5000)  # its time is over, the link is not
    stepped.take()
    elsewhere = ADDRESS[:15] + b"\x09"
    (answer,) = stepped.step(opening(900), address=elsewhere, port=5)
    assert stepped.take() == []  # the older lives until the newer proved itself
    out = stepped.server.step([(pdu(ACK, 901, parse_pdu(answer).sequence), elsewhere, 5)], 5100)
    assert [(address, port) for _data, address, port in out] == [(ADDRESS, 40_001)]  # the older one's RST
    stepped.step()
    events = stepped.take()
    assert said(events) == [("closed", "replaced", 0, 1), ("opened", 1400, 4096)]
    assert [event[2] for event in events] == [5, 5]
    assert events[0][1] == old != events[1][1]


def test_a_syn_on_an_open_link_from_the_same_place_is_acknowledged(stepped: Stepped) -> None:
    assert stepped.server.expect(IDENTIFICATION, 5, 10_000)
    connect(stepped)
    (answer,) = stepped.step(opening(4000))
    assert parse_pdu(answer).flags == ACK  # a card that started again answers this with a RST
    stepped.step(pdu(RST, 101, 0))
    assert said(stepped.take()) == [("closed", "peer", 0, 0)]
    connect(stepped, number=4000)


def test_a_card_may_call_again_from_where_its_link_has_just_ended(stepped: Stepped) -> None:
    assert stepped.server.expect(IDENTIFICATION, 5, 10_000)
    link = connect(stepped)
    assert stepped.server.close(link)
    stepped.step()
    assert said(stepped.take()) == [("closed", "asked", 0, 0)]
    assert stepped.server.counters()["links"] == 1  # in CLOSE-WAIT
    connect(stepped, number=300)
    assert stepped.server.counters()["links"] == 1


# --- SDUs and bounds -------------------------------------------------------------------------------------------------


def test_an_sdu_that_is_not_taken_is_said_to_be_refused() -> None:
    server = Stepped(Limits(queued_bytes=100, flight=1), busy_bytes=5_000)
    for number in range(60):
        assert server.server.expect(bytes([number]), number, 10_000)
    link = connect(server, bytes([0]), source=0)
    for sdu in (b"", b"x" * 4097, b"x" * 101, b"in flight", b"x" * 90, b"y" * 11):
        assert server.server.send(link, sdu, 44)
    assert server.server.send(link ^ 1 << 40, b"nobody", 45)
    server.step()
    events = server.take()
    assert [(event[0], event[2], event[3]) for event in events] == [
        (native.EVENT_REFUSED, 44, "size"),
        (native.EVENT_REFUSED, 44, "size"),
        (native.EVENT_REFUSED, 44, "queue"),
        (native.EVENT_REFUSED, 44, "queue"),
        (native.EVENT_REFUSED, 45, "gone"),
    ]
    refused = 0
    for number in range(1, 60):
        other = connect(server, bytes([number]), source=number)
        assert server.server.send(other, b"z" * 100)
        server.step()
        refused += sum(event[0] == native.EVENT_REFUSED for event in server.take())
    assert refused == 59 - (5_000 - 99) // 100
    assert server.server.counters()["busy_bytes"] <= 5_000
    server.close()


def test_past_the_bound_of_memory_a_pdu_is_left_to_be_sent_again() -> None:
    server = Stepped(Limits(max_sdu=4096), busy_bytes=70)
    assert server.server.expect(IDENTIFICATION, 5, 10_000)
    connect(server)
    assert len(server.step(pdu(ACK, 102, 0x0200, data=b"a" * 50))) == 1  # held: 101 is missing
    server.step(pdu(ACK, 103, 0x0200, data=b"b" * 50))
    server.step(pdu(ACK | 0x04, 101, 0x0200, data=b"in parts"))  # needs 4096
    counters = server.server.counters()
    assert counters["busy_bytes"] <= 70
    assert said(server.take()) == []
    server.close()


def test_an_idle_link_holds_nothing_but_itself(stepped: Stepped) -> None:
    assert stepped.server.expect(IDENTIFICATION, 5, 10_000)
    link = connect(stepped)
    assert stepped.server.send(link, b"one")
    (out,) = stepped.step()
    assert stepped.server.counters()["busy"] == 1
    stepped.step(pdu(ACK, 101, parse_pdu(out).sequence))
    assert said(stepped.take()) == [("delivered", 1)]
    counters = stepped.server.counters()
    assert (counters["busy"], counters["busy_bytes"]) == (0, 0)


def test_links_that_end_give_back_all_they_held(stepped: Stepped) -> None:
    rng = random.Random(5)
    assert stepped.server.expect(IDENTIFICATION, 5, 1 << 29)
    before = stepped.server.link_bytes
    for turn in range(300):
        link = connect(stepped, source=turn, number=rng.randrange(60_000))
        for _ in range(rng.randrange(15)):
            stepped.server.send(link, rng.randbytes(rng.randint(1, 3000)))
        stepped.step()
        current = 101
        for _ in range(rng.randrange(6)):
            stepped.step(pdu(ACK | 0x04, current + rng.randrange(4), 0x0200, data=b"part", source=turn))
        if rng.random() < 0.5:
            stepped.server.abort(link, Reason.TEMPORARY)
        stepped.step(now_ms=stepped.now_ms + 20_000)
    for _ in range(40):
        stepped.step(now_ms=stepped.now_ms + 70_000)
    counters = stepped.server.counters()
    assert (counters["open"], counters["busy"], counters["busy_bytes"]) == (0, 0, 0)
    assert counters["opened"] == 300 == sum(value for name, value in counters.items() if name.startswith("closed:"))
    assert stepped.server.link_bytes - before <= 2 * 1024 * (native.LINK_BYTES + native.EXPECTED_BYTES)


def test_a_link_and_its_share_of_every_table_is_small() -> None:
    links = 20_000
    server = Stepped(max_links=links, max_half_open=links, max_expected=links, first=0)
    for number in range(links):
        identification = number.to_bytes(16, "big")
        assert server.server.expect(identification, number, 1 << 29)
        if number % 500 == 499:
            server.step()
    for number in range(links):
        address = ADDRESS[:12] + number.to_bytes(4, "big")
        identification = number.to_bytes(16, "big")
        out = server.server.step([(opening(1, identification), address, 9), (pdu(ACK, 2, 0), address, 9)], 1)
        assert len(out) == 1
    counters = server.server.counters()
    assert (counters["open"], counters["busy"]) == (links, 0)
    assert server.server.link_bytes / links <= 192
    server.close()


def test_limits_out_of_range_are_named() -> None:
    for name, value in (
        ("max_pdu", 18), ("window", 119), ("flight", 0), ("retries", 0), ("keep_alive_ms", 1 << 31), ("max_links", 0),
        ("amplification", 0), ("rto_least_ms", 70_000),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            Stepped(**{name: value})


def test_commands_out_of_range_are_refused_at_once(stepped: Stepped) -> None:
    for identification in (b"", b"x" * 17):
        with pytest.raises(ValueError, match="1 to 16"):
            stepped.server.expect(identification, 1, 1000)
        with pytest.raises(ValueError, match="1 to 16"):
            stepped.server.forget(identification)
    with pytest.raises(ValueError, match="valid_ms"):
        stepped.server.expect(b"x", 1, 0)
    with pytest.raises(ValueError, match="65535"):
        stepped.server.send(1, b"x" * 65_536)
    with pytest.raises(ValueError, match="step"):
        stepped.server.run()


# --- garbage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_any_bytes_are_counted_and_do_no_harm(seed: int) -> None:
    rng = random.Random(seed)
    server = Stepped(max_half_open=8, max_links=40, max_expected=10)
    good = [
        SYN_VECTOR, SYN_ACK_VECTOR, ACK_VECTOR, opening(5), pdu(ACK, 6, 0x0200, data=b"data"),
        pdu(ACK | NUL, 7, 0x0200), pdu(RST, 8, 0),
        build_pdu(Pdu(ACK | 0x20, CARD_PORT, PORT, 9, 0x0200, 5, b"x", eacks=(1, 2, 3))),
    ]  # fmt: skip
    count = 0
    for number in range(8):
        assert server.server.expect(bytes([number]), number, 60_000)
        connect(server, bytes([number]), source=number)
        count += 2
    came = 0
    for _ in range(3000):
        what = rng.random()
        data = bytearray(rng.choice(good) if what < 0.8 else rng.randbytes(rng.randrange(80)))
        if what < 0.6 and data:
            for _ in range(rng.randint(1, 3)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            if what < 0.5 and len(data) >= 18:  # with a checksum that is right again, odd fields get further
                data[16:18] = b"\0\0"
                total = int.from_bytes(bytes(data) + b"\0" * (len(data) & 1), "big")
                data[16:18] = (0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))).to_bytes(2, "big")
        out = server.step(bytes(data), now_ms=server.now_ms + rng.randrange(30), port=rng.choice((40_001, 40_001, 7)))
        for answer in out:
            parse_pdu(answer)  # whatever it is, it is a right PDU
        came += 1
    assert add_up(server.server.counters()) == came + count
    assert server.server.counters()["malformed"] > 100
    server.close()


def test_a_card_of_a_server_that_was_killed_learns_of_it_with_its_next_sdu() -> None:
    server = Stepped()
    assert server.server.expect(IDENTIFICATION, 5, 10_000)
    peer = card(5)
    for data in outputs_of(peer.connect(0))[0]:
        for answer in server.step(data):
            for ack in outputs_of(peer.handle(answer, 1))[0]:
                server.step(ack)
    assert peer.state is State.OPEN
    after = Stepped(seed=2)
    (data,) = outputs_of(peer.send(b"is anybody there", 10))[0]
    (answer,) = after.step(data)
    assert outputs_of(peer.handle(answer, 11))[1] == [("closed", "peer", Reason.UNEXPECTED_PDU, 1)]
    assert after.server.expect(IDENTIFICATION, 6, 10_000)
    connect(after)
    server.close()
    after.close()


def test_a_card_that_says_it_takes_more_than_a_datagram_holds_gets_what_one_holds() -> None:
    server = Stepped(Limits(max_pdu=65_507, max_sdu=65_535, queued_bytes=1 << 20), mailbox_bytes=1)
    assert server.server.expect(IDENTIFICATION, 5, 10_000)
    peer = card(5, Limits(max_pdu=65_507, max_sdu=65_535))
    (call,) = outputs_of(peer.connect(0))[0]
    larger = parse_pdu(call)
    call = build_pdu(dataclasses.replace(larger, opening=Opening(65_535, 65_535, IDENTIFICATION)))
    (answer,) = server.step(call)
    for ack in outputs_of(peer.handle(answer, 1))[0]:
        server.step(ack)
    sdu = bytes(range(256)) * 255
    ((_kind, link, *_rest),) = server.take()
    assert server.server.send(link, sdu)
    parts = server.step()
    assert [len(part) for part in parts] == [65_280 + 18]
    assert outputs_of(peer.handle(parts[0], 2))[1] == [("received", sdu)]
    assert server.server.send(link, sdu + bytes(255))
    parts = server.step()
    assert [len(part) for part in parts] == [65_507, 18 + 65_535 - 65_489]
    assert outputs_of(peer.handle(parts[0], 3))[1] == []
    assert outputs_of(peer.handle(parts[1], 4))[1] == [("received", sdu + bytes(255))]
    server.close()


def test_a_card_that_reports_the_oldest_and_never_acknowledges_it_is_given_up() -> None:
    made = Stepped(Limits(retries=3, rto_first_ms=50, rto_least_ms=20, rto_most_ms=100, idle_ms=0), first=0x0200)
    assert made.server.expect(IDENTIFICATION, 5, 1000)
    made.step(opening(1))
    made.step(pdu(ACK, 2, 0x0200))
    (opened,) = made.take()
    assert made.server.send(opened[1], b"never")
    made.step()
    reported = Pdu(ACK | EACK, CARD_PORT, PORT, 2, 0x0200, 10, eacks=(0x0201,))
    made.step(build_pdu(reported), now_ms=10)
    for now_ms in range(20, 2_000, 10):
        made.step(now_ms=now_ms)
    assert said(made.take()) == [("closed", "retries", Reason.RETRIES, 1)]
    assert made.server.counters()["busy_bytes"] == 0
    made.close()
