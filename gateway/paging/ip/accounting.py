"""RADIUS accounting requests and their answers as bytes; must never raise anything but Malformed, nor show a number by
being printed.

Sources: RFC 2866 (accounting), RFC 2865 §5 (attributes), RFC 2869 §5.3 (Event-Timestamp), RFC 3579 §3.2 and RFC 5080
§2.2.2 (Message-Authenticator, retransmissions), RFC 3162, RFC 6911 (IPv6), 3GPP TS 29.061 §16.4 (vendor 10415).

Own code, though there is a library (pyrad): ten attributes are wanted of a packet, on the gateway's own loop and
thousands of times a second, and the library is several times slower at that, and raised ValueError beside its own
error on packets that were not whole. The client of FreeRADIUS is the judge in tests/operator.
"""

from __future__ import annotations

import hmac
import socket
from hashlib import md5
from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

ACCOUNTING_REQUEST, ACCOUNTING_RESPONSE = 4, 5
HEAD_BYTES, MOST_BYTES = 20, 4_096
START, STOP, INTERIM, ON, OFF = 1, 2, 3, 7, 8
STATUSES = frozenset({START, STOP, INTERIM, ON, OFF})

_USER_NAME, _NAS_IP, _FRAMED_IP = 1, 4, 8
_VENDOR, _CALLED, _CALLING, _NAS_IDENTIFIER, _PROXY_STATE = 26, 30, 31, 32, 33
_STATUS, _DELAY, _SESSION, _EVENT = 40, 41, 44, 55
_MESSAGE_AUTHENTICATOR, _NAS_IPV6, _INTERFACE, _IPV6_PREFIX, _IPV6_ADDRESS = 80, 95, 96, 97, 168
_3GPP = (10_415).to_bytes(4, "big")
_3GPP_IMSI, _3GPP_SGSN, _3GPP_GGSN, _3GPP_IMEISV = 1, 6, 7, 20
#: attributes that are four bytes
_FOUR = frozenset({_NAS_IP, _FRAMED_IP, _STATUS, _DELAY, _EVENT})
#: longest name of a session or a NAS that is kept; a longer one is no name
_NAME_BYTES = 128


class Malformed(ValueError):
    """The bytes are no accounting request; the text names the rule, never a value."""


class Accounting(NamedTuple):
    """What one request says; "" and 0 where it does not."""

    identifier: int
    authenticator: bytes
    status: int
    session: bytes = b""
    nas: bytes = b""  # identifier or address
    ipv4: str = ""
    ipv6_prefix: str = ""  # in normal form, as 2001:db8::/64
    ipv6: str = ""  # the host's own address, where the network knows it
    imsi: str = ""
    msisdn: str = ""  # digits alone
    nai: str = ""
    imeisv: str = ""
    apn: str = ""
    sgsn: str = ""
    ggsn: str = ""
    event_s: int = 0
    delay_s: int = 0
    proxy_states: bytes = b""  # attributes as they came, to be given back
    has_message_authenticator: bool = False

    def __repr__(self) -> str:
        return f"Accounting(status {self.status})"


def check_authenticator(packet: bytes, secret: bytes) -> bool:
    """RFC 2866 §3: MD5 over the packet with zeros for the authenticator, and the secret behind."""
    expected = md5(packet[:4] + bytes(16) + packet[HEAD_BYTES:] + secret, usedforsecurity=False).digest()
    return hmac.compare_digest(expected, packet[4:HEAD_BYTES])


def _attributes(packet: bytes) -> list[tuple[int, int, int]]:
    """(type, begin, end) of each value."""
    found: list[tuple[int, int, int]] = []
    at, end = HEAD_BYTES, len(packet)
    while at < end:
        if at + 2 > end:
            raise Malformed("an attribute without a length")
        length = packet[at + 1]
        if length < 2 or at + length > end:
            raise Malformed("the length of an attribute")
        found.append((packet[at], at + 2, at + length))
        at += length
    return found


