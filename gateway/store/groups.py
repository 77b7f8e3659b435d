"""(app, version) groups and what a version range matches; must never match a range by comparing text.

Versions sort by PEP 440. A version that is not PEP 440 is matched by the empty range and by `===` with itself only.
Pre-releases are versions like any other: a device that has 2.1b1 is in `>=2.0`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from gateway.model.errors import InvalidField, QueueFull

#: versions of one app that live registrations may have; past it a REGISTER with one more is refused (queue_full)
MAX_VERSIONS_PER_APP = 10_000


@lru_cache(maxsize=4_096)
def parse_versions(text: str) -> SpecifierSet:
    """A specifier set like ">=2.0,<3"; InvalidField names target.versions."""
    try:
        return SpecifierSet(text)
    except InvalidSpecifier:
        raise InvalidField(
            "target.versions is not a PEP 440 specifier set, such as >=2.0,<3", field="target.versions"
        ) from None


def _parse_version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


class Matcher:
    """One range of one app; remembers its verdict on each group."""

    __slots__ = ("_groups", "_specifiers", "_verdicts", "app")

    def __init__(self, groups: Groups, app: str, versions: str) -> None:
        self._groups = groups
        self._specifiers = parse_versions(versions)
        self._verdicts: dict[int, bool] = {}
        self.app = app

    def __call__(self, group: int) -> bool:
        verdict = self._verdicts.get(group)
        if verdict is None:
            verdict = self._verdicts[group] = self._groups.app(group) == self.app and self._decide(group)
        return verdict

    def _decide(self, group: int) -> bool:
        specifiers = self._specifiers
        if not len(specifiers):
            return True
        version = self._groups.parsed(group)
        if version is not None:
            return specifiers.contains(version, prereleases=True)
        text = self._groups.version(group)
        return all(specifier.operator == "===" and specifier.version == text for specifier in specifiers)


class Groups:
    """Dense group numbers, given out as (app, version) pairs are met. A number is never given to another pair, for
    fan-outs and matchers under way hold it; pairs that have no registration any more are forgotten when an app has too
    many. `population`: how many registrations a group has.
    """

    def __init__(self, population: Callable[[int], int]) -> None:
        self._population = population
        self._numbers: dict[tuple[str, str], int] = {}
        self._pairs: list[tuple[str, str]] = []
        self._parsed: list[Version | None] = []
        self._of_app: dict[str, list[int]] = {}

    def number(self, app: str, version: str) -> int:
        pair = (app, version)
        number = self._numbers.get(pair)
        if number is not None:
            return number
        of_app = self._of_app.setdefault(app, [])
        if len(of_app) >= MAX_VERSIONS_PER_APP:
            self._retire(of_app)
        if len(of_app) >= MAX_VERSIONS_PER_APP:
            raise QueueFull("too many different versions of this app", field="version")
        number = self._numbers[pair] = len(self._pairs)
        self._pairs.append(pair)
        self._parsed.append(_parse_version(version))
        of_app.append(number)
        return number

    def _retire(self, of_app: list[int]) -> None:
        """Forget the versions nobody has (any more): a device that changes its own again and again fills no place."""
        for group in [group for group in of_app if not self._population(group)]:
            of_app.remove(group)
            app, version = self._pairs[group]
            del self._numbers[app, version]
            self._pairs[group] = (app, "")
            self._parsed[group] = None

    def app(self, group: int) -> str:
        return self._pairs[group][0]

    def version(self, group: int) -> str:
        return self._pairs[group][1]

    def parsed(self, group: int) -> Version | None:
        return self._parsed[group]

    def matching(self, app: str, versions: str) -> list[int]:
        """Groups of the app in this range, in order of their numbers."""
        matches = Matcher(self, app, versions)
        return [group for group in self._of(app) if matches(group)]

    def _of(self, app: str) -> Iterable[int]:
        return self._of_app.get(app, ())
