"""Records between nodes in native loops: what they take, what they leave, and that any bytes are safe."""

from __future__ import annotations

import select
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactor_rig import Rig

from gateway._native.batches import Batches
from gateway._native.far_records import FarSink, HomeTable
from gateway._native.far_traffic import count_records, deliver, hear_acks
from gateway._native.intake import Batch, Router
from gateway._native.pending import Pending
from gateway._native.registry import Registry
from gateway.cluster.far_wire import HEAD_BYTES, Do, Told, attachment_of, build_head, build_record, parse_records
from gateway.model.cluster import far_link
from gateway.model.frames import FrameReader, FrameType, build_varint
from gateway.model.outcome import State
from gateway.model.registration import build_token

TOKEN, DEVICE, NODE = bytes(range(16)), 99, 3
NOW_MS = 1_800_000_000_000


def frame(text: bytes) -> bytes:
    return bytes((FrameType.NOTIFY,)) + build_varint(len(text)) + text


def message(*records: bytes) -> bytes:
    return build_head(5, 1) + b"".join(records)


class Node:
    """A device on a real reactor, its registration 77 of partition 5 with the local number 1."""

    def __init__(self, link: int) -> None:
        self.homes, self.registry = HomeTable(), Registry()
        self.homes.grow()
        assert self.homes.grow() == 1
        self.homes.set(1, 5, 77)
        self.registry.add(1, TOKEN, 0)
        self.registry.login(DEVICE, link)
        self.registry.bind(1, DEVICE)
        self.attachment = attachment_of(link)

    def notify(self, seq: int, text: bytes = b"\xc0", **fields: int) -> bytes:
        known = {"number": 77, "local": 1, "attachment": self.attachment, "a": 5_000}
        return build_record(Do.NOTIFY, seq=seq, payload=frame(text), **(known | fields))  # type: ignore[arg-type]


def test_notifications_reach_their_link_and_their_acks_are_collected_by_partition() -> None:
    with Rig() as rig:
        device, link = rig.login(DEVICE)
        node = Node(link)
        body = message(node.notify(41), node.notify(42))
        assert deliver(body, HEAD_BYTES, 5, node.homes, node.registry, [rig.reactor]) == len(body)
        assert [device.receive(), device.receive()] == [(FrameType.NOTIFY, b"\xc0")] * 2
        collected: list[tuple[int, bytes]] = []
        node.homes.news = collected.extend
        device.send(FrameType.ACK, [41, 42])
        while not collected:
            assert select.select([rig.up], [], [], 10)[0]
            acks, *_ = rig.reactor.drain(homes=node.homes)
            assert acks == []
    (partition, records), *rest = collected
    assert (partition, rest) == (5, [])
    told = parse_records(build_head(5, 1) + records)
    assert [(r.kind, r.number, r.local, r.attachment, r.seq) for r in told] == [
        (Told.ACK, 77, 1, node.attachment, 41),
        (Told.ACK, 77, 1, node.attachment, 42),
    ]


@pytest.mark.parametrize(
    "fields", [{"number": 78}, {"local": 0}, {"local": 9}, {"local": 0xFFFFFFFF}, {"attachment": 5}]
)
def test_what_is_meant_for_a_link_that_is_over_stays_where_it_is(fields: dict[str, int]) -> None:
    with Rig() as rig:
        _, link = rig.login(DEVICE)
        node = Node(link)
        good = node.notify(41)
        body = message(good, node.notify(42, **fields), node.notify(43))
        assert deliver(body, HEAD_BYTES, 5, node.homes, node.registry, [rig.reactor]) == HEAD_BYTES + len(good)
        assert deliver(body, HEAD_BYTES, 6, node.homes, node.registry, [rig.reactor]) == HEAD_BYTES
        assert deliver(body, HEAD_BYTES, 5, node.homes, node.registry, []) == HEAD_BYTES


class Owner:
    def __init__(self) -> None:
        self.registry, self.pending = Registry(), Pending(NOW_MS)
        self.batches = Batches(self.pending)
        self.registry.add(77, TOKEN, 0)
        self.registry.login(DEVICE, far_link(NODE, 1234))
        self.registry.bind(77, DEVICE)

    def hear(self, body: bytes, node: int = NODE) -> tuple[int, int, list[Any], list[Any]]:
        acks: list[tuple[int, int, int, int, bool, int]] = []
        runs: list[tuple[int, bytes, int]] = []
        at, stale = hear_acks(body, HEAD_BYTES, node, self.registry, self.batches, acks, runs)
        return at, stale, acks, runs


def ack(seq: int, *, shown: bool = False, number: int = 77, attachment: int = 1234) -> bytes:
    return build_record(Told.ACK, shown, number, 1, attachment, seq, NOW_MS, NOW_MS + 5)


