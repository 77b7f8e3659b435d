"""TLS inside a reactor: real clients of Python's ssl module, no control plane."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reactor_rig import Peer, Rig

from gateway._native import reactor as native
from gateway._native.tls import TLS_FAILURES
from gateway._native.tls_context import TlsContext
from gateway.client.link import ALPN
from gateway.model.frames import FrameType, build_frame
from gateway.notifiers.local_tls import Authority, Issued

NOTICE = build_frame(FrameType.NOTIFY, {"id": 1})
CA = Authority()
SERVER = CA.issue("localhost", "127.0.0.1")


def context(issued: Issued = SERVER, **options: Any) -> TlsContext:
    return TlsContext(*issued.encode(), **options)


def device_context(mine: Issued | None = None) -> ssl.SSLContext:
    """What a device connects with."""
    return CA.client_context(mine, alpn=[ALPN])


@contextlib.contextmanager
def tls_rig(tls: TlsContext | None = None, **options: Any) -> Iterator[Rig]:
    with Rig(tls=tls or context(), **options) as rig:
        yield rig


def failures(rig: Rig) -> dict[str, int]:
    """Those that happened."""
    return {name.removeprefix("tls:"): n for name, n in rig.reactor.counters().items() if name.startswith("tls:") and n}


def until(rig: Rig, found: Any) -> None:
    """Wait for what only counters tell: the reactor answers commands of another link meanwhile."""
    for _ in range(2000):
        if found():
            return
        rig.pump(0.005)
    raise AssertionError(f"not so: {rig.reactor.counters()}")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_device_logs_in_and_is_notified(version: ssl.TLSVersion) -> None:
    mine = device_context()
    mine.minimum_version = mine.maximum_version = version
    with tls_rig() as rig:
        peer, link = rig.login(tls=mine)
        assert peer.sock.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert peer.sock.selected_alpn_protocol() == ALPN
        peer.send(FrameType.PING)
        assert peer.receive() == (FrameType.PONG, b"")
        rig.reactor.notify(link, NOTICE, 1, 5, 10_000)
        assert peer.receive()[0] == FrameType.NOTIFY
        peer.send(FrameType.ACK, [1])
        assert rig.ack()[0] == 1
        counters = rig.reactor.counters()
        assert (counters["tls_links"], counters["tls_full"], failures(rig)) == (1, 1, {})


def test_plain_and_tls_links_live_side_by_side_and_a_link_does_not_grow() -> None:
    assert native.LINK_BYTES == 112
    with tls_rig() as rig:
        plain, first = rig.login(1)
        secure, second = rig.login(2, tls=device_context())
        for peer, link in ((plain, first), (secure, second)):
            rig.reactor.send(link, NOTICE)
            assert peer.receive()[0] == FrameType.NOTIFY
        assert (rig.reactor.counters()["links"], rig.reactor.counters()["tls_links"]) == (2, 1)


def test_a_client_that_sends_byte_by_byte_gets_through() -> None:
    """The client is run by hand over memory buffers, so that each byte leaves by itself."""
    with tls_rig() as rig:
        raw = socket.create_connection(("127.0.0.1", rig.tls_port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = device_context().wrap_bio(incoming, outgoing, server_hostname="localhost")

        def pass_on() -> None:
            for byte in outgoing.read():
                raw.sendall(bytes((byte,)))

        def run(step: Any) -> Any:
            while True:
                try:
                    done = step()
                except ssl.SSLWantReadError:
                    pass_on()
                    incoming.write(raw.recv(65536))
                else:
                    pass_on()
                    return done

        raw.settimeout(10)
        run(client.do_handshake)
        client.write(build_frame(FrameType.HELLO, {"v": 1}))
        pass_on()
        link = rig.event(native.EVENT_FRAME)[1]
        rig.reactor.welcome(link, 7, 60_000, 32, build_frame(FrameType.WELCOME, {"v": 1}))
        assert run(lambda: client.read(1)) == bytes((FrameType.WELCOME,))
        raw.close()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not_tls"),
        (build_frame(FrameType.HELLO, {"v": 1}) + b"\0" * 64, "not_tls"),
        (os.urandom(3) + b"\xff" * 400, "not_tls"),
        (b"\x16\x03\x01\x00\x04\x01\x00\xff\xff" + b"\0" * 64, None),
    ],
)
def test_what_is_no_handshake_is_counted_and_closed(sent: bytes, reason: str | None) -> None:
    with tls_rig() as rig:
        raw = socket.create_connection(("127.0.0.1", rig.tls_port), timeout=10)
        raw.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(4096):
                pass
        raw.close()
        until(rig, lambda: rig.reactor.counters()["links"] == 0)
        assert sum(failures(rig).values()) == 1
        assert reason is None or failures(rig) == {reason: 1}
        assert rig.reactor.counters()["ended:tls"] == 1
        assert rig.events == []


def test_a_handshake_that_is_never_finished_ends_at_the_login_deadline() -> None:
    with tls_rig(login_ms=150, linger_ms=50) as rig:
        silent = socket.create_connection(("127.0.0.1", rig.tls_port), timeout=10)
        slow = socket.create_connection(("127.0.0.1", rig.tls_port), timeout=10)
        slow.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        assert silent.recv(1) == b""
        assert slow.recv(1) == b""
        silent.close()
        slow.close()
        until(rig, lambda: rig.reactor.counters()["links"] == 0)
        assert failures(rig) == {"timeout": 2}


def test_after_the_handshake_the_login_deadline_still_counts() -> None:
    with tls_rig(login_ms=300) as rig:
        peer = rig.connect(tls=device_context())
        kind, body = peer.receive()
        assert (kind, b"login_timeout" in body) == (FrameType.GOAWAY, True)
        assert peer.receive() is None
        assert rig.reactor.counters()["ended:login_timeout"] == 1


def test_an_endless_handshake_message_is_cut() -> None:
    with tls_rig() as rig:
        raw = socket.create_connection(("127.0.0.1", rig.tls_port), timeout=10)
        # A ClientHello of 120,000 bytes in records of 16,000, which OpenSSL by itself would take.
        hello = b"\x01" + (120_000).to_bytes(3, "big") + b"\x03\x03" + b"\0" * 119_998
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(hello), 16_000):
                part = hello[at : at + 16_000]
                raw.sendall(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part)
            while raw.recv(4096):
                pass
        raw.close()
        until(rig, lambda: rig.reactor.counters()["links"] == 0)
        assert failures(rig) == {"too_large": 1}


def test_more_handshakes_at_once_than_may_be_are_closed_and_places_come_back() -> None:
    with tls_rig(handshakes=2, linger_ms=20) as rig:
        rig.login(1, tls=device_context())
        begun = [socket.create_connection(("127.0.0.1", rig.tls_port), timeout=10) for _ in range(2)]
        for raw in begun:
            raw.sendall(b"\x16\x03\x01")
        silent = socket.create_connection(("127.0.0.1", rig.tls_port), timeout=10)  # costs none
        until(rig, lambda: rig.reactor.counters()["links"] == 4)
        late = socket.create_connection(("127.0.0.1", rig.tls_port), timeout=10)
        late.sendall(b"\x16\x03\x01")
        assert late.recv(1) == b""
        assert failures(rig) == {"busy": 1}
        for raw in (*begun, silent, late):
            raw.close()
        until(rig, lambda: rig.reactor.counters()["links"] == 1)
        rig.login(2, tls=device_context())


def test_a_client_that_leaves_in_the_handshake_is_counted() -> None:
    with tls_rig() as rig:
        raw = socket.create_connection(("127.0.0.1", rig.tls_port), timeout=10)
        raw.sendall(b"\x16\x03\x01")
        raw.shutdown(socket.SHUT_WR)
        assert raw.recv(1) == b""
        until(rig, lambda: rig.reactor.counters()["links"] == 0)
        assert failures(rig) == {"closed": 1}
        raw.close()


def test_tls_1_1_is_refused() -> None:
    mine = device_context()
    mine.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        mine.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        mine.maximum_version = ssl.TLSVersion.TLSv1_1
    with tls_rig() as rig:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            rig.connect(tls=mine)
        until(rig, lambda: failures(rig) == {"version": 1})


def test_tls_1_2_is_refused_where_1_3_is_the_least() -> None:
    mine = device_context()
    mine.maximum_version = ssl.TLSVersion.TLSv1_2
    with tls_rig(context(min_version="1.3")) as rig:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            rig.connect(tls=mine)
        until(rig, lambda: failures(rig) == {"version": 1})


def test_alpn_is_optional_and_other_protocols_are_refused() -> None:
    none = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    none.load_verify_locations(cadata=CA.pem)
    http = device_context()
    http.set_alpn_protocols(["h2", "http/1.1"])
    both = device_context()
    both.set_alpn_protocols(["h2", ALPN])
    with tls_rig() as rig:
        assert rig.login(1, tls=none)[0].sock.selected_alpn_protocol() is None
        assert rig.login(2, tls=both)[0].sock.selected_alpn_protocol() == ALPN
        with pytest.raises(ssl.SSLError, match=r"(?i)application protocol"):
            rig.connect(tls=http)
        until(rig, lambda: failures(rig) == {"alpn": 1})


def test_the_name_asked_for_selects_the_certificate() -> None:
    names = [
        (host, *CA.issue(alternative).encode())
        for host, alternative in (
            ("push.example.org", "push.example.org"),
            ("*.devices.example.org", "*.devices.example.org"),
        )
    ]
    with tls_rig(context(names=names)) as rig:

        def names_of(host: str) -> set[str]:
            mine = device_context()
            mine.check_hostname = False
            peer = rig.connect(tls=mine, host=host)
            return {value for _, value in peer.sock.getpeercert()["subjectAltName"]}

        assert names_of("push.example.org") == {"push.example.org"}
        assert names_of("PUSH.example.ORG") == {"push.example.org"}
        assert names_of("a.devices.example.org") == {"*.devices.example.org"}
        assert names_of("a.b.devices.example.org") == {"localhost", "127.0.0.1"}
        assert names_of("elsewhere.example.org") == {"localhost", "127.0.0.1"}
        assert rig.login(1, tls=device_context(), host="push.example.org")[0].sock.version() == "TLSv1.3"


def test_new_handshakes_get_the_new_certificate_and_live_links_go_on() -> None:
    later = CA.issue("localhost", name="the second")
    with tls_rig() as rig:
        before, link = rig.login(1, tls=device_context())
        assert rig.reactor.use_tls(context(later))
        rig.reactor.send(link, NOTICE)
        assert before.receive()[0] == FrameType.NOTIFY
        after, _ = rig.login(2, tls=device_context())
        subject = dict(part[0] for part in after.sock.getpeercert()["subject"])
        assert subject["commonName"] == "the second"
        before.send(FrameType.PING)
        assert before.receive()[0] == FrameType.PONG


def test_a_context_that_was_never_taken_out_of_the_mailbox_is_given_back() -> None:
    rig = Rig(tls=context())
    rig.reactor.stop()
    while rig.thread.is_alive():
        rig.thread.join(0.05)
    assert rig.reactor.use_tls(context())
    rig.__exit__()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_required_client_certificate(version: ssl.TLSVersion) -> None:
    other = Authority("somebody else")
    with tls_rig(context(client_ca=CA.pem.encode(), client_auth="required")) as rig:
        known = device_context(CA.issue(name="device"))
        known.maximum_version = version
        rig.login(1, tls=known)
        foreign = device_context(other.issue(name="device"))
        foreign.maximum_version = version
        nobody = device_context()
        nobody.maximum_version = version
        for mine, reason in ((nobody, "no_certificate"), (foreign, "certificate")):
            # with 1.3 the client is done before the gateway has looked at its certificate
            with contextlib.suppress(OSError):
                peer = rig.connect(tls=mine)
                peer.send(FrameType.HELLO, {"v": 1})
                peer.receive()
            until(rig, lambda reason=reason: failures(rig).get(reason) == 1)
        assert [event for event in rig.events if event[0] == native.EVENT_FRAME] == []


def test_an_optional_client_certificate() -> None:
    with tls_rig(context(client_ca=CA.pem.encode(), client_auth="optional")) as rig:
        rig.login(1, tls=device_context(CA.issue(name="device")))
        rig.login(2, tls=device_context())
        with contextlib.suppress(OSError):
            rig.connect(tls=device_context(Authority().issue(name="device"))).receive()
        until(rig, lambda: failures(rig) == {"certificate": 1})


def test_a_ticket_of_one_reactor_is_taken_by_another() -> None:
    shared = context()
    mine = device_context()
    with tls_rig(shared) as one, tls_rig(shared, index=1) as two:
        peer, _ = one.login(1, tls=mine)
        session = peer.sock.session
        raw = socket.create_connection(("127.0.0.1", two.tls_port), timeout=10)
        with mine.wrap_socket(raw, server_hostname="localhost", session=session) as again:
            assert again.session_reused
            again.sendall(build_frame(FrameType.HELLO, {"v": 1}))
            two.event(native.EVENT_FRAME)
            assert two.reactor.counters()["tls_resumed"] == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_large_frames_both_ways_through_a_tiny_window(version: ssl.TLSVersion) -> None:
    mine = device_context()
    mine.minimum_version = mine.maximum_version = version
    text = os.urandom(30_000).hex()
    with tls_rig(outbox_bytes=1 << 22) as rig:
        peer, link = rig.login(tls=mine, receive_buffer=2048)
        for i in range(40):
            rig.reactor.send(link, build_frame(FrameType.NOTIFY, {"id": i, "text": text}))
        until(rig, lambda: rig.reactor.counters()["stalled"] >= 1)
        for i in range(20):  # while its own reading stands still
            peer.send(FrameType.STATE, {"req": i, "pad": text})
        for _ in range(20):
            assert rig.event(native.EVENT_FRAME)[3].endswith(text.encode())
        for i in range(40):
            kind, body = peer.receive()
            assert (kind, body) == (FrameType.NOTIFY, build_frame(FrameType.NOTIFY, {"id": i, "text": text})[4:])
        assert rig.reactor.counters()["bytes_out"] > 40 * 60_000
        peer.send(FrameType.PING)
        assert peer.receive()[0] == FrameType.PONG


def test_a_device_that_reads_nothing_is_cut_as_a_slow_consumer() -> None:
    with tls_rig(outbox_bytes=1 << 24, slow_ms=200, linger_ms=100) as rig:
        _, link = rig.login(tls=device_context(), receive_buffer=2048)
        big = build_frame(FrameType.NOTIFY, {"text": "x" * 60_000})
        for _ in range(100):
            rig.reactor.send(link, big)
        assert rig.event(native.EVENT_DOWN)[1] == link
        assert rig.reactor.counters()["ended:slow_consumer"] == 1
        until(rig, lambda: rig.reactor.counters()["tls_links"] == 0)


def test_last_words_and_close_notify_come_before_the_end() -> None:
    with tls_rig() as rig:
        peer, link = rig.login(tls=device_context())
        rig.reactor.close(link, build_frame(FrameType.GOAWAY, {"code": 1}))
        assert peer.receive()[0] == FrameType.GOAWAY
        # Python's ssl raises where the stream is cut without close_notify
        assert peer.sock.recv(1) == b""
        assert peer.sock.pending() == 0


def test_a_half_closed_device_is_gone() -> None:
    with tls_rig() as rig:
        peer, link = rig.login(tls=device_context())
        peer.sock.shutdown(socket.SHUT_WR)  # FIN without close_notify
        assert rig.event(native.EVENT_DOWN)[1] == link
        assert rig.reactor.counters()["ended:peer"] == 1
        peer, link = rig.login(tls=device_context())
        with contextlib.suppress(OSError):
            peer.sock.unwrap()  # close_notify
        assert rig.event(native.EVENT_DOWN)[1] == link
        assert rig.reactor.counters()["ended:peer"] == 2
        assert failures(rig) == {}


def test_a_reset_ends_the_link() -> None:
    with tls_rig() as rig:
        peer, link = rig.login(tls=device_context())
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sock.close()
        assert rig.event(native.EVENT_DOWN)[1] == link


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_broken_record_ends_the_link(version: ssl.TLSVersion) -> None:
    mine = device_context()
    mine.minimum_version = mine.maximum_version = version
    with tls_rig(linger_ms=50) as rig:
        peer, link = rig.login(tls=mine)
        raw = socket.socket(fileno=os.dup(peer.sock.fileno()))
        raw.sendall(b"\x17\x03\x03\x00\x40" + os.urandom(64))
        assert rig.event(native.EVENT_DOWN)[1] == link
        with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
            peer.sock.recv(1)
        assert failures(rig) == {"record": 1}
        raw.close()


def test_renegotiation_is_refused() -> None:
    """Python's ssl can not ask for one; the line `R` of `openssl s_client` does."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "the command openssl asks for renegotiation here: install it (Debian: openssl)"
    with tls_rig() as rig:
        command = [openssl, "s_client", "-connect", f"127.0.0.1:{rig.tls_port}", "-tls1_2", "-legacy_renegotiation"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        until(rig, lambda: rig.reactor.counters()["tls_full"] == 1)
        said, _ = child.communicate(b"R\n", timeout=20)
        assert b"RENEGOTIATING" in said
        assert b"no renegotiation" in said.lower() or child.returncode != 0
        assert rig.reactor.counters()["tls_full"] == 1


def test_many_links_come_and_go_and_their_places_are_used_again() -> None:
    mine = device_context()
    with tls_rig(linger_ms=20) as rig:
        for round_ in range(6):
            peers = [rig.login(100 * round_ + i, tls=mine)[0] for i in range(20)]
            for i, peer in enumerate(peers):
                peer.send(FrameType.PING)
                if i % 2:
                    assert peer.receive()[0] == FrameType.PONG
                peer.close()
            for _ in peers:
                rig.event(native.EVENT_DOWN)
        until(rig, lambda: rig.reactor.counters()["tls_links"] == 0)
        assert rig.reactor.memory_bytes < 4096 * 112 + 1024 * 400 + 100_000


def private_bytes() -> int:
    (line,) = [
        line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if line.startswith("Anonymous")
    ]
    return int(line.split()[1]) * 1024


def test_a_burst_of_handshakes_gives_its_memory_back() -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = device_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    with tls_rig(linger_ms=20) as rig:
        begun = [socket.create_connection(("127.0.0.1", rig.tls_port), timeout=10) for _ in range(600)]
        before = private_bytes()
        for raw in begun:
            raw.sendall(hello)
        for raw in begun:
            assert raw.recv(16)
        during = private_bytes()
        for raw in begun:
            raw.close()
        until(rig, lambda: rig.reactor.counters()["links"] == 0)
        if "GATEWAY_SANITIZER" not in os.environ:  # whose heap is another
            assert during - before > 600 * 6_000
            assert private_bytes() - before < (during - before) / 3
        rig.login(1, tls=device_context())


def test_a_reactor_is_stopped_with_links_in_every_state() -> None:
    with tls_rig() as rig:
        rig.login(1, tls=device_context())
        begun = socket.create_connection(("127.0.0.1", rig.tls_port))
        begun.sendall(b"\x16\x03\x01")
        silent = socket.create_connection(("127.0.0.1", rig.tls_port))
        until(rig, lambda: rig.reactor.counters()["links"] == 3)
    begun.close()
    silent.close()


def test_a_drain_reaches_tls_links_and_those_in_the_handshake() -> None:
    with tls_rig(linger_ms=50) as rig:
        peer, _ = rig.login(1, tls=device_context())
        begun = socket.create_connection(("127.0.0.1", rig.tls_port), timeout=10)
        begun.sendall(b"\x16\x03\x01")
        until(rig, lambda: rig.reactor.counters()["links"] == 2)
        rig.reactor.drain_links([build_frame(FrameType.GOAWAY, {"name": "draining"})], 10)
        assert peer.receive()[0] == FrameType.GOAWAY
        assert begun.recv(16) == b""  # nothing can be said in it
        begun.close()
        rig.event(native.EVENT_DRAINED)


@settings(max_examples=60)
@given(data=st.binary(max_size=600))
def test_any_bytes_on_the_tls_port_only_end_their_link(data: bytes) -> None:
    rig = shared_rig()
    before = sum(failures(rig).values())
    raw = socket.create_connection(("127.0.0.1", rig.tls_port), timeout=10)
    raw.sendall(data)
    raw.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionError):
        while raw.recv(4096):
            pass
    raw.close()
    until(rig, lambda: sum(failures(rig).values()) == before + 1)


