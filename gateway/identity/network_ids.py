"""Network ids as they come, brought into one normal form a kind (C2); an error says which kind and what is expected,
and must never repeat what was given.

What is not known to a number plan is taken all the same: operators have private ranges.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from gateway.model.errors import BadRequest, ConfigError
from gateway.model.subscriber import NetworkId, NetworkIdKind

MAX_CHARS = 253
#: as people write them
_SEPARATORS = re.compile(r"[ ().\-/]")
_E164 = re.compile(r"\+[0-9]{5,15}")
_DOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_MAC = re.compile(r"[0-9a-f]{12}")
#: what may stand before the @ (RFC 7542 §2.2, TS 23.003 §13.3): anything that can be seen, but no second @
_USER = re.compile(r"[^\s@\x00-\x1f\x7f]{1,128}")

EXPECTED = {
    NetworkIdKind.IMSI: "14 or 15 digits: country code, network code, number",
    NetworkIdKind.IMEI: "14 to 16 digits, a right check digit where there are 15",
    NetworkIdKind.IMPI: "user@realm",
    NetworkIdKind.MSISDN: "5 to 15 digits with the country code, as in +4930123456",
    NetworkIdKind.IMPU: "sip:user@domain or tel:+number",
    NetworkIdKind.NAI: "user@realm (RFC 7542)",
    NetworkIdKind.IP: "an IPv4 or IPv6 address of one host",
    NetworkIdKind.MAC: "six octets in hexadecimal, of one station",
}


def parse_network_id(kind: NetworkIdKind, text: str, field: str = "value") -> NetworkId:
    """BadRequest (with `field`) where it is none of this kind. Needs the extras group `paging`."""
    try:
        if not text or len(text) > MAX_CHARS:
            raise ValueError
        return NetworkId(kind, _PARSERS[kind](text.strip()))
    except (ValueError, UnicodeError):
        pass
    except ImportError as exc:
        raise ConfigError(f"{exc.name} is not there: pip install 'heliograph[paging]'", field="identity") from None
    # out of the handler, so that no context keeps what was given
    raise BadRequest(f"this is no {kind.name}: expected {EXPECTED[kind]}", field=field)


def _parse_imsi(text: str) -> str:
    """E.212: MCC, MNC and MSIN. The network is not looked up: test networks and private ones are in no list."""
    digits = _ascii_digits(_SEPARATORS.sub("", text))
    if len(digits) not in (14, 15):
        raise ValueError
    return digits


def _parse_imei(text: str) -> str:
    digits = _ascii_digits(_SEPARATORS.sub("", text))
    if len(digits) not in (14, 15, 16):
        raise ValueError
    # 14 digits, 15 with a check digit and 16 with a software version are the same terminal
    whole = digits[:14] + _luhn_digit(digits[:14])
    if len(digits) == 15 and digits != whole:
        raise ValueError
    return whole


def _luhn_digit(digits: str) -> str:
    """The check digit behind these (TS 23.003 annex B)."""
    doubled = (int(digit) * (2 - place % 2) for place, digit in enumerate(reversed(digits)))
    return str(-sum(value // 10 + value % 10 for value in doubled) % 10)


def _parse_msisdn(text: str) -> str:
    import phonenumbers

    compact = _SEPARATORS.sub("", text)
    if compact.startswith("00"):
        compact = compact[2:]
    if not compact.startswith("+"):
        compact = "+" + compact  # as RADIUS and SMPP have it: the country code first
    if not compact.isascii() or _E164.fullmatch(compact) is None or compact[1] == "0":
        raise ValueError  # no country code begins with 0 (E.164 §6.2.1): this is a number as it is dialled at home
    while True:
        try:
            number = phonenumbers.parse(compact, None)
        except phonenumbers.NumberParseException:
            return compact  # a country code of a private network
        # not asked whether it is a valid number: private ranges are not
        found = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        # it takes one trunk prefix away at a time; the normal form has none
        if len(found) >= len(compact) or _E164.fullmatch(found) is None:
            return compact
        compact = found


def _parse_nai(text: str) -> str:
    user, at, realm = unicodedata.normalize("NFC", text).rpartition("@")
    realm = realm.lower()
    if not at or _USER.fullmatch(user) is None or _DOMAIN.fullmatch(realm) is None:
        raise ValueError
    return f"{user}@{realm}"


def _parse_impu(text: str) -> str:
    scheme, colon, rest = text.partition(":")
    scheme = scheme.lower()
    rest = rest.partition(";")[0].partition("?")[0]  # parameters are no part of an identity (TS 23.003 §13.4)
    if scheme == "tel" and rest.startswith("+"):
        return "tel:" + _parse_msisdn(rest)
    if not colon or scheme not in ("sip", "sips"):
        raise ValueError
    return "sip:" + _parse_nai(rest)


def _parse_ip(text: str) -> str:
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        if address.scope_id:
            raise ValueError
        address = address.ipv4_mapped or address
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise ValueError
    return str(address)


def _parse_mac(text: str) -> str:
    octets = re.sub(r"[:.\-]", "", text).lower()
    if _MAC.fullmatch(octets) is None or int(octets[:2], 16) & 1 or octets == "0" * 12:
        raise ValueError
    return ":".join(octets[at : at + 2] for at in range(0, 12, 2))


def _ascii_digits(text: str) -> str:
    if not text.isascii() or not text.isdecimal():
        raise ValueError
    return text


_PARSERS: dict[NetworkIdKind, Callable[[str], str]] = {
    NetworkIdKind.IMSI: _parse_imsi,
    NetworkIdKind.IMEI: _parse_imei,
    NetworkIdKind.IMPI: _parse_nai,
    NetworkIdKind.MSISDN: _parse_msisdn,
    NetworkIdKind.IMPU: _parse_impu,
    NetworkIdKind.NAI: _parse_nai,
    NetworkIdKind.IP: _parse_ip,
    NetworkIdKind.MAC: _parse_mac,
}
