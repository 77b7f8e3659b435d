"""What the registrations of one fan-out group have in common: app version, OS, locale, time zone, quiet hours.

Whatever can be decided by these is decided once a group, never once a device. The text form is the version alone where
the rest is not known, so a registration that says nothing of itself costs nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

#: between the fields of the text form; none of them may hold it
_BETWEEN = "\x1f"
_OS = re.compile(r"[a-z0-9._-]{1,32}")
_LANGUAGE = re.compile(r"(?=.{2,35}$)[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*")


def is_os(name: str) -> bool:
    return bool(_OS.fullmatch(name))


def is_language(tag: str) -> bool:
    """Has it the form of a language tag (RFC 5646)?"""
    return bool(_LANGUAGE.fullmatch(tag))


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
