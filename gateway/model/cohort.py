"""What the registrations of one fan-out group have in common: app version, OS, locale, time zone, quiet hours.

Whatever can be decided by these is decided once a group, never once a device. The text form is the version alone where
the rest is not known, so a registration that says nothing of itself costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

#: between the fields of the text form; none of them may hold it
_BETWEEN = "\x1f"


class Cohort(NamedTuple):
    """All fields ASCII; empty = not known."""

    version: str
    os: str = ""
    #: BCP 47 language tag, "pt-BR"
    locale: str = ""
    #: IANA name, "Europe/Berlin"; empty counts as UTC
    timezone: str = ""
    #: "22:00-07:00" local time; empty = none
    quiet: str = ""


def build_cohort(cohort: Cohort) -> str:
    """Text form, at most 255 bytes: fields in order, empty ones at the end left out."""
    return _BETWEEN.join(cohort).rstrip(_BETWEEN)


def parse_cohort(text: str) -> Cohort:
    return Cohort(*text.split(_BETWEEN))