def parse_request(packet: bytes) -> tuple[bytes, Accounting]:
    """(packet without padding, what it says). Not authentic yet. Malformed."""
    if len(packet) < HEAD_BYTES:
        raise Malformed("shorter than a header")
    length = packet[2] << 8 | packet[3]
    if packet[0] != ACCOUNTING_REQUEST:
        raise Malformed("another code")
    if not HEAD_BYTES <= length <= min(MOST_BYTES, len(packet)):
        raise Malformed("the length of the packet")
    packet = packet[:length]  # RFC 2865 §3: what is behind it is padding
    status = -1
    said: dict[str, str | bytes | int] = {}
    proxy_states: list[bytes] = []
    interface = b""
    nas_name = nas_address = b""
    for kind, begin, end in _attributes(packet):
        if kind in _FOUR and end - begin != 4:
            raise Malformed("an attribute that is four bytes")
        if kind == _STATUS:
            status = int.from_bytes(packet[begin:end], "big")
        elif kind == _SESSION:
            said["session"] = packet[begin:end]
        elif kind == _FRAMED_IP:
            said["ipv4"] = _parse_ipv4(packet[begin:end])
        elif kind == _CALLING:
            said["msisdn"] = _parse_digits(packet[begin:end], 5)
        elif kind == _CALLED:
            said["apn"] = _parse_text(packet[begin:end]).lower()
        elif kind == _USER_NAME:
            said["nai"] = _parse_nai(packet[begin:end])
        elif kind == _NAS_IDENTIFIER:
            nas_name = packet[begin:end]
        elif kind in (_NAS_IP, _NAS_IPV6):
            nas_address = packet[begin:end]
        elif kind == _EVENT:
            said["event_s"] = int.from_bytes(packet[begin:end], "big")
        elif kind == _DELAY:
            said["delay_s"] = int.from_bytes(packet[begin:end], "big")
        elif kind == _IPV6_PREFIX:
            said["ipv6_prefix"] = _parse_prefix(packet[begin:end])
        elif kind == _IPV6_ADDRESS and end - begin == 16:
            said["ipv6"] = str(IPv6Address(packet[begin:end]))
        elif kind == _INTERFACE and end - begin == 8:
            interface = packet[begin:end]
        elif kind == _PROXY_STATE:
            proxy_states.append(packet[begin - 2 : end])
        elif kind == _MESSAGE_AUTHENTICATOR:
            if end - begin != 16 or "has_message_authenticator" in said:
                raise Malformed("Message-Authenticator")
            said["has_message_authenticator"] = True
        elif kind == _VENDOR and end - begin > 4 and packet[begin : begin + 4] == _3GPP:
            _parse_3gpp(packet[begin + 4 : end], said)
    if status < 0:
        raise Malformed("no Acct-Status-Type")
    prefix = said.get("ipv6_prefix")
    if interface and prefix and not said.get("ipv6"):
        network = IPv6Network(str(prefix))
        if network.prefixlen == 64:
            said["ipv6"] = str(network.network_address + int.from_bytes(interface, "big"))
    for name in ("session", "nas"):
        if len(bytes(said.get(name, b""))) > _NAME_BYTES:  # type: ignore[arg-type]
            raise Malformed("a name that is too long")
    if len(nas_name) > _NAME_BYTES:
        raise Malformed("a name that is too long")
    return packet, Accounting(
        packet[1],
        packet[4:HEAD_BYTES],
        status,
        nas=nas_name or nas_address,
        proxy_states=b"".join(proxy_states),
        **said,  # type: ignore[arg-type]
    )


def _parse_3gpp(data: bytes, said: dict[str, str | bytes | int]) -> None:
    """One or several sub-attributes (TS 29.061 §16.4.7). What is cut short is passed over: vendors do this and that."""
    at = 0
    while at + 2 <= len(data):
        kind, length = data[at], data[at + 1]
        if length < 2 or at + length > len(data):
            return
        value = data[at + 2 : at + length]
        at += length
        if kind == _3GPP_IMSI:
            said["imsi"] = _parse_digits(value, 6)
        elif kind == _3GPP_IMEISV:
            said["imeisv"] = _parse_digits(value, 14)
        elif kind == _3GPP_SGSN and len(value) == 4:
            said["sgsn"] = _parse_ipv4(value)
        elif kind == _3GPP_GGSN and len(value) == 4:
            said["ggsn"] = _parse_ipv4(value)


def check_message_authenticator(packet: bytes, secret: bytes) -> bool:
    """Of a request that has one: HMAC-MD5 over it with zeros for both authenticators, as for every request whose own
    authenticator is computed (RFC 5176 §2.3; FreeRADIUS does so for accounting)."""
    for kind, begin, end in _attributes(packet):
        if kind == _MESSAGE_AUTHENTICATOR:
            blank = packet[:4] + bytes(16) + packet[HEAD_BYTES:begin] + bytes(16) + packet[end:]
            return hmac.compare_digest(hmac.digest(secret, blank, "md5"), packet[begin:end])
    return False


def build_response(request: Accounting, secret: bytes) -> bytes:
    """Accounting-Response with the proxies' states; has a Message-Authenticator where the request had one."""
    attributes = request.proxy_states
    length = HEAD_BYTES + len(attributes) + (18 if request.has_message_authenticator else 0)
    head = bytes((ACCOUNTING_RESPONSE, request.identifier)) + length.to_bytes(2, "big")
    if request.has_message_authenticator:
        # No RFC says over which authenticator an accounting answer's is; FreeRADIUS takes zeros for both, and checks
        # it. First of all attributes, as is asked for since 2024.
        mark = bytes((_MESSAGE_AUTHENTICATOR, 18))
        blank = head + bytes(16) + mark + bytes(16) + attributes
        attributes = mark + hmac.digest(secret, blank, "md5") + attributes
    digest = md5(head + request.authenticator + attributes + secret, usedforsecurity=False).digest()
    return head + digest + attributes


def _parse_ipv4(value: bytes) -> str:
    return socket.inet_ntoa(value) if value not in (b"\xff\xff\xff\xff", b"\xff\xff\xff\xfe", bytes(4)) else ""


def _parse_prefix(value: bytes) -> str:
    """RFC 3162 §2.3: reserved, bits, as many bytes as there are. "" for one that is none."""
    if not 2 <= len(value) <= 18 or not 1 <= value[1] <= 128:
        return ""
    number = int.from_bytes(value[2:].ljust(16, b"\0"), "big")
    return str(IPv6Network((number, value[1]), strict=False))


def _parse_digits(value: bytes, least: int) -> str:
    """ "" where it is no number: some networks write this or that into the attribute."""
    text = value.strip(b" \0").lstrip(b"+")
    return text.decode() if text.isdigit() and least <= len(text) <= 16 else ""


def _parse_text(value: bytes) -> str:
    return value[:_NAME_BYTES].decode("utf-8", "replace")


def _parse_nai(value: bytes) -> str:
    """user@realm, "" for another name: the realm in small letters, as identity keeps it."""
    user, at, realm = value.rpartition(b"@")
    if not at or not user or not realm or len(value) > 253:
        return ""
    try:
        return f"{user.decode()}@{realm.decode().lower()}"
    except UnicodeDecodeError:
        return ""