def test_acks_go_to_batches_to_runs_or_to_be_looked_at_and_stale_ones_nowhere() -> None:
    owner = Owner()
    owner.pending.add(50, 77, 50, NOW_MS // 1000 + 60)
    rest = build_record(Told.LEFT, number=77)
    body = message(ack(50), ack(60), ack(60), ack(61, shown=True), ack(62, attachment=1), ack(63, number=78), rest)
    at, stale, acks, runs = owner.hear(body)
    assert at == len(body) - len(rest)
    assert stale == 2
    link = far_link(NODE, 1234)
    assert acks == [(50, 77, NOW_MS, NOW_MS + 5, False, link), (61, 77, NOW_MS, NOW_MS + 5, True, link)]
    assert runs == [(60, struct.pack("=II", 77, 77), NOW_MS + 5)]
    assert owner.hear(body, NODE + 1)[1:] == (6, [], [])


@given(st.binary(max_size=400), st.integers(0, 500))
def test_any_bytes_are_counted_and_walked_safely(body: bytes, at: int) -> None:
    owner = Owner()
    count = count_records(body, at)
    homes = HomeTable()
    homes.grow()
    if count >= 0:
        end, *_ = owner.hear(b"\0" * HEAD_BYTES + body[at:])
        assert HEAD_BYTES <= end <= HEAD_BYTES + len(body) - at
        assert at <= deliver(body, at, 0, homes, owner.registry, []) <= len(body)
    else:
        assert at <= deliver(body, at, 0, homes, owner.registry, []) <= max(at, len(body))


def test_a_table_refuses_numbers_that_it_has_not() -> None:
    table = HomeTable()
    for ask in (table.partition, table.number, lambda n: table.set(n, 1, 1)):
        with pytest.raises(IndexError):
            ask(0)


def test_a_sink_hands_over_what_it_collected_once() -> None:
    heard: list[object] = []
    sink = FarSink(lambda *news: heard.append(news))
    sink.flush(5)
    assert heard == []
    sink.set_local(5_000, 9)
    assert (sink.local(5_000), sink.local(1), sink.local(1 << 31)) == (9, 0, 0)


def test_a_batch_to_other_nodes_is_collected_by_node_with_the_frames_a_link_of_here_gets() -> None:
    registry, pending = Registry(), Pending(NOW_MS)
    batches = Batches(pending)
    tokens = [bytes([i]) * 16 for i in range(3)]
    for number, token in enumerate(tokens, 1):
        registry.add(number, token, 0)
        registry.set_plain(number, True)
        registry.login(number, far_link(number, 100 + number))
        registry.bind(number, number)
    registry.set_group_app(0, 1)
    heard: list[tuple[list[tuple[int, bytes]], bytes, bytes, int]] = []
    sink = FarSink(lambda *news: heard.append(news))
    for number in (1, 2, 3):
        sink.set_local(number, 10 + number)
    held = {far_link(3, 103)}
    pushes = [
        {"target": {"token": build_token(tokens[i % 3])}, "data": "x" * 3000, "title": str(i)} for i in range(300)
    ]
    limits = {"most": 1000, "push_bytes": 60_000, "inline_bytes": 4096, "pending_of_one": 1000}
    batch = Batch(registry, pending, batches, [msgspec.msgpack.encode(pushes)], 1, **limits, ttl_s=60, most_ttl_s=90)
    _, _, odd = batch.accept(1000, NOW_MS, 3_000, 9_000, True, Router([], held, {}, sink))
    assert odd == [1000 + i for i in range(300) if i % 3 == 2]
    [(piles, seqs, numbers, ack_ms)] = heard
    sent = [i for i in range(300) if i % 3 != 2]
    assert list(memoryview(seqs).cast("Q")) == [1000 + i for i in sent]
    assert list(memoryview(numbers).cast("I")) == [1 + i % 3 for i in sent]
    assert ack_ms == 3_000
    assert len(piles) > 2  # large ones come in parts
    for node in (1, 2):
        records = [r for at, part in piles if at == node for r in parse_records(message(part))]
        assert [(r.seq, r.number, r.local, r.attachment, r.a, r.flag) for r in records] == [
            (1000 + i, node, 10 + node, 100 + node, 3_000, 0) for i in sent if i % 3 == node - 1
        ]
        [(kind, body)] = FrameReader().feed(records[0].payload)
        assert kind == FrameType.NOTIFY
        assert msgspec.msgpack.decode(body)["title"] == str(node - 1)
    assert pending.get(1000) is not None
    assert pending.get(1000)[2] == State.SENT  # type: ignore[index]


def test_a_batch_for_a_node_that_gave_no_number_is_looked_at_one_by_one() -> None:
    registry, pending = Registry(), Pending(NOW_MS)
    registry.add(1, TOKEN, 0)
    registry.login(DEVICE, far_link(2, 5))
    registry.bind(1, DEVICE)
    registry.set_group_app(0, 1)
    limits = {"most": 10, "push_bytes": 60_000, "inline_bytes": 4096, "pending_of_one": 1000}
    packed = msgspec.msgpack.encode([{"target": {"token": build_token(TOKEN)}}])
    for first, sink in ((1, None), (2, FarSink(lambda *_: None))):
        batch = Batch(registry, pending, Batches(pending), [packed], 1, **limits, ttl_s=60, most_ttl_s=90)
        assert batch.accept(first, NOW_MS, 1, 1, True, Router([], set(), {}, sink))[2] == [first]
