"""Conditions on an audience: all, any, not over tags, version, OS, locale, time zone and when a device was last seen.

Three answers: yes, no, or *it depends on the registration* (None): what cohorts decide is stored once and fanned out,
and only a condition on tags or on last-seen times needs a look at each registration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.model.cohort import Cohort, is_language, is_os
from gateway.model.errors import BadRequest, InvalidField
from gateway.model.quiet import is_timezone, zone_of
from gateway.model.versions import in_versions, parse_versions

MAX_DEPTH = 8
MAX_PARTS = 64

_Ago = Annotated[int, Meta(ge=3_600, le=315_360_000)]


class Condition(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Exactly one of these."""

    all: Annotated[list[Condition], Meta(min_length=1, max_length=32, description="each of them")] | None = None
    any: Annotated[list[Condition], Meta(min_length=1, max_length=32, description="one of them at least")] | None = None
    not_: Condition | None = msgspec.field(default=None, name="not")
    tag: Annotated[str, Meta(max_length=64, description="has this tag")] = ""
    versions: Annotated[str, Meta(max_length=256, description="app version in this PEP 440 set")] = ""
    os: Annotated[str, Meta(max_length=32, description="operating system, any case")] = ""
    locale: Annotated[str, Meta(max_length=35, description="`de` is met by `de-AT` too (RFC 4647 §3.3.1)")] = ""
    timezone: Annotated[str, Meta(max_length=64, description="IANA time zone; an old name of it is the same")] = ""
    seen_within: (
        Annotated[_Ago, Meta(description="seconds; connected counts as seen now; exact to the hour")] | None
    ) = None
    not_seen_for: Annotated[_Ago, Meta(description="seconds")] | None = None

    def kinds(self) -> list[str]:
        """Names of the fields that are set."""
        return [name.rstrip("_") for name in self.__struct_fields__ if getattr(self, name) not in ("", None)]


def check_condition(condition: Condition, field: str = "target.where") -> None:
    """BadRequest where a part names not exactly one thing, or what no registration can have, or it is too large."""
    parts = 0
    level = [(condition, field)]
    for _ in range(MAX_DEPTH):
        below: list[tuple[Condition, str]] = []
        for part, place in level:
            parts += 1
            kinds = part.kinds()
            if len(kinds) != 1:
                raise BadRequest(
                    "name exactly one of all, any, not, tag, versions, os, locale, timezone, seen_within, not_seen_for",
                    field=place,
                )
            wrong = _wrong(part)
            if wrong:
                raise BadRequest(wrong, field=f"{place}.{kinds[0]}")
            below += [(child, f"{place}.{kinds[0]}") for child in _below(part)]
        if parts > MAX_PARTS:
            raise BadRequest(f"a condition has at most {MAX_PARTS} parts", field=field)
        if not below:
            return
        level = below
    raise BadRequest(f"a condition is at most {MAX_DEPTH} levels deep", field=field)


def _wrong(part: Condition) -> str:
    """What is wrong with the value of a part; empty: nothing. Registrations are checked alike (store.checks)."""
    if part.versions:
        try:
            parse_versions(part.versions)
        except InvalidField:
            return "not a PEP 440 specifier set, such as >=2.0,<3"
    if part.os and not is_os(part.os.lower()):
        return "not the name of an OS: at most 32 of a-z 0-9 . _ -"
    if part.locale and not is_language(part.locale):
        return "not a language tag, such as pt-BR"
    if part.timezone and not is_timezone(part.timezone):
        return "not an IANA time zone, such as Europe/Berlin"
    return ""


def _below(part: Condition) -> list[Condition]:
    return [*(part.all or ()), *(part.any or ()), *((part.not_,) if part.not_ is not None else ())]


def count_parts(condition: Condition) -> int:
    return 1 + sum(map(count_parts, _below(condition)))


def tags_of(condition: Condition) -> Iterator[str]:
    """Every tag it names."""
    if condition.tag:
        yield condition.tag
    for part in _below(condition):
        yield from tags_of(part)


def required_tag(condition: Condition) -> str:
    """A tag that whoever meets it must have; empty where there is no such tag."""
    if condition.tag:
        return condition.tag
    for part in condition.all or ():
        tag = required_tag(part)
        if tag:
            return tag
    return ""


def is_of_cohort(condition: Condition) -> bool:
    """Can the cohort alone decide?"""
    if condition.tag or condition.seen_within is not None or condition.not_seen_for is not None:
        return False
    return all(is_of_cohort(part) for part in _below(condition))


def language_matches(wanted: str, locale: str) -> bool:
    """RFC 4647 §3.3.1 basic filtering: equal, or a prefix that ends at a hyphen; any case."""
    wanted, locale = wanted.lower(), locale.lower()
    return locale == wanted or locale.startswith(wanted + "-")


def decide(condition: Condition, cohort: Cohort) -> bool | None:
    """By the cohort alone; None: it depends on the registration."""
    if condition.all is not None:
        verdicts = [decide(part, cohort) for part in condition.all]
        return False if False in verdicts else None if None in verdicts else True
    if condition.any is not None:
        verdicts = [decide(part, cohort) for part in condition.any]
        return True if True in verdicts else None if None in verdicts else False
    if condition.not_ is not None:
        verdict = decide(condition.not_, cohort)
        return None if verdict is None else not verdict
    return _decide_one(condition, cohort)


def _decide_one(condition: Condition, cohort: Cohort) -> bool | None:
    if condition.versions:
        return in_versions(cohort.version, parse_versions(condition.versions))
    if condition.os:
        return condition.os.lower() == cohort.os
    if condition.locale:
        return language_matches(condition.locale, cohort.locale)
    if condition.timezone:
        return zone_of(condition.timezone) == zone_of(cohort.timezone or "UTC")
    return None


def holds(condition: Condition, cohort: Cohort, has_tag: Callable[[str], bool], seen_ago_s: Callable[[], int]) -> bool:
    """For one registration. `seen_ago_s`: seconds since its device was connected, 0 while it is."""
    if condition.all is not None:
        return all(holds(part, cohort, has_tag, seen_ago_s) for part in condition.all)
    if condition.any is not None:
        return any(holds(part, cohort, has_tag, seen_ago_s) for part in condition.any)
    if condition.not_ is not None:
        return not holds(condition.not_, cohort, has_tag, seen_ago_s)
    if condition.tag:
        return has_tag(condition.tag)
    if condition.seen_within is not None:
        return seen_ago_s() <= condition.seen_within
    if condition.not_seen_for is not None:
        return seen_ago_s() > condition.not_seen_for
    return bool(_decide_one(condition, cohort))
