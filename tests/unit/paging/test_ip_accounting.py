"""Accounting requests: what is read, what is refused in silence, what is answered again (C11)."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ip_scene import IMSI, MSISDN

from gateway.config.operator_sections import Radius
from gateway.config.radius import Client
from gateway.metrics import Metric, Metrics
from gateway.paging.ip.accounting import (
    INTERIM,
    START,
    STOP,
    Accounting,
    Malformed,
    build_response,
    check_authenticator,
    check_message_authenticator,
    parse_request,
)
from gateway.paging.ip.listener import AccountingListener
from gateway.paging.ip.local_nas import SECRET, attribute, build_attributes, build_request, check_response
from gateway.paging.ip.sessions import Sessions

WHO = {"status": START, "session": "s1", "nas": "ggsn1", "ip": "10.45.0.7", "imsi": IMSI, "msisdn": "+" + MSISDN}
ALL = {
    **WHO,
    "user_name": "ann@Example.COM",
    "called": "Internet",
    "imeisv": "3570000000000116",
    "prefix": "2001:db8:7::/64",
    "nas_ip": "192.0.2.2",
    "event_s": 1_700_000_000,
    "delay_s": 3,
}


def read(**said: Any) -> Accounting:
    return parse_request(build_request(build_attributes(**said)))[1]


def test_everything_that_is_asked_for_is_read() -> None:
    told = read(**ALL)
    assert (told.status, told.session, told.nas) == (START, b"s1", b"ggsn1")
    assert (told.imsi, told.msisdn, told.nai, told.apn) == (IMSI, MSISDN, "ann@example.com", "internet")
    assert (told.ipv4, told.ipv6_prefix, told.imeisv) == ("10.45.0.7", "2001:db8:7::/64", "3570000000000116")
    assert (told.event_s, told.delay_s) == (1_700_000_000, 3)
    assert IMSI not in repr(told)
    assert read(**{**WHO, "nas": "", "nas_ip": "192.0.2.2"}).nas == socket.inet_aton("192.0.2.2")


def test_several_things_of_a_vendor_in_one_attribute_and_other_vendors() -> None:
    body = (10_415).to_bytes(4, "big") + attribute(1, IMSI.encode()) + attribute(6, b"\xc0\0\2\1")
    body += attribute(7, b"\xc0\0\2\2")
    told = parse_request(
        build_request(build_attributes(status=1) + attribute(26, body) + attribute(26, b"\0\0\0\x09x"))
    )
    assert (told[1].imsi, told[1].sgsn, told[1].ggsn) == (IMSI, "192.0.2.1", "192.0.2.2")


def test_an_interface_id_makes_a_host_of_a_prefix() -> None:
    data = build_attributes(status=1, prefix="2001:db8:7::/64") + attribute(96, bytes(7) + b"\x09")
    assert parse_request(build_request(data))[1].ipv6 == "2001:db8:7::9"
    data = build_attributes(status=1) + attribute(168, socket.inet_pton(socket.AF_INET6, "2001:db8::5"))
    assert parse_request(build_request(data))[1].ipv6 == "2001:db8::5"


@pytest.mark.parametrize("value", ["", "49", "sip:ann", "abc", "4" * 40, "٤٩١٧٠١٢٣٤"])
def test_what_is_no_number_is_none(value: str) -> None:
    assert read(status=1, msisdn=value, imsi=value).msisdn == ""
    assert read(status=1, msisdn=value, imsi=value).imsi == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda packet: packet[:19],
        lambda packet: b"",
        lambda packet: packet[:-1],
        lambda packet: b"\x01" + packet[1:],
        lambda packet: packet[:2] + b"\0\x13" + packet[4:],
        lambda packet: packet[:2] + b"\xff\xff" + packet[4:],
        lambda _: build_request(build_attributes(session="x")),
        lambda _: build_request(attribute(40, b"\1")),
        lambda _: build_request(build_attributes(status=1) + attribute(8, b"\x0a\0\0")),
        lambda _: build_request(build_attributes(status=1) + b"\x2c\x01"),
        lambda _: build_request(build_attributes(status=1) + b"\x2c"),
        lambda _: build_request(build_attributes(status=1) + b"\x2c\x09abc"),
        lambda _: build_request(build_attributes(status=1) + attribute(80, bytes(15))),
        lambda _: build_request(build_attributes(status=1) + 2 * attribute(80, bytes(16))),
        lambda _: build_request(build_attributes(status=1, session="s" * 200)),
        lambda _: build_request(build_attributes(status=1, nas="s" * 200)),
    ],
)
def test_what_is_no_request_is_malformed(change: Any) -> None:
    with pytest.raises(Malformed):
        parse_request(change(build_request(build_attributes(**WHO))))


def test_padding_is_not_part_of_it() -> None:
    packet = build_request(build_attributes(**WHO))
    assert parse_request(packet + b"\0\0\0")[0] == packet


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_malformed(data: bytes) -> None:
    for packet in (data, b"\x04\x01" + (20 + len(data)).to_bytes(2, "big") + bytes(16) + data):
        try:
            whole, told = parse_request(packet)
        except Malformed:
            continue
        check_message_authenticator(whole, SECRET)
        check_response(whole, build_response(told, SECRET))


@given(st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=40)), max_size=8), st.booleans())
def test_an_answer_fits_its_request_whatever_is_in_it(attributes: list[tuple[int, bytes]], signed: bool) -> None:
    body = build_attributes(status=START) + b"".join(attribute(*each) for each in attributes)
    packet = build_request(body, signed=signed)
    assert check_authenticator(packet, SECRET)
    assert not check_authenticator(packet, SECRET + b"x")
    try:
        _, told = parse_request(packet)
    except Malformed:
        return
    answer = build_response(told, SECRET)
    check_response(packet, answer)
    states = [each for kind, value in attributes if kind == 33 for each in (attribute(33, value),)]
    assert b"".join(states) == told.proxy_states
    assert told.proxy_states in answer


# --- the listener


class ListenerScene:
    def __init__(self, *clients: tuple[str, bytes], **settings: Any) -> None:
        from ipaddress import ip_network

        made = [Client(ip_network(network), "", secret) for network, secret in clients or (("10.0.0.0/8", SECRET),)]
        made.sort(key=lambda client: -client.network.prefixlen)
        self.now_ms = 1_700_000_000_000
        self.metrics = Metrics(process=False)
        radius = Radius(**settings)
        self.sessions = Sessions(radius, self.metrics, lambda: self.now_ms)
        self.listener = AccountingListener(radius, made, self.sessions, self.metrics, lambda: self.now_ms)
        self.told: list[Accounting] = []
        self.listener.on_told = self.told.append

    def handle(self, packet: bytes, host: str = "10.0.0.1", port: int = 5_000) -> tuple[str, bytes]:
        return self.listener.handle(packet, host, port)


def test_answered_when_it_is_stored_and_told_on() -> None:
    scene = ListenerScene()
    packet = build_request(build_attributes(**WHO), signed=True)
    result, answer = scene.handle(packet)
    assert result == "on_line"
    check_response(packet, answer)
    assert scene.sessions.whose("10.45.0.7") is not None
    assert [told.imsi for told in scene.told] == [IMSI]


def test_nobody_is_answered_who_does_not_know_the_secret() -> None:
    scene = ListenerScene()
    right = build_request(build_attributes(**WHO))
    assert scene.handle(right, "192.0.2.9") == ("stranger", b"")
    assert scene.handle(right, "2001:db8::1") == ("stranger", b"")
    assert scene.handle(build_request(build_attributes(**WHO), b"wrong")) == ("bad_authenticator", b"")
    signed = bytearray(build_request(build_attributes(**WHO), signed=True))
    signed[25] ^= 1
    assert scene.handle(bytes(signed)) == ("bad_authenticator", b"")
    # right by its authenticator alone: only the other one was changed
    from gateway.paging.ip.local_nas import md5

    body = attribute(80, bytes(16)) + build_attributes(**WHO)
    head = bytes((4, 1)) + (20 + len(body)).to_bytes(2, "big")
    forged = head + md5(head + bytes(16) + body + SECRET, usedforsecurity=False).digest() + body
    assert scene.handle(forged) == ("bad_message_authenticator", b"")
    assert scene.handle(b"nonsense") == ("malformed", b"")
    assert len(scene.sessions) == 0
    assert ListenerScene(require_message_authenticator=True).handle(right) == ("no_message_authenticator", b"")


def test_the_narrowest_network_has_the_secret() -> None:
    scene = ListenerScene(("10.0.0.0/8", b"wide-secret"), ("10.1.0.0/16", b"narrow-secret"), ("::/0", b"six-secret"))
    for host, secret in (("10.0.0.1", b"wide-secret"), ("10.1.0.1", b"narrow-secret"), ("2001:db8::1", b"six-secret")):
        assert scene.handle(build_request(build_attributes(**WHO), secret), host)[0] == "on_line"
    assert scene.handle(build_request(build_attributes(**WHO), b"wide-secret"), "10.1.0.1")[0] == "bad_authenticator"
    assert scene.handle(build_request(build_attributes(**WHO), b"wide-secret", identifier=9), "::ffff:10.0.0.1")[1]


def test_what_is_sent_again_is_answered_alike_and_changes_nothing() -> None:
    scene = ListenerScene()
    start = build_request(build_attributes(**WHO))
    _, answer = scene.handle(start)
    stop = build_request(build_attributes(**{**WHO, "status": STOP}), identifier=2)
    assert scene.handle(stop)[0] == "off_line"
    assert scene.handle(start) == ("repeated", answer)
    assert scene.sessions.whose("10.45.0.7") is None
    # from another port it is another's
    assert scene.handle(start, port=5_001)[0] == "late"
    scene.now_ms += 31_000
    assert scene.handle(stop)[0] == "off_line"


def test_answers_that_are_kept_are_bounded() -> None:
    scene = ListenerScene(retransmissions=2)
    packets = [build_request(build_attributes(**WHO), identifier=n) for n in range(3)]
    for packet in packets:
        scene.handle(packet)
    assert [scene.handle(packet)[0] for packet in (packets[2], packets[1])] == ["repeated"] * 2
    assert scene.handle(packets[0])[0] != "repeated"
    assert scene.metrics.value(Metric.NOTIFIER_BOUNDS, "ip retransmissions") >= 1


def test_one_client_can_not_end_the_sessions_of_another() -> None:
    scene = ListenerScene(("10.1.0.0/16", SECRET), ("10.2.0.0/16", SECRET))
    scene.handle(build_request(build_attributes(**WHO)), "10.1.0.1")
    for status in (STOP, 7, 8):
        scene.handle(build_request(build_attributes(**{**WHO, "status": status})), "10.2.0.1")
    assert scene.sessions.whose("10.45.0.7") is not None
    scene.handle(build_request(build_attributes(**{**WHO, "status": INTERIM}), identifier=3), "10.1.0.2")
    assert len(scene.sessions) == 1


@given(st.binary(max_size=120), st.sampled_from(["10.0.0.1", "::1", "fe80::1%eth0", "192.0.2.1"]))
def test_the_listener_raises_nothing(data: bytes, host: str) -> None:
    scene = ListenerScene(("0.0.0.0/0", SECRET), ("::/0", SECRET))
    scene.handle(data, host)
    scene.handle(build_request(build_attributes(status=START) + data), host)


@given(
    st.lists(
        st.tuples(st.sampled_from([8, 31, 1, 26, 97, 96, 168, 32, 44, 55, 41, 80, 40]), st.binary(max_size=24)),
        max_size=8,
    )
)
def test_the_listener_raises_nothing_on_attributes_it_reads(attributes: list[tuple[int, bytes]]) -> None:
    scene = ListenerScene()
    body = build_attributes(**WHO) + b"".join(attribute(*each) for each in attributes)
    scene.handle(build_request(body))
    scene.handle(build_request(attribute(26, (10_415).to_bytes(4, "big") + body[:200]) + body))
