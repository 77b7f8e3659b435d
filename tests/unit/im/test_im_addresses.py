"""Numbers and mailboxes as people write them: one normal form, and an error that repeats nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.im.ust.addresses import (
    RESERVED,
    is_dear,
    is_number,
    is_region,
    parse_address,
    parse_domain,
    parse_local_part,
    parse_mailbox,
    parse_number,
)
from gateway.im.ust.names import check_name
from gateway.model.errors import BadRequest


def _read(parse: Callable[..., str], *given: str) -> str | None:
    """None where it is refused; nothing else may be raised."""
    try:
        return parse(*given)
    except BadRequest:
        return None


@pytest.mark.parametrize(
    ("text", "region", "normal"),
    [
        ("+49 (0)30 123-456", "", "+4930123456"),
        ("0049 30 123456", "", "+4930123456"),
        ("030/123456", "DE", "+4930123456"),
        ("+49\u00a030\u2011123456", "", "+4930123456"),
        ("(202) 555-0123", "US", "+12025550123"),
        ("011 49 30 123456", "US", "+4930123456"),
        ("+999123456789", "", "+999123456789"),  # a country code of nobody
    ],
)
def test_a_number_has_one_form(text: str, region: str, normal: str) -> None:
    assert parse_number(text, region) == normal


@pytest.mark.parametrize(
    "text", ["", "+", "030123456", "+49 30 12x", "+٤٩٣٠", "+0123456789", "+1" * 40, "tel:+49301", "+49"]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_number(text)
    assert text not in caught.value.message or len(text) < 4
    assert caught.value.field == "number"
    assert caught.value.__context__ is None  # nothing keeps what was given


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Anna.Berg@Mail.Example", "anna.berg@mail.example"),
        (" a+b@x.example. ", None),
        ("anna@bücher.example", "anna@xn--bcher-kva.example"),
        ("anna@ＭＡＩＬ。example", "anna@mail.example"),
        ("anna@localhost", "anna@localhost"),
        ("@x.example", None),
        ("anna@", None),
        ("a..b@x.example", None),
        ('"a b"@x.example', None),
        ("a@b@x.example", None),
        ("änna@x.example", None),
        ("anna@[127.0.0.1]", None),
        ("anna@127.0.0.1", None),
        ("anna@-x.example", None),
        ("a\r\nRCPT@x.example", None),
        ("a" * 65 + "@x.example", None),
        ("a@" + "x" * 64 + ".example", None),
    ],
)
def test_a_mailbox_has_one_form(text: str, normal: str | None) -> None:
    if normal is None:
        with pytest.raises(BadRequest) as caught:
            parse_mailbox(text)
        assert text not in caught.value.message
        assert caught.value.field == "address"
    else:
        assert parse_mailbox(text) == normal


@given(st.text(max_size=300))
@example("+" + "1" * 15)
@example("00" + "9" * 18)
@example("a@xn--a.example")
def test_any_text_is_an_address_in_normal_form_or_refused(text: str) -> None:
    normal = _read(parse_address, text)
    if normal is None:
        return
    assert len(normal) <= 254
    assert normal.isascii()
    assert is_number(normal) != ("@" in normal)
    assert parse_address(normal) == normal


@given(st.from_regex(r"\+?[0-9][0-9 ()./-]{0,25}", fullmatch=True), st.sampled_from(["", "DE", "US", "GB", "IT", "RU"]))
def test_a_normal_number_stays_as_it_is_whatever_the_region(text: str, region: str) -> None:
    normal = _read(parse_number, text, region)
    if normal is None:
        return
    assert parse_number(normal) == normal
    assert parse_number(normal, region) == normal


domains = st.from_regex(r"[a-zA-Z0-9-]{1,20}(\.[a-z0-9-]{1,9}){0,3}", fullmatch=True)
local_chars = st.sampled_from("abcxyz0189!#$%&'*+/=?^_`{|}~-.ABC")


@given(st.text(local_chars, min_size=1, max_size=70), domains)
def test_a_mailbox_is_what_smtp_takes_unquoted_or_refused(local: str, domain: str) -> None:
    normal = _read(parse_mailbox, f"{local}@{domain}")
    if normal is None:
        return
    assert normal.rpartition("@")[0] == local.lower()
    assert ".." not in normal
    assert not set(normal) & set('"\\<>(),;: \r\n')
    assert parse_mailbox(normal.upper()) == normal


@given(st.text(max_size=80))
def test_a_name_in_our_domain_needs_no_quotes_anywhere(text: str) -> None:
    local = _read(parse_local_part, text)
    if local is None:
        return
    assert set(local) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert local[0] not in "-._"
    assert local[-1] != "."
    assert local not in RESERVED
    assert parse_mailbox(f"{local}@here.example") == f"{local}@here.example"


@pytest.mark.parametrize("name", ["postmaster", "Abuse", " ADMIN ", "mailer-daemon", "no-reply", "sslwebmaster"])
def test_names_that_speak_for_the_service_are_reserved(name: str) -> None:
    with pytest.raises(BadRequest, match="reserved"):
        parse_local_part(name)


@pytest.mark.parametrize(("number", "dear"), [("+499001234567", True), ("+4915112345678", False), ("+99912345", False)])
def test_premium_numbers_are_known(number: str, dear: bool) -> None:
    assert is_dear(number) is dear


def test_regions_are_two_letters_that_are_given_away() -> None:
    assert is_region("DE")
    assert not any(map(is_region, ["de", "XX", "", "DEU", "001"]))


def test_a_domain_of_labels_that_no_dns_has_is_none() -> None:
    assert parse_domain("a.b.c") == "a.b.c"
    assert not any(map(parse_domain, ["", ".", "a..b", "x" * 300, "a b", "\ud800", "1.2.3.4", "xn--\udfff"]))


@given(st.text(max_size=120))
def test_a_name_has_nothing_that_turns_the_text_around_it(text: str) -> None:
    name = _read(check_name, text)
    if name is None:
        return
    assert name == name.strip()
    assert 0 < len(name) <= 100
    assert not set(name) & set("\n\r\t\0\u202e\u2066\u2028")
