"""What upstreams and devices may send, whatever it is: no parser raises, and none makes a dead address of garbage."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from upstream_rig import build_notification

from gateway.model.notification import Content
from gateway.notifiers.apns import errors as apns
from gateway.notifiers.fcm import errors as fcm
from gateway.notifiers.payload import fit
from gateway.notifiers.upstream import SHARED, Answer, Row, Verdict, parse_retry_after
from gateway.notifiers.webhook import errors as webhook
from gateway.notifiers.webpush import errors as webpush
from gateway.notifiers.webpush.client import build_topic
from gateway.notifiers.webpush.subscription import parse_subscription

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
REASONS = st.sampled_from(sorted(apns.BY_REASON)) | st.text(max_size=20)
CODES = st.sampled_from(sorted(fcm.BY_REASON)) | JSON
APNS_BODIES = st.fixed_dictionaries({}, optional={"reason": REASONS | JSON, "timestamp": JSON})
FCM_BODIES = st.fixed_dictionaries(
    {},
    optional={
        "name": JSON,
        "error": JSON
        | st.fixed_dictionaries(
            {},
            optional={
                "status": CODES,
                "details": JSON | st.lists(JSON | st.fixed_dictionaries({"errorCode": CODES}), max_size=3),
            },
        ),
    },
)
TOKEN_BODIES = st.fixed_dictionaries({}, optional={"access_token": JSON, "expires_in": JSON})


def encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (msgspec.ValidationError, OverflowError):
        return b"{"


def bodies(shaped: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=64) | shaped.map(encode) | JSON.map(encode)


STATUSES = st.integers(100, 599)
HEADERS = st.fixed_dictionaries({}, optional={"retry-after": st.text(max_size=30)})


def is_plausible(answer: Answer) -> None:
    assert isinstance(answer, Answer)
    assert answer.retry_after_ms >= 0
    assert answer.gone_at_ms >= 0
    assert answer.row.verdict is Verdict.GONE or not answer.gone_at_ms


@given(STATUSES, HEADERS, bodies(APNS_BODIES))
@example(410, {}, b'{"reason":"Unregistered","timestamp":-5}')
@example(410, {}, b'{"reason":"Unregistered","timestamp":99999999999999999999999}')
def test_apns(status: int, headers: dict[str, str], body: bytes) -> None:
    answer = apns.parse_answer(status, headers, body, 0)
    is_plausible(answer)
    assert (answer.row.verdict is Verdict.OK) == (status == 200)
    if answer.row.verdict is Verdict.GONE:
        assert msgspec.json.decode(body)["reason"] in ("Unregistered", "ExpiredToken")


@given(STATUSES, HEADERS, bodies(FCM_BODIES))
def test_fcm(status: int, headers: dict[str, str], body: bytes) -> None:
    answer = fcm.parse_answer(status, headers, body, 0)
    is_plausible(answer)
    assert status == 200 or answer.row.verdict is not Verdict.OK
    if answer.row.verdict is Verdict.GONE:
        assert b"UNREGISTERED" in body


@given(STATUSES, HEADERS, bodies(TOKEN_BODIES))
def test_fcm_token_endpoint(status: int, headers: dict[str, str], body: bytes) -> None:
    found = fcm.parse_token(status, headers, body, 0)
    if isinstance(found, Answer):
        is_plausible(found)
        assert found.row.verdict is Verdict.RETRY
    else:
        text, seconds = found
        assert text.isascii()
        assert text.isprintable()
        assert 0 < seconds <= 86_400


@given(STATUSES, HEADERS)
def test_statuses(status: int, headers: dict[str, str]) -> None:
    for parse in (webpush.parse_status, webhook.parse_status):
        answer = parse(status, headers, 0)
        is_plausible(answer)
        assert answer.row.verdict is not Verdict.GONE or status in (404, 410)


@given(st.text(max_size=60), st.integers(0, 1 << 45))
def test_retry_after(value: str, now_ms: int) -> None:
    assert parse_retry_after(value, now_ms) >= 0


KEYS = st.fixed_dictionaries({}, optional={"p256dh": JSON | st.just("B" + "A" * 86), "auth": JSON | st.just("A" * 22)})
ENDPOINTS = st.text(max_size=60) | st.text(max_size=40).map(lambda text: f"https://{text}") | JSON


@given(
    st.text(max_size=200) | st.fixed_dictionaries({}, optional={"endpoint": ENDPOINTS, "keys": KEYS | JSON}).map(encode)
)
def test_subscription(address: str | bytes) -> None:
    text = address if isinstance(address, str) else address.decode(errors="replace")
    found = parse_subscription(text)
    if found is not None:
        assert found.origin.isascii()
        assert found.origin.isprintable()
        assert "@" not in found.origin
        assert found.target.startswith("/")
        assert found.target.isprintable()


@given(st.text(max_size=300), st.text(max_size=300), st.integers(60, 400))
def test_text_is_cut_so_that_it_fits_and_no_more(title: str, text: str, most: int) -> None:
    def build(title: str, text: str) -> bytes:
        return msgspec.json.encode({"ids": "x" * 20, "title": title, "text": text})

    notification = build_notification(content=Content(title=title, text=text))
    made = fit(notification, most, build)
    assert len(made) <= most
    said = msgspec.json.decode(made)
    if len(build(title, text)) <= most:
        assert (said["title"], said["text"]) == (title, text)
    elif said["text"]:
        assert said["title"] == title
        assert text.startswith(said["text"].removesuffix("…"))


@given(st.text(min_size=1, max_size=100))
def test_topic_is_stable(key: str) -> None:
    assert build_topic(key) == build_topic(key)
    assert len(build_topic(key)) == 32


@pytest.mark.parametrize(
    "rows", [apns.ROWS, fcm.ROWS, webpush.ROWS, webhook.ROWS], ids=["apns", "fcm", "webpush", "webhook"]
)
def test_a_table_has_each_reason_once_and_says_what_it_means(rows: tuple[Row, ...]) -> None:
    reasons = [row.reason for row in (*rows, *SHARED)]
    assert len(reasons) == len(set(reasons))
    assert all(row.says for row in rows)
    assert all(row.verdict is Verdict.RETRY or not row.pause_s for row in rows)
