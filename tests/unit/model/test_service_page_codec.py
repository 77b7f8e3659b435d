"""The bytes of a service page and of what an app says to its server (C13)."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.registration import build_token
from gateway.model.service_access import (
    MOST_REQUEST,
    AccessRequest,
    BadAccess,
    build_access,
    decode,
    encode,
    is_proved,
    is_server,
    parse_access,
)
from gateway.model.service_page import (
    MOST_BYTES,
    MOST_PARAMS,
    MOST_SERVERS,
    BadPage,
    ServicePage,
    build_page,
    hash_aid,
    hash_id,
    is_page,
    is_signed,
    parse_page,
    parse_servers,
)

KEY, OTHER = b"k" * 32, b"o" * 32
TICKET = bytes(range(16))
PAGE = ServicePage(
    hash_aid("chat", KEY), hash_id(b"t" * 16), TICKET, 1_800_000_000, 1_790_000_000_000_000, 1, b"table=7"
)
PAGES = st.builds(
    ServicePage,
    aid=st.binary(min_size=8, max_size=8),
    id=st.binary(min_size=8, max_size=8),
    ticket=st.binary(min_size=16, max_size=16),
    expires_s=st.integers(0, 2**32 - 1),
    counter=st.integers(0, 2**64 - 1),
    server=st.integers(0, 255),
    params=st.binary(max_size=MOST_PARAMS),
)


@given(PAGES)
def test_what_was_built_is_parsed_and_fits_into_one_short_message(page: ServicePage) -> None:
    data = build_page(page, KEY)
    assert len(data) <= MOST_BYTES
    assert is_page(data)
    assert parse_page(data) == page
    assert is_signed(data, KEY)
    assert not is_signed(data, OTHER)


@given(st.binary(max_size=160))
def test_any_bytes_are_a_page_or_a_bad_one(data: bytes) -> None:
    try:
        page = parse_page(data)
    except BadPage:
        return
    assert build_page(page, KEY)[:-12] == data[:-12]


@given(st.integers(0, 132), st.integers(1, 255))
def test_a_changed_byte_is_never_signed(at: int, flip: int) -> None:
    data = bytearray(build_page(PAGE._replace(params=b"p" * MOST_PARAMS), KEY))
    data[at] ^= flip
    assert not is_signed(bytes(data), KEY)


def test_a_page_is_cut_at_no_byte_and_followed_by_none() -> None:
    data = build_page(PAGE, KEY)
    for length in range(len(data)):
        with pytest.raises(BadPage):
            parse_page(data[:length])
    with pytest.raises(BadPage):
        parse_page(data + b"\0")


def test_the_payload_of_pager_sms_is_no_page() -> None:
    assert not is_page(b"\x01" + bytes(60))
    assert not is_page(b"")


@pytest.mark.parametrize(
    "change",
    [{"params": bytes(MOST_PARAMS + 1)}, {"aid": b""}, {"ticket": bytes(15)}, {"server": 256}, {"expires_s": -1}],
)
def test_what_does_not_fit_can_not_be_built(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"length|fit|bytes"):
        build_page(PAGE._replace(**change), KEY)


def test_the_hash_of_an_aid_says_nothing_without_the_key() -> None:
    assert hash_aid("chat", KEY) != hash_aid("chat", OTHER)
    assert hash_aid("", KEY) == bytes(8)


def test_nothing_of_a_page_is_printed() -> None:
    assert repr(PAGE) == "ServicePage(…)"
    assert repr(build_access(KEY, build_token(b"t" * 16), "chat", TICKET, 0)) == "AccessRequest(…)"


# --- the service access request


def request(**changes: object) -> AccessRequest:
    made = build_access(KEY, build_token(b"t" * 16), "chat", TICKET, 1, b"table=7")
    return msgspec.structs.replace(made, **changes)


def test_a_request_is_proved_by_who_holds_the_key_and_for_what_it_says() -> None:
    assert is_proved(request(), KEY)
    assert not is_proved(request(), OTHER)
    for changes in ({"aid": "other"}, {"server": 0}, {"params": ""}, {"ticket": encode(bytes(16))}):
        assert not is_proved(request(**changes), KEY)


@given(st.binary(max_size=400))
def test_any_body_is_a_request_or_a_bad_one(body: bytes) -> None:
    try:
        parse_access(body)
    except BadAccess:
        return


@given(st.text(max_size=43))
def test_any_text_is_base64url_or_bad(text: str) -> None:
    try:
        data = decode(text)
    except BadAccess:
        return
    assert encode(data) == text


def test_a_request_goes_round_and_a_long_or_odd_one_is_refused() -> None:
    raw = msgspec.json.encode(request())
    assert parse_access(raw) == request()
    for body in (raw + b" " * MOST_REQUEST, raw.replace(b"chat", b"c" * 65), raw.replace(b'"aid"', b'"who"'), b"[]"):
        with pytest.raises(BadAccess):
            parse_access(body)
    with pytest.raises(BadAccess):
        is_proved(request(proof="A" * 42 + "B"), KEY)  # not canonical


@pytest.mark.parametrize(
    ("url", "usable"),
    [
        ("https://app.example.com/access", True),
        ("https://app.example.com:8443/a?b=c", True),
        ("http://127.0.0.1:8000/", True),
        ("http://app.example.com/", False),
        ("https://user@app.example.com/", False),
        ("https://app.example.com/#x", False),
        ("https://", False),
        ("https://app.example.com:0/", False),
        ("https://[::1/", False),
        ("https://äpp.example.com/", False),
        ("https://a.example.com/\r\nx: y", False),
        ("file:///etc/passwd", False),
        ("https://a.example.com/" + "a" * 300, False),
    ],
)
def test_a_server_is_https_with_a_host(url: str, usable: bool) -> None:
    assert is_server(url) is usable


@given(st.text(max_size=60))
def test_any_text_is_a_server_or_none(url: str) -> None:
    is_server(url)


def test_a_list_of_servers_has_an_end() -> None:
    assert parse_servers("  https://a  https://b ") == ["https://a", "https://b"]
    assert len(parse_servers("x " * 100)) == MOST_SERVERS
