"""App versions and PEP 440 ranges of them; must never match a range by comparing text.

A version that is not PEP 440 is matched by the empty range and by `===` with itself only. Pre-releases are versions
like any other: a device that has 2.1b1 is in `>=2.0`.
"""

from __future__ import annotations

from functools import lru_cache

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from gateway.model.errors import InvalidField


@lru_cache(maxsize=4_096)
def parse_versions(text: str, field: str = "target.versions") -> SpecifierSet:
    """A specifier set like ">=2.0,<3"; InvalidField names the field."""
    try:
        return SpecifierSet(text)
    except InvalidSpecifier:
        raise InvalidField(f"{field} is not a PEP 440 specifier set, such as >=2.0,<3", field=field) from None


@lru_cache(maxsize=65_536)
def parse_version(text: str) -> Version | None:
    """None where it is not PEP 440."""
    try:
        return Version(text)
    except InvalidVersion:
        return None


def in_versions(version: str, specifiers: SpecifierSet) -> bool:
    """Is this version in the range?"""
    if not len(specifiers):
        return True
    parsed = parse_version(version)
    if parsed is not None:
        return specifiers.contains(parsed, prereleases=True)
    return all(specifier.operator == "===" and specifier.version == version for specifier in specifiers)
