"""PROXY protocol v2: the parser by itself, and in front of a link."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactor_rig import Rig

from gateway._native import reactor as native
from gateway._native.proxy import HEADER_BYTES_MAX, PROXY_FAILURES, is_trusted, parse
from gateway.model.frames import FrameType, build_frame

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = ip_address("192.0.2.7").packed + ip_address("198.51.100.1").packed + (51234).to_bytes(2, "big") + b"\x1c\xe8"
V6 = ip_address("2001:db8::7").packed + ip_address("2001:db8::1").packed + (51234).to_bytes(2, "big") + b"\x1c\xe8"
LOOPBACK = [(b"\0" * 10 + b"\xff\xff\x7f" + b"\0" * 3, 104)]
HELLO = build_frame(FrameType.HELLO, {"v": 1})


def header(body: bytes = V4, *, command: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    return SIGNATURE + bytes((command, family)) + (len(body) if length is None else length).to_bytes(2, "big") + body


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_crc32c_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720 appendix B.4's polynomial, the usual check value


MAPPED = b"\0" * 10 + b"\xff\xff" + ip_address("192.0.2.7").packed
GOOD = {
    "ipv4": (header(), "ipv4", MAPPED, 51234),
    "ipv6": (header(V6, family=0x21), "ipv6", ip_address("2001:db8::7").packed, 51234),
    "unix": (header(b"\0" * 216, family=0x31), "unix", b"\0" * 16, 0),
    "unspec": (header(b"", family=0), "unspec", b"\0" * 16, 0),
    "unspec with anything behind": (header(b"\xff" * 30, family=0), "unspec", b"\0" * 16, 0),
    "local": (header(b"", command=0x20, family=0), "local", b"\0" * 16, 0),
    "local, family ignored": (header(b"\xff" * 9, command=0x20, family=0x99), "local", b"\0" * 16, 0),
    "tlvs": (header(V4 + tlv(1, b"h2") + tlv(2, b"push.example.org") + tlv(4, b"")), "ipv4", MAPPED, 51234),
    "largest": (header(V4 + tlv(4, b"\0" * (HEADER_BYTES_MAX - 16 - 12 - 3))), "ipv4", MAPPED, 51234),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_header_cut_at_every_byte_is_the_same_header(name: str) -> None:
    data, kind, address, port = GOOD[name]
    for end in range(len(data)):
        assert parse(data[:end]) == (0, "", b"", 0)
    for behind in (b"", HELLO, b"\xff" * 600):
        assert parse(data + behind) == (len(data), kind, address, port)


def test_a_checksum_is_checked() -> None:
    empty = header(V4 + tlv(4, b"pad") + tlv(3, b"\0" * 4))
    signed = empty[:-4] + crc32c(empty).to_bytes(4, "big")
    assert parse(signed)[:2] == (len(signed), "ipv4")
    for at in (16, len(signed) - 1):
        bad = bytearray(signed)
        bad[at] ^= 1
        with pytest.raises(ValueError, match="tlv"):
            parse(bytes(bad))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 7400\r\n", "signature"),
        (HELLO, "signature"),
        (SIGNATURE[:-1] + b"\r", "signature"),
        (header(command=0x11), "version"),
        (header(command=0x31), "version"),
        (header(command=0x22), "command"),
        (header(family=0x12), "family"),
        (header(family=0x22), "family"),
        (header(family=0x41), "family"),
        (header(V4[:-1]), "too_short"),
        (header(V4, family=0x21), "too_short"),
        (header(V4, family=0x31), "too_short"),
        (header(b"", length=HEADER_BYTES_MAX - 15), "too_large"),
        (header(b"", length=0xFFFF), "too_large"),
        (header(V4 + b"\x04"), "tlv"),
        (header(V4 + b"\x04\x00\x05abcd"), "tlv"),
        (header(V4 + b"\x04\xff\xffabcd"), "tlv"),
        (header(V4 + tlv(3, b"abc")), "tlv"),
    ],
)
def test_what_is_wrong_has_a_name(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        parse(data)


def outcome(data: bytes) -> Any:
    try:
        return parse(data)
    except ValueError as exc:
        return str(exc)


@given(
    data=st.binary(max_size=700), good=st.sampled_from(sorted(GOOD)), at=st.integers(0, 600), flip=st.integers(1, 255)
)
def test_any_bytes_have_one_outcome_however_they_come(data: bytes, good: str, at: int, flip: int) -> None:
    broken = bytearray(GOOD[good][0])
    broken[at % len(broken)] ^= flip
    for stream in (data, SIGNATURE + data, bytes(broken) + data):
        whole = outcome(stream)
        first = next((got for end in range(len(stream) + 1) if (got := outcome(stream[:end])) != (0, "", b"", 0)), None)
        assert first is None or first == whole
        assert (isinstance(whole, str) and whole in PROXY_FAILURES) or whole[0] <= HEADER_BYTES_MAX


def test_networks() -> None:
    v4 = [(b"\0" * 10 + b"\xff\xff" + ip_address("10.1.2.0").packed, 96 + 23)]
    assert is_trusted(b"\0" * 10 + b"\xff\xff" + ip_address("10.1.3.255").packed, v4)
    assert not is_trusted(b"\0" * 10 + b"\xff\xff" + ip_address("10.1.4.0").packed, v4)
    assert not is_trusted(ip_address("2001:db8::1").packed, v4)
    v6 = [(ip_address("2001:db8::").packed, 32), *v4]
    assert is_trusted(ip_address("2001:db8:ffff::1").packed, v6)
    assert is_trusted(ip_address("::1").packed, [(b"\0" * 16, 0)])
    assert is_trusted(ip_address("::1").packed, [(ip_address("::1").packed, 128)])
    assert not is_trusted(ip_address("::2").packed, [(ip_address("::1").packed, 128)])


def counted(rig: Rig, prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): n for name, n in rig.reactor.counters().items() if name.startswith(prefix) and n}


@pytest.mark.parametrize("name", GOOD)
def test_a_login_behind_a_header(name: str) -> None:
    data, kind, _, _ = GOOD[name]
    with Rig(proxies=LOOPBACK) as rig:
        peer = rig.connect()
        peer.sock.sendall(data + HELLO)
        link = rig.event(native.EVENT_FRAME)[1]
        rig.reactor.welcome(link, 7, 60_000, 32, build_frame(FrameType.WELCOME, {"v": 1}))
        assert peer.receive()[0] == FrameType.WELCOME
        assert counted(rig, "proxied:") == {kind: 1}
        peer.send(FrameType.PING)
        assert peer.receive()[0] == FrameType.PONG


def test_a_login_behind_a_header_byte_by_byte() -> None:
    with Rig(proxies=LOOPBACK) as rig:
        peer = rig.connect()
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GOOD["tlvs"][0] + HELLO:
            peer.sock.sendall(bytes((byte,)))
        assert rig.event(native.EVENT_FRAME)[2] == FrameType.HELLO


def test_without_a_header_a_link_is_closed_without_a_word() -> None:
    with Rig(proxies=LOOPBACK, linger_ms=20) as rig:
        peer = rig.connect()
        peer.sock.sendall(HELLO + b"\0" * 20)
        assert peer.receive() is None
        assert counted(rig, "proxy:") == {"signature": 1}
        assert rig.reactor.counters()["ended:proxy"] == 1
        assert rig.events == []


def test_half_a_header_ends_at_the_login_deadline_and_with_the_peer() -> None:
    with Rig(proxies=LOOPBACK, login_ms=150, linger_ms=20) as rig:
        slow, gone = rig.connect(), rig.connect()
        slow.sock.sendall(SIGNATURE)
        gone.sock.sendall(SIGNATURE)
        gone.sock.shutdown(socket.SHUT_WR)
        assert gone.receive() is None
        assert slow.receive() is None
        assert counted(rig, "proxy:") == {"timeout": 1, "closed": 1}


def test_only_trusted_peers_may_speak() -> None:
    with Rig(proxies=[(b"\0" * 10 + b"\xff\xff\x0a\0\0\0", 104)]) as rig:
        peer = rig.connect()
        assert peer.receive() is None
        assert counted(rig, "proxy:") == {"untrusted": 1}
        assert rig.reactor.counters()["links"] == 0
