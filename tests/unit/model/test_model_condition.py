"""Conditions, cohorts and quiet hours: pure functions, each checked against a plain account of what it means."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo, available_timezones

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model.cohort import Cohort, build_cohort, parse_cohort
from gateway.model.condition import (
    Condition,
    check_condition,
    decide,
    holds,
    is_of_cohort,
    language_matches,
    required_tag,
    tags_of,
)
from gateway.model.errors import BadRequest
from gateway.model.quiet import is_timezone, parse_span, quiet_until, zone_of

TEXT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)
TAGS = st.sampled_from("abc")
ATOMS = st.one_of(
    st.builds(Condition, tag=TAGS),
    st.builds(Condition, os=st.sampled_from(["ios", "Android"])),
    st.builds(Condition, locale=st.sampled_from(["de", "de-AT", "fr"])),
    st.builds(Condition, versions=st.sampled_from([">=2", "<2", "==1.*"])),
    st.builds(Condition, timezone=st.sampled_from(["UTC", "Asia/Tokyo"])),
    st.builds(Condition, seen_within=st.just(7_200)),
    st.builds(Condition, not_seen_for=st.just(7_200)),
)
CONDITIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds(Condition, all=st.lists(inner, min_size=1, max_size=3)),
        st.builds(Condition, any=st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: Condition(not_=part), inner),
    ),
    max_leaves=8,
)
COHORTS = st.builds(
    Cohort,
    st.sampled_from(["1.0", "2.1", "weird"]),
    st.sampled_from(["", "ios", "android"]),
    st.sampled_from(["", "de", "de-AT", "fr"]),
    st.sampled_from(["", "Asia/Tokyo"]),
    st.sampled_from(["", "22:00-07:00"]),
)


@given(COHORTS, st.lists(TEXT.filter(lambda text: "\x1f" not in text), min_size=5, max_size=5))
def test_a_cohort_comes_back_from_its_text_and_fits_a_row(cohort: Cohort, fields: list[str]) -> None:
    assert parse_cohort(build_cohort(cohort)) == cohort
    assert parse_cohort(build_cohort(Cohort(*fields))) == Cohort(*fields)
    assert build_cohort(Cohort("2.1")) == "2.1"
    assert len(build_cohort(Cohort("v" * 64, "o" * 32, "l" * 35, "t" * 64, "22:00-07:00"))) <= 255


@settings(max_examples=300)
@given(CONDITIONS, COHORTS, st.frozensets(TAGS), st.sampled_from([0, 7_200, 7_201]))
def test_what_a_cohort_decides_is_so_for_each_of_its_registrations(
    condition: Condition, cohort: Cohort, tags: frozenset[str], ago: int
) -> None:
    verdict = decide(condition, cohort)
    held = holds(condition, cohort, tags.__contains__, lambda: ago)
    assert verdict in (None, held)
    if is_of_cohort(condition):
        assert verdict is held
    if held and (tag := required_tag(condition)):
        assert tag in tags
    assert set(tags_of(condition)) <= set("abc")


@given(CONDITIONS)
def test_a_condition_survives_json_and_msgpack(condition: Condition) -> None:
    check_condition(condition)
    assert msgspec.json.decode(msgspec.json.encode(condition), type=Condition) == condition
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(condition), type=Condition) == condition


def test_not_is_spelled_not() -> None:
    assert msgspec.json.decode(b'{"not":{"tag":"a"}}', type=Condition) == Condition(not_=Condition(tag="a"))
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"not_":{"tag":"a"}}', type=Condition)


def test_a_part_that_names_nothing_is_refused() -> None:
    with pytest.raises(BadRequest) as refused:
        check_condition(Condition(all=[Condition(tag="a"), Condition(not_=Condition())]))
    assert refused.value.field == "target.where.all.not"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("timezone", "Mars/Phobos"),
        ("timezone", "europe/vienna"),
        ("timezone", "../etc/passwd"),
        ("locale", "de_AT"),
        ("locale", "*"),
        ("locale", "de-*-AT"),
        ("locale", "d"),
        ("os", "i OS"),
        ("os", "\u0130OS"),
        ("versions", ">=banana"),
    ],
)
def test_what_no_registration_can_have_is_refused_where_it_stands(kind: str, value: str) -> None:
    with pytest.raises(BadRequest) as refused:
        check_condition(Condition(any=[Condition(tag="a"), Condition(not_=Condition(**{kind: value}))]))
    assert refused.value.field == f"target.where.any.not.{kind}"
    assert value not in refused.value.message


@pytest.mark.parametrize(
    ("wanted", "timezone", "matches"),
    [
        ("Asia/Kolkata", "Asia/Calcutta", True),
        ("Asia/Calcutta", "Asia/Kolkata", True),
        ("Etc/UTC", "", True),
        ("UTC", "Etc/UTC", True),
        ("US/Eastern", "America/New_York", True),
        # links in the zone database, and places of their own all the same
        ("Europe/Berlin", "Europe/Stockholm", False),
        ("Africa/Abidjan", "Iceland", False),
        ("Asia/Kolkata", "Asia/Tokyo", False),
    ],
)
def test_a_zone_is_the_same_by_its_old_name(wanted: str, timezone: str, matches: bool) -> None:
    assert decide(Condition(timezone=wanted), Cohort("1", timezone=timezone)) is matches


def test_each_zone_that_is_known_has_one_name_that_is_known() -> None:
    for name in available_timezones() - {"localtime", "Factory"}:
        assert is_timezone(zone_of(name)), name
        assert zone_of(zone_of(name)) == zone_of(name)


@pytest.mark.parametrize(
    ("wanted", "locale", "matches"),
    [("de", "de-AT", True), ("DE", "de", True), ("de-AT", "de", False), ("d", "de", False), ("de", "", False)],
)
def test_languages_match_by_whole_subtags(wanted: str, locale: str, matches: bool) -> None:  # RFC 4647 section 3.3.1
    assert language_matches(wanted, locale) is matches


# --- quiet hours


def ms(zone: str, *when: int, fold: int = 0) -> int:
    return int(datetime(*when, tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    "text", ["22:00-7:00", "24:00-07:00", "22:60-07:00", "22:00", "", "22:00-22:00", "22:00-07:00 "]
)
def test_a_span_that_is_none_is_refused(text: str) -> None:
    assert parse_span(text) is None


@pytest.mark.parametrize("name", ["", "Nowhere", "../etc/passwd", "Europe/Berlin\n", "/etc/localtime", "a" * 99])
def test_a_zone_that_is_none_is_refused(name: str) -> None:
    assert not is_timezone(name)


def test_the_end_is_the_next_morning_by_the_wall_clock() -> None:
    zone = "Europe/Berlin"
    assert quiet_until(zone, "22:00-07:00", ms(zone, 2027, 1, 20, 23, 30)) == ms(zone, 2027, 1, 21, 7)
    assert quiet_until(zone, "22:00-07:00", ms(zone, 2027, 1, 21, 6, 59)) == ms(zone, 2027, 1, 21, 7)
    assert quiet_until(zone, "22:00-07:00", ms(zone, 2027, 1, 21, 7)) == 0
    assert quiet_until(zone, "22:00-07:00", ms(zone, 2027, 1, 21, 21, 59)) == 0
    assert quiet_until(zone, "12:00-13:00", ms(zone, 2027, 1, 21, 12, 1)) == ms(zone, 2027, 1, 21, 13)
    assert quiet_until("", "", 0) == 0


def test_daylight_saving_moves_the_end_with_the_wall_clock() -> None:
    zone = "Europe/Berlin"
    before = ms(zone, 2027, 3, 27, 23)  # the clock is set forward that night
    assert quiet_until(zone, "22:00-07:00", before) - before == 7 * 3_600_000
    before = ms(zone, 2027, 10, 30, 23)  # and back that one
    assert quiet_until(zone, "22:00-07:00", before) - before == 9 * 3_600_000


@given(
    st.sampled_from(["Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]),
    st.integers(0, 1439),
    st.integers(1, 1439),
    st.integers(1_780_000_000, 1_840_000_000),
)
def test_it_always_ends_later_and_within_a_day(zone: str, begin: int, length: int, now_s: int) -> None:
    end = (begin + length) % 1440
    span = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    until = quiet_until(zone, span, now_s * 1000)
    assert until == 0 or now_s * 1000 < until <= (now_s + 25 * 3_600) * 1000
