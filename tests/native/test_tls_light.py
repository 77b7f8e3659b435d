"""TLS 1.3 links after their handshake, whose records are ours: everything a peer can do to them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from reactor_rig import Rig
from record_client import ALERT, DATA, HANDSHAKE, RecordClient

from gateway._native import reactor as native
from gateway._native.tls_context import TlsContext
from gateway.client.link import ALPN
from gateway.model.frames import FrameType, build_frame
from gateway.notifiers.local_tls import Authority

CA = Authority()
SERVER = CA.issue("localhost")
HELLO = build_frame(FrameType.HELLO, {"v": 1})
WELCOME = build_frame(FrameType.WELCOME, {"v": 1})
PING, PONG = build_frame(FrameType.PING), build_frame(FrameType.PONG)
UPDATE, UPDATE_BOTH = b"\x18\x00\x00\x01\x00", b"\x18\x00\x00\x01\x01"


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig(tls=TlsContext(*SERVER.encode()), linger_ms=50, outbox_bytes=1 << 22) as rig:
        yield rig


@pytest.fixture
def client(rig: Rig, tmp_path: Path) -> Iterator[RecordClient]:
    client = RecordClient(rig.tls_port, CA.client_context(alpn=[ALPN]), tmp_path)
    yield client
    client.close()


def welcome(rig: Rig) -> int:
    link = int(rig.event(native.EVENT_FRAME)[1])
    rig.reactor.welcome(link, 7, 60_000, 32, WELCOME)
    return link


def login(rig: Rig, client: RecordClient) -> int:
    client.finish()
    client.send(HELLO)
    link = welcome(rig)
    assert client.receive() == (DATA, WELCOME)
    return link


def ends(rig: Rig, client: RecordClient, alert: int) -> None:
    """The gateway says this alert, fatal, and the link is over for a broken record."""
    assert client.receive() == (ALERT, bytes((2, alert)))
    assert rig.event(native.EVENT_DOWN)
    counters = rig.reactor.counters()
    assert (counters["tls:record"], counters["ended:tls"]) == (1, 1)
    with pytest.raises(EOFError):
        client.receive()


def test_a_link_is_light_after_the_handshake(rig: Rig, client: RecordClient) -> None:
    """What is sealed by hand is understood, what the gateway seals too; an SSL would have said the same."""
    login(rig, client)
    client.send(PING)
    assert client.receive() == (DATA, PONG)


def test_what_follows_the_handshake_in_its_segment_is_read(rig: Rig, client: RecordClient) -> None:
    client.finish(client.out.seal(DATA, HELLO) + client.out.seal(DATA, PING))
    welcome(rig)
    assert client.receive() == (DATA, WELCOME + PONG)  # of one turn, so of one record


def test_records_cut_at_every_byte(rig: Rig, client: RecordClient) -> None:
    login(rig, client)
    for byte in client.out.seal(DATA, PING) + client.out.seal(DATA, b"") + client.out.seal(DATA, PING):
        client.sock.sendall(bytes((byte,)))
    assert client.receive()[1] == PONG
    assert rig.reactor.counters()["heartbeats"] >= 1


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 21, 22, 23, 3000, 16_405])
def test_large_records_in_two_parts(rig: Rig, client: RecordClient, cut: int) -> None:
    login(rig, client)
    body = build_frame(FrameType.STATE, {"pad": "x" * 16_000})
    body += build_frame(FrameType.STATE, {"pad": "y" * (16_384 - len(body) - 11)})
    assert len(body) == 16_384
    wire = client.out.seal(DATA, body) * 1 + client.out.seal(DATA, PING)
    client.sock.sendall(wire[:cut])
    rig.reactor.echo(1)  # some turn of the loop, so that the parts are seen apart
    client.sock.sendall(wire[cut:])
    assert client.receive() == (DATA, PONG)
    assert [rig.event(native.EVENT_FRAME)[2] for _ in range(2)] == [FrameType.STATE] * 2


def test_many_records_in_one_segment_come_in_order(rig: Rig, client: RecordClient) -> None:
    login(rig, client)
    frames = [build_frame(FrameType.STATE, {"req": i, "pad": "z" * (i * 7)}) for i in range(300)]
    stream = b"".join(frames)
    wire, at = b"", 0
    while at < len(stream):
        size = 1 + at % 977
        wire += client.out.seal(DATA, stream[at : at + size])
        at += size
    client.sock.sendall(wire)
    got = [rig.event(native.EVENT_FRAME)[3] for _ in frames]
    assert all(frame.endswith(body) for frame, body in zip(frames, got, strict=True))


def test_padding_is_dropped(rig: Rig, client: RecordClient) -> None:
    client.finish()
    inner = HELLO + bytes((DATA,)) + b"\0" * (16_384 - len(HELLO))
    head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
    client.sock.sendall(head + AESGCM(client.out.key).encrypt(client.out.iv, inner, head))
    welcome(rig)
    assert client.receive() == (DATA, WELCOME)
    # section 5.4: content, type and padding together are one byte more than a record's content at most
    inner = PING + bytes((DATA,)) + b"\0" * 16_384
    head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
    nonce = client.out.iv[:-1] + bytes((client.out.iv[-1] ^ 1,))
    client.sock.sendall(head + AESGCM(client.out.key).encrypt(nonce, inner, head))
    ends(rig, client, 22)


def test_key_updates_are_followed(rig: Rig, client: RecordClient) -> None:
    """RFC 8446 section 4.6.3; the second kind asks for one of ours before our next record, and twenty for one."""
    login(rig, client)
    for _ in range(3):
        client.send(UPDATE, HANDSHAKE)
        client.out.update()
        client.send(PING)
        assert client.receive() == (DATA, PONG)
    for _ in range(20):
        client.send(UPDATE_BOTH, HANDSHAKE)
        client.out.update()
    client.send(PING)
    assert client.receive() == (HANDSHAKE, UPDATE)
    client.incoming.update()
    assert client.receive() == (DATA, PONG)
    client.send(PING)
    assert client.receive() == (DATA, PONG)


def test_a_flood_of_key_updates_is_cut(rig: Rig, client: RecordClient) -> None:
    login(rig, client)
    flood = b""
    for _ in range(300):
        flood += client.out.seal(HANDSHAKE, UPDATE)
        client.out.update()
    client.sock.sendall(flood)
    ends(rig, client, 10)


@pytest.mark.parametrize(
    ("kind", "content", "alert"),
    [
        (HANDSHAKE, b"\x01\x00\x00\x00", 10),  # ClientHello: no renegotiation in 1.3
        (HANDSHAKE, b"\x18\x00\x00\x01\x02", 10),
        (HANDSHAKE, b"\x18\x00\x00\x01", 10),
        (HANDSHAKE, UPDATE + UPDATE, 10),  # the keys change in between
        (HANDSHAKE, b"", 10),
        (20, b"\x01", 10),  # change_cipher_spec belongs to the handshake
        (ALERT, b"\x02", 50),
        (ALERT, b"", 50),
        (99, b"x", 10),
    ],
)
def test_what_may_not_come_any_more(rig: Rig, client: RecordClient, kind: int, content: bytes, alert: int) -> None:
    login(rig, client)
    client.send(content, kind)
    ends(rig, client, alert)


@pytest.mark.parametrize(
    ("wire", "alert"),
    [
        (b"\x16\x03\x03\x00\x30" + b"\0" * 48, 10),
        (b"\x17\x03\x03\x00\x10" + b"\0" * 16, 20),
        (b"\x17\x03\x03\x00\x11" + b"\0" * 17, 20),
        (b"\x17\x03\x03\x41\x01", 22),
        (b"\x17\x03\x03\xff\xff" + b"\0" * 100, 22),
        (b"\x80", 10),
    ],
)
def test_what_is_no_record(rig: Rig, client: RecordClient, wire: bytes, alert: int) -> None:
    login(rig, client)
    client.sock.sendall(wire)
    ends(rig, client, alert)


def test_a_header_that_is_wrong_in_its_last_byte(rig: Rig, client: RecordClient) -> None:
    login(rig, client)
    for byte in b"\x17\x03\x03\xff\xff":
        client.sock.sendall(bytes((byte,)))
    ends(rig, client, 22)


def test_a_record_that_was_sent_before_is_not_taken_again(rig: Rig, client: RecordClient) -> None:
    login(rig, client)
    wire = client.out.seal(DATA, PING)
    client.sock.sendall(wire)
    assert client.receive() == (DATA, PONG)
    client.sock.sendall(wire)
    ends(rig, client, 20)


def test_close_notify_is_answered_and_what_came_before_it_counts(rig: Rig, client: RecordClient) -> None:
    link = login(rig, client)
    last = client.out.seal(DATA, build_frame(FrameType.STATE, {"req": 5}))
    client.sock.sendall(last + client.out.seal(ALERT, b"\x01\x00"))
    assert rig.event(native.EVENT_FRAME)[2] == FrameType.STATE
    assert rig.event(native.EVENT_DOWN)[1] == link
    assert client.receive() == (ALERT, b"\x01\x00")
    assert rig.reactor.counters()["ended:peer"] == 1


def test_an_alert_of_the_peer_ends_the_link_without_an_answer(rig: Rig, client: RecordClient) -> None:
    login(rig, client)
    client.send(b"\x01\x5a", ALERT)  # user_canceled means nothing by itself
    client.send(PING)
    assert client.receive() == (DATA, PONG)
    client.send(b"\x02\x32", ALERT)
    assert rig.event(native.EVENT_DOWN)
    with pytest.raises((EOFError, ConnectionResetError)):
        client.receive()


def test_an_orderly_end_has_last_words_and_close_notify(rig: Rig, client: RecordClient) -> None:
    link = login(rig, client)
    goaway = build_frame(FrameType.GOAWAY, {"code": 1})
    rig.reactor.close(link, goaway)
    assert client.receive() == (DATA, goaway)
    assert client.receive() == (ALERT, b"\x01\x00")
    with pytest.raises(EOFError):
        client.receive()


def test_frames_of_one_turn_share_records(rig: Rig, tmp_path: Path) -> None:
    """A link that can not be written to for a while gets what waited in full records."""
    context = CA.client_context(alpn=[ALPN])
    client = RecordClient(rig.tls_port, context, tmp_path, receive_buffer=4_096)
    link = login(rig, client)
    frame = build_frame(FrameType.NOTIFY, {"text": "x" * 400})
    many = 20_000  # more than the kernel takes for it, however slow we are
    for _ in range(many):
        while not rig.reactor.send(link, frame):
            rig.pump(0.01)
    total, sizes = 0, []
    while total < many * len(frame):
        _, content = client.receive()
        total += len(content)
        sizes.append(len(content))
    assert max(sizes) == 16_384
    assert sum(sizes) / len(sizes) > 200
    client.close()


def test_a_tiny_window_holds_records_back_and_nothing_is_lost(rig: Rig, tmp_path: Path) -> None:
    client = RecordClient(rig.tls_port, CA.client_context(alpn=[ALPN]), tmp_path, receive_buffer=4096)
    link = login(rig, client)
    stream = b""
    for i in range(250):
        frame = build_frame(FrameType.NOTIFY, {"id": i, "data": os.urandom(20_000)})
        stream += frame
        rig.reactor.send(link, frame)
    client.send(UPDATE_BOTH, HANDSHAKE)  # in the middle of it
    client.out.update()
    got = b""
    while len(got) < len(stream):
        kind, content = client.receive()
        if kind == HANDSHAKE:
            assert content == UPDATE
            client.incoming.update()
        else:
            got += content
    assert got == stream
    assert rig.reactor.counters()["stalled"] >= 1
    client.close()


def test_a_closed_link_that_was_stalled_gets_all_and_then_its_end(tmp_path: Path) -> None:
    with Rig(tls=TlsContext(*SERVER.encode()), linger_ms=5000, outbox_bytes=1 << 22) as patient:
        client = RecordClient(patient.tls_port, CA.client_context(alpn=[ALPN]), tmp_path, receive_buffer=4096)
        link = login(patient, client)
        big = build_frame(FrameType.NOTIFY, {"data": os.urandom(60_000)})
        for _ in range(40):
            patient.reactor.send(link, big)
        patient.reactor.close(link, PONG)
        got = b""
        while True:
            kind, content = client.receive()
            if kind == ALERT:
                assert content == b"\x01\x00"
                break
            got += content
        assert got == big * 40 + PONG
        client.close()


@settings(max_examples=80)
@given(
    parts=st.lists(
        st.one_of(
            st.tuples(st.just(DATA), st.binary(max_size=60)),
            st.tuples(st.sampled_from([ALERT, HANDSHAKE, 20, 0]), st.binary(max_size=8)),
            st.tuples(st.just(-1), st.binary(max_size=60)),
        ),
        max_size=6,
    ),
    cut=st.integers(1, 50),
)
def test_any_records_only_end_their_link(parts: list[tuple[int, bytes]], cut: int) -> None:
    rig, folder = shared_rig()
    client = RecordClient(rig.tls_port, CA.client_context(alpn=[ALPN]), folder)
    client.finish()
    wire = b"".join(content if kind < 0 else client.out.seal(kind, content) for kind, content in parts)
    try:
        for at in range(0, len(wire), cut):
            client.sock.sendall(wire[at : at + cut])
        client.sock.shutdown(socket.SHUT_WR)
        while client.sock.recv(4096):
            pass
    except OSError:
        pass
    client.close()
    for _ in range(2000):
        if rig.reactor.counters()["links"] == 0:
            return
        rig.pump(0.005)
    raise AssertionError("the link never ended")


_SHARED: list[Any] = []


def shared_rig() -> tuple[Rig, Path]:
    if not _SHARED:
        import tempfile

        folder = tempfile.TemporaryDirectory()
        _SHARED.extend((Rig(tls=TlsContext(*SERVER.encode()), linger_ms=20, max_links=100_000), folder))
    return _SHARED[0], Path(_SHARED[1].name)


@pytest.fixture(scope="module", autouse=True)
def _close_shared_rig() -> Iterator[None]:
    yield
    if _SHARED:
        _SHARED[0].__exit__()
        _SHARED[1].cleanup()
        _SHARED.clear()
