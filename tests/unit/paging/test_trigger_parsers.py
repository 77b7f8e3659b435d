"""What exposure functions and token endpoints may answer: never more than a declared outcome, never another origin, and
what is asked is strict (C10)."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metrics import Metric, Metrics
from gateway.notifiers.upstream import GARBAGE, Answer
from gateway.paging.trigger.errors import ROWS, parse_refusal, parse_token
from gateway.paging.trigger.local_schema import check_monitoring, check_triggering
from gateway.paging.trigger.notifications import RESULTS, Report, parse_report, resource_name
from gateway.paging.trigger.scef import parse_location, parse_resource
from gateway.paging.trigger.tracking import Entry, Tracking
from gateway.paging.trigger.way import DeviceTrigger

BASE = "https://scef.example.net:8443/base/3gpp-device-triggering/v1/gw/transactions"
_KINDS = st.sampled_from(["application/problem+json", "application/json; x", "text/html", ""])
_PROBLEMS = st.dictionaries(
    st.sampled_from(["cause", "invalidParams", "title"]),
    st.none() | st.text() | st.lists(st.dictionaries(st.sampled_from(["param", "reason"]), st.text(), max_size=2)),
)


@given(st.integers(100, 999), _KINDS, st.binary(max_size=200) | _PROBLEMS.map(lambda p: json.dumps(p).encode()))
def test_any_answer_is_a_row_and_shows_none_of_its_words(status: int, kind: str, body: bytes) -> None:
    answer = parse_refusal(status, {"content-type": kind, "retry-after": "3"}, body, 0)
    assert answer.row in (*ROWS, GARBAGE)
    assert answer.detail in (f"{status} {answer.row.reason}", f"HTTP {status}")


@given(
    st.sampled_from([200, 400, 401, 429, 500]),
    st.binary(max_size=200) | st.text().map(lambda t: json.dumps({"access_token": t}).encode()),
)
def test_any_answer_of_a_token_endpoint_is_a_token_for_a_header_or_a_row(status: int, body: bytes) -> None:
    found = parse_token(status, {}, body, 0)
    if isinstance(found, Answer):
        assert found.row in ROWS
    else:
        assert found[0].isascii()
        assert found[0].isprintable()
        assert 0 < found[1] <= 86_400


@given(st.text(max_size=100) | st.text(alphabet="/.:@?#ahtps\\[]%", max_size=40).map(lambda t: "https:" + t))
def test_a_location_is_of_our_origin_or_nothing(text: str) -> None:
    for found in (parse_location(text, BASE), parse_resource(text, BASE)):
        if found:
            parts = urlsplit(found)
            assert (parts.scheme, parts.hostname, parts.port) == ("https", "scef.example.net", 8443)
            assert parts.username is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{BASE}/t1", f"{BASE}/t1"),
        ("/base/3gpp-device-triggering/v1/gw/transactions/t1", f"{BASE}/t1"),
        (f"{BASE.upper().replace('BASE', 'base')}/t1", ""),
        (f"{BASE}/", ""),
        (BASE, ""),
        (f"{BASE}/../other", ""),
        (f"{BASE}/a/b", ""),
        (f"{BASE}/t1#x", ""),
        (f"{BASE.replace('8443', '8444')}/t1", ""),
        (f"{BASE.replace('https', 'http')}/t1", ""),
        (BASE.replace("scef", "u:p@scef") + "/t1", ""),
        ("https://scef.example.net:99999/", ""),
    ],
)
def test_a_resource_is_right_below_its_collection(text: str, found: str) -> None:
    assert parse_resource(text, BASE) == found


@given(st.text(max_size=60))
def test_a_resource_has_one_name(text: str) -> None:
    assert "/" not in resource_name(text)


@given(st.sampled_from(sorted(RESULTS)), st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True))
def test_a_report_says_what_was_built(result: str, name: str) -> None:
    body = json.dumps({"transaction": f"{BASE}/{name}", "result": result, "more": 1}).encode()
    assert parse_report(body) == Report(name, result)


# --- what the local function takes

GOOD: dict[str, Any] = {
    "msisdn": "491701234567",
    "validityPeriod": 60,
    "priority": "PRIORITY",
    "applicationPortId": 16_000,
    "triggerPayload": "AQI=",
    "notificationDestination": "http://127.0.0.1/x",
    "supportedFeatures": "0",
}


@pytest.mark.parametrize(
    "change",
    [
        {"msisdn": "+491701234567"},
        {"msisdn": None},
        {"externalId": "a@b.example"},
        {"validityPeriod": -1},
        {"validityPeriod": True},
        {"validityPeriod": "60"},
        {"priority": "HIGH"},
        {"applicationPortId": 65_536},
        {"triggerPayload": "AQI"},
        {"triggerPayload": ""},
        {"triggerPayload": "äöü="},
        {"notificationDestination": "ftp://x/"},
        {"supportedFeatures": "x"},
        {"deliveryResult": "SUCCESS"},
        {"validity": 1},
    ],
)
def test_the_local_function_takes_nothing_that_is_not_described(change: dict[str, Any]) -> None:
    assert check_triggering(GOOD) == []
    assert check_triggering({**GOOD, **change})
    for missing in ("msisdn", "validityPeriod", "priority", "triggerPayload", "notificationDestination"):
        assert check_triggering({key: value for key, value in GOOD.items() if key != missing})
    assert check_triggering([])
    assert check_monitoring({**GOOD})


# --- references


def test_references_are_never_repeated_while_one_is_under_way_and_wrap_around() -> None:
    tracking = Tracking(10, Metrics(process=False), lambda: 0, lambda _entry: None)
    tracking._next = 0xFFFF_FFFE
    entries = [tracking.open(1, n, "a", "x", 10) for n in range(4)]
    assert [entry.reference for entry in entries] == [0xFFFF_FFFE, 0xFFFF_FFFF, 1, 2]
    tracking._next = 0xFFFF_FFFF
    assert tracking.open(1, 9, "a", "x", 10).reference == 3


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 40), st.booleans()), max_size=60))
def test_the_memory_of_triggers_never_grows_past_its_bound(steps: list[tuple[int, int, bool]]) -> None:
    now, metrics, silent = [0], Metrics(process=False), list[Entry]()
    tracking = Tracking(4, metrics, lambda: now[0], silent.append)
    taken = 0
    for registration, after, is_taken in steps:
        now[0] += after
        entry = tracking.open(1, registration, "a", "x", now[0] + 20)
        if is_taken:
            tracking.taken(entry)
            taken += 1
        assert len(tracking) <= 4
        assert len(tracking._newest) <= len(tracking)
        assert len(tracking._ends) <= 2 * len(tracking) + 101
        assert metrics.value(Metric.TRIGGERS_PENDING) == len(tracking)
        newest = tracking.newest(registration)
        assert newest is None or newest.is_taken
    assert len(silent) <= taken
    now[0] += 100
    tracking.sweep()
    assert len(tracking) == 0


def test_a_trigger_shows_nothing_when_it_is_printed() -> None:
    trigger = DeviceTrigger(1, b"geheim", 16_000, 30, False, "id@host")
    assert repr(trigger) == str(trigger) == "DeviceTrigger(…)"