_RIGS: list[Rig] = []


def shared_rig() -> Rig:
    if not _RIGS:
        _RIGS.append(Rig(tls=context(), linger_ms=20))
    return _RIGS[0]


@pytest.fixture(scope="module", autouse=True)
def _close_shared_rig() -> Iterator[None]:
    yield
    while _RIGS:
        _RIGS.pop().__exit__()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"chain": b""}, "needed"),
        ({"chain": b"not PEM"}, "certificate can not be used"),
        ({"key": b"not PEM"}, "key can not be read"),
        ({"key": CA.issue("localhost").encode()[1]}, "does not belong"),
        ({"client_auth": "required"}, "client CA"),
        ({"client_auth": "perhaps"}, "none, optional or required"),
        ({"min_version": "1.1"}, "1.2 or 1.3"),
        ({"names": [("x" * 300, *SERVER.encode())]}, "no host name"),
        ({"names": [("ok.example", SERVER.encode()[0], b"")]}, "needed"),
    ],
)
def test_what_openssl_does_not_take_is_said_in_words(broken: dict[str, Any], words: str) -> None:
    chain, key = SERVER.encode()
    arguments: dict[str, Any] = {"chain": chain, "key": key} | broken
    with pytest.raises(ValueError, match=words):
        TlsContext(arguments.pop("chain"), arguments.pop("key"), **arguments)


def test_every_failure_has_a_counter() -> None:
    with tls_rig() as rig:
        assert {f"tls:{name}" for name in TLS_FAILURES} <= set(rig.reactor.counters())
        assert isinstance(rig.connect(), Peer)
