"""Network ids in their normal forms; an error names kind and form, never what was given (C2)."""

from __future__ import annotations

import sys
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from identity_rig import check_rig

from gateway.identity.network_ids import parse_network_id
from gateway.model.errors import BadRequest, ConfigError
from gateway.model.subscriber import NetworkIdKind as Kind


def normal(kind: Kind, text: str) -> str:
    return parse_network_id(kind, text).value


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (Kind.IMSI, "460 00 1234567890", "460001234567890"),
        (Kind.IMSI, "999990000000001", "999990000000001"),  # a private network
        (Kind.IMSI, "00101012345678", "00101012345678"),
        (Kind.IMEI, "49-015420-323751-8", "490154203237518"),
        (Kind.IMEI, "49015420323751", "490154203237518"),
        (Kind.IMEI, "4901542032375102", "490154203237518"),  # with a software version
        (Kind.MSISDN, "+49 (151) 123-4567", "+491511234567"),
        (Kind.MSISDN, "00491511234567", "+491511234567"),
        (Kind.MSISDN, "491511234567", "+491511234567"),  # as in Calling-Station-Id
        (Kind.MSISDN, "+999123456", "+999123456"),  # of no country: a private range
        (Kind.MSISDN, "+49 (0)151 1234567", "+491511234567"),
        (Kind.IMPI, "User@IMS.Example.COM", "User@ims.example.com"),
        (Kind.IMPU, "SIP:ann@IMS.Example.com;user=phone", "sip:ann@ims.example.com"),
        (Kind.IMPU, "sips:ann@ims.example.com", "sip:ann@ims.example.com"),
        (Kind.IMPU, "tel:+49-151-1234567;ext=1", "tel:+491511234567"),
        (Kind.NAI, "0001010123456789@wlan.mnc001.mcc001.3gppnetwork.org", None),
        (Kind.NAI, "a\u0308nn@Example.com", "änn@example.com"),
        (Kind.IP, "10.0.0.7", None),
        (Kind.IP, "2001:DB8:0:0::1", "2001:db8::1"),
        (Kind.IP, "::ffff:10.0.0.7", "10.0.0.7"),
        (Kind.MAC, "00-1A-2B-3C-4D-5E", "00:1a:2b:3c:4d:5e"),
        (Kind.MAC, "001a.2b3c.4d5e", "00:1a:2b:3c:4d:5e"),
    ],
)
def test_normal_forms(kind: Kind, text: str, expected: str | None) -> None:
    assert normal(kind, text) == (expected or text)
    assert normal(kind, f" {text} ") == (expected or text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Kind.IMSI, "1234567"),
        (Kind.IMSI, "46000123456789012"),
        (Kind.IMSI, "46000123456789x"),
        (Kind.IMSI, "٤٦٠٠٠١٢٣٤٥٦٧٨٩٠"),
        (Kind.IMEI, "490154203237519"),  # check digit
        (Kind.IMEI, "490154203"),
        (Kind.MSISDN, "+12"),
        (Kind.MSISDN, "+1800FLOWERS"),
        (Kind.MSISDN, "+1234567890123456"),
        (Kind.MSISDN, "+"),
        (Kind.IMPI, "ann.example"),
        (Kind.IMPI, "@realm.example"),
        (Kind.IMPU, "http://ann@example.com"),
        (Kind.IMPU, "tel:911"),
        (Kind.IMPU, "sip:example.com"),
        (Kind.NAI, "an n@example.com"),
        (Kind.NAI, "ann@exa_mple.com"),
        (Kind.NAI, "ann@@example.com"),
        (Kind.NAI, "ann@example.com\x00"),
        (Kind.IP, "0.0.0.0"),
        (Kind.IP, "127.0.0.1"),
        (Kind.IP, "224.0.0.1"),
        (Kind.IP, "fe80::1%eth0"),
        (Kind.IP, "10.0.0.0/8"),
        (Kind.MAC, "ff:ff:ff:ff:ff:ff"),
        (Kind.MAC, "01:00:5e:00:00:01"),
        (Kind.MAC, "00:1a:2b"),
        *((kind, "") for kind in Kind),
        *((kind, "9" * 300) for kind in Kind),
    ],
)
def test_what_is_refused_is_not_repeated(kind: Kind, text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_network_id(kind, text, "network_ids[0].value")
    shown = "".join(traceback.format_exception(refused.value))
    assert refused.value.field == "network_ids[0].value"
    assert kind.name in refused.value.message
    assert refused.value.__context__ is None
    assert len(text) < 4 or text not in shown


@given(st.sampled_from(Kind), st.text(max_size=40))
def test_any_text_is_taken_or_refused_and_a_normal_form_stays(kind: Kind, text: str) -> None:
    try:
        found = normal(kind, text)
    except BadRequest:
        return
    assert normal(kind, found) == found


@given(st.from_regex(r"\+[1-9][0-9]{6,14}", fullmatch=True))
def test_numbers_are_taken_whatever_plan_they_are_of(text: str) -> None:
    found = normal(Kind.MSISDN, text)
    assert normal(Kind.MSISDN, found[1:]) == normal(Kind.MSISDN, f"00{found[1:]}") == found


def test_printing_shows_nothing() -> None:
    check_rig()
    found = parse_network_id(Kind.IMSI, "001010123456789")
    for text in (repr(found), str(found), f"{found}", f"{[found]}"):
        assert "0123456789" not in text


def test_without_the_extras_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    with pytest.raises(ConfigError, match=r"heliograph\[paging\]"):
        parse_network_id(Kind.MSISDN, "+491511234567")
