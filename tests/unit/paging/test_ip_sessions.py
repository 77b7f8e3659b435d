"""Who has which address: by when things happened, not by when they were told (C11, C15)."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ip_scene import IMSI, MSISDN

from gateway.config.operator_sections import Radius
from gateway.metrics import Metric, Metrics
from gateway.model.subscriber import NetworkIdKind
from gateway.paging.ip import sessions as sessions_module
from gateway.paging.ip.accounting import INTERIM, OFF, ON, START, STOP, Accounting
from gateway.paging.ip.sessions import MOST_OF_ONE, Sessions

T0_S = 1_700_000_000
A, B = "001010000000001", "001010000000002"


class Table:
    def __init__(self, **radius: Any) -> None:
        self.now_s = float(T0_S)
        self.metrics = Metrics(process=False)
        self.sessions = Sessions(Radius(**radius), self.metrics, lambda: int(self.now_s * 1000))

    def tell(self, status: int, session: str = "a", imsi: str = A, at: int = 0, nas: str = "n", **said: Any) -> str:
        values = {"ipv4": "10.45.0.7", "event_s": T0_S + at, **said}
        return self.sessions.apply(Accounting(1, b"", status, session.encode(), imsi=imsi, **values), nas.encode())

    def whose(self, ip: str = "10.45.0.7") -> str:
        found = self.sessions.whose(ip)
        return found[0].value if found else ""

    def addresses(self, imsi: str = A) -> list[str]:
        return [session.ipv4 for session in self.sessions.of(iter([(NetworkIdKind.IMSI, imsi)]))]


def test_start_interim_and_stop() -> None:
    table = Table()
    assert table.tell(START) == "on_line"
    assert (table.whose(), table.addresses()) == (A, ["10.45.0.7"])
    assert table.tell(INTERIM, imsi="", at=10) == "interim"  # it need not say all again
    assert table.whose() == A
    assert table.tell(STOP, at=20) == "off_line"
    assert (table.whose(), table.addresses(), len(table.sessions)) == ("", [], 0)


def test_a_late_stop_does_not_end_the_next_one_at_the_address() -> None:
    table = Table()
    table.tell(START, "a", A)
    table.tell(START, "b", B, at=10)
    assert table.tell(STOP, "a", A, at=5) == "off_line"
    assert table.whose() == B


def test_a_late_start_does_not_take_the_address_back() -> None:
    table = Table()
    table.tell(START, "b", B, at=10)
    assert table.tell(START, "a", A, at=5) == "late"
    assert table.tell(INTERIM, "a", A, at=10) == "late"
    assert table.whose() == B
    assert table.tell(START, "c", A, at=10) == "on_line"  # in the same second: the last one that was told
    assert table.whose() == A


def test_a_start_after_its_stop_changes_nothing() -> None:
    table = Table()
    assert table.tell(STOP, at=5) == "off_line"
    assert table.tell(START, at=0) == "late"
    assert table.tell(INTERIM, at=5) == "late"
    assert table.whose() == ""
    assert table.tell(START, at=6) == "on_line"  # the id is used again
    assert table.tell(STOP, at=5) == "late"
    assert table.whose() == A


def test_an_older_word_about_a_session_does_not_count() -> None:
    table = Table()
    table.tell(START, ipv4="10.45.0.8", at=10)
    assert table.tell(START, ipv4="10.45.0.7", at=5) == "late"
    assert table.addresses() == ["10.45.0.8"]


def test_without_a_time_of_its_own_it_is_as_old_as_it_was_tried() -> None:
    table = Table()
    table.tell(START, "b", B, event_s=0)
    assert table.tell(START, "a", A, event_s=0, delay_s=30) == "late"
    assert table.whose() == B


@pytest.mark.parametrize("event_s", [1, T0_S + 100_000, 0xFFFFFFFF])
def test_a_clock_that_is_far_off_is_not_believed(event_s: int) -> None:
    table = Table()
    table.tell(START, "b", B, event_s=event_s)
    table.now_s += 10
    assert table.tell(START, "a", A, at=10) == "on_line"
    assert table.whose() == A


@pytest.mark.parametrize("status", [ON, OFF])
def test_a_nas_that_starts_again_has_no_sessions(status: int) -> None:
    table = Table()
    table.tell(START, "a", A, nas="n")
    table.tell(START, "b", B, nas="other", ipv4="10.45.0.8")
    assert table.tell(status, at=10) == "flushed"
    assert (table.whose(), table.whose("10.45.0.8")) == ("", B)
    assert table.addresses() == []
    assert table.tell(START, "a", A, at=9) == "late"
    assert table.tell(START, "a", A, at=10) == "on_line"
    assert table.tell(status, at=5) == "late"  # an old word that was held up
    assert table.whose() == A


def test_nases_that_started_again_are_bounded_and_what_they_had_stays_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "MOST_FLUSHED", 2)
    table = Table()
    table.tell(START, "a", A, nas="n0")
    table.tell(START, "b", B, nas="other", ipv4="10.45.0.8")
    for n in range(4):
        table.tell(ON, nas=f"n{n}", at=10 + n)
    assert (table.whose(), table.whose("10.45.0.8"), len(table.sessions)) == ("", B, 1)
    assert table.metrics.value(Metric.NOTIFIER_BOUNDS, "ip nases") == 2


def test_a_session_ages_and_an_interim_update_keeps_it() -> None:
    table = Table(session_max_s=100)
    table.tell(START)
    table.now_s += 90
    table.tell(INTERIM, at=90)
    table.now_s += 90
    assert table.whose() == A
    table.now_s += 11
    assert (table.whose(), table.addresses()) == ("", [])
    table.tell(START, "b", B, at=191, ipv4="10.45.0.9")
    assert len(table.sessions) == 1  # what is over goes by and by


def test_past_the_bound_the_one_not_heard_of_for_longest_goes() -> None:
    table = Table(sessions=2)
    table.tell(START, "a", A, ipv4="10.0.0.1")
    table.tell(START, "b", B, ipv4="10.0.0.2")
    table.tell(INTERIM, "a", A, ipv4="10.0.0.1", at=1)
    table.tell(START, "c", "001010000000003", ipv4="10.0.0.3")
    assert [table.whose(f"10.0.0.{n}") for n in (1, 2, 3)] == [A, "", "001010000000003"]
    assert table.metrics.value(Metric.NOTIFIER_BOUNDS, "ip sessions") == 1
    assert table.metrics.value(Metric.RADIUS_SESSIONS) == 2


def test_sessions_of_one_subscriber_are_bounded_and_the_newest_is_first() -> None:
    table = Table()
    for n in range(MOST_OF_ONE + 2):
        table.tell(START, f"s{n}", ipv4=f"10.0.0.{n + 1}", at=n)
    assert len(table.addresses()) == MOST_OF_ONE
    assert table.addresses()[0] == f"10.0.0.{MOST_OF_ONE + 2}"
    assert table.metrics.value(Metric.NOTIFIER_BOUNDS, "ip sessions of one") == 2


def test_a_user_name_that_all_have_is_no_name() -> None:
    table = Table()
    for n in range(100):
        imsi = f"0010100000001{n:02d}"
        assert table.tell(START, f"s{n}", imsi, ipv4=f"10.1.0.{n + 1}", nai="web@apn.example.com") == "on_line"
    assert all(table.whose(f"10.1.0.{n + 1}") == f"0010100000001{n:02d}" for n in range(100))
    table.tell(START, "t", "", ipv4="10.2.0.1", nai="web@apn.example.com")
    assert len(list(table.sessions.of(iter([(NetworkIdKind.NAI, "web@apn.example.com")])))) == MOST_OF_ONE


def test_a_prefix_has_its_hosts_and_the_narrowest_counts() -> None:
    table = Table()
    table.tell(START, "a", A, ipv4="", ipv6_prefix="2001:db8::/48")
    table.tell(START, "b", B, ipv4="", ipv6_prefix="2001:db8:0:7::/64")
    assert table.whose("2001:db8:0:7::99") == B
    assert table.whose("2001:db8:0:8::99") == A
    assert table.whose("2001:db9::1") == ""
    table.tell(STOP, "b", B, at=1)
    assert table.whose("2001:db8:0:7::99") == A


def test_of_two_addresses_one_may_be_anothers_since() -> None:
    table = Table()
    table.tell(START, "a", A, ipv6_prefix="2001:db8:0:7::/64")
    table.tell(START, "b", B, at=1)
    assert (table.whose(), table.whose("2001:db8:0:7::1")) == (B, A)
    table.tell(START, "c", B, ipv4="", ipv6_prefix="2001:db8:0:7::/64", at=2)
    assert table.whose("2001:db8:0:7::1") == B
    assert table.addresses(A) == []


@pytest.mark.parametrize(
    ("said", "result"),
    [
        ({"ipv4": ""}, "nobody"),
        ({"session": ""}, "nobody"),
        ({"imsi": ""}, "nobody"),
        ({"status": 9}, "unknown"),
        ({"status": 15}, "unknown"),
    ],
)
def test_what_says_nothing_is_answered_and_changes_nothing(said: dict[str, Any], result: str) -> None:
    table = Table()
    assert table.tell(**{"status": START, **said}) == result
    assert len(table.sessions) == 0


def test_by_number_and_by_nai() -> None:
    table = Table()
    table.tell(START, msisdn=MSISDN, nai="ann@example.com")
    for kind, value in ((NetworkIdKind.MSISDN, MSISDN), (NetworkIdKind.NAI, "ann@example.com")):
        assert len(list(table.sessions.of(iter([(kind, value)])))) == 1
    assert {each.kind for each in table.sessions.whose("10.45.0.7") or ()} == {
        NetworkIdKind.IMSI,
        NetworkIdKind.MSISDN,
        NetworkIdKind.NAI,
    }
    assert IMSI not in repr(table.sessions.whose("10.45.0.7"))


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([START, STOP, INTERIM, ON]),
        st.sampled_from("abcd"),
        st.sampled_from([A, B, ""]),
        st.integers(0, 8),
        st.sampled_from("nm"),
        st.sampled_from(["", "10.0.0.1", "10.0.0.2"]),
        st.sampled_from(["", "2001:db8::/64", "2001:db8::/48"]),
        st.integers(0, 20),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(EVENTS)
def test_whatever_is_told_in_any_order_the_table_agrees_with_itself(events: list[Any]) -> None:
    table = Table(sessions=3, session_max_s=30)
    for status, session, imsi, at, nas, ipv4, prefix, passed in events:
        table.now_s += passed
        table.tell(status, session, imsi, at, nas, ipv4=ipv4, ipv6_prefix=prefix)
        sessions = table.sessions
        known = list(sessions._sessions.values())
        assert len(known) <= 3
        assert sorted(id(s) for s in sessions._by_ipv4.values()) == sorted(id(s) for s in known if s.ipv4)
        assert sorted(id(s) for s in sessions._by_prefix.values()) == sorted(id(s) for s in known if s.prefix)
        assert sum(len(each) for each in sessions._by_nas.values()) == len(known)
        assert sum(sessions._prefix_bits.values()) == len(sessions._by_prefix)
        assert sum(len(each) for each in sessions._by_name.values()) == sum(len(s.names) for s in known)
        assert all(s.ipv4 or s.prefix for s in known)
        for ip in ("10.0.0.1", "2001:db8::1"):
            found = sessions.at(ip_address(ip))
            assert found is None or found in sessions.of(iter(found.names))


def test_reports_with_and_without_a_time_of_their_own_inside_one_second_are_in_order() -> None:
    table = Table()
    table.now_s = T0_S + 0.75
    assert table.tell(ON, event_s=0) == "flushed"
    assert table.tell(START) == "on_line"
    assert table.tell(INTERIM, event_s=0) == "interim"
    assert table.tell(STOP) == "off_line"
