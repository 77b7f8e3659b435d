"""Fan-out groups: the registrations of an app that have their cohort in common, and which groups a target matches; must
never decide for one registration what its cohort decides for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.model.cohort import Cohort, parse_cohort
from gateway.model.condition import Condition, decide
from gateway.model.errors import QueueFull
from gateway.model.versions import in_versions, parse_versions

#: cohorts of one app that live registrations may have; past it a REGISTER with one more is refused (queue_full)
MAX_GROUPS_PER_APP = 65_536


class Matcher:
    """One range of one app, narrowed by a condition; remembers its verdict on each group."""

    __slots__ = ("_groups", "_specifiers", "_verdicts", "_where", "app")

    def __init__(self, groups: Groups, app: str, versions: str, where: Condition | None = None) -> None:
        self._groups = groups
        self._specifiers = parse_versions(versions)
        self._where = where
        self._verdicts: dict[int, bool] = {}
        self.app = app

    def __call__(self, group: int) -> bool:
        """May a registration of this group match? Where the condition looks at no more than cohorts: does it?"""
        verdict = self._verdicts.get(group)
        if verdict is None:
            verdict = self._verdicts[group] = self._groups.app(group) == self.app and self._decide(group)
        return verdict

    def _decide(self, group: int) -> bool:
        cohort = self._groups.cohort(group)
        if not in_versions(cohort.version, self._specifiers):
            return False
        return self._where is None or decide(self._where, cohort) is not False


class Groups:
    """Dense group numbers, given out as (app, cohort) pairs are met. A number is never given to another pair, for
    fan-outs and matchers under way hold it; pairs that have no registration any more are forgotten when an app has too
    many. `population`: how many registrations a group has.
    """

    def __init__(self, population: Callable[[int], int]) -> None:
        self._population = population
        self._numbers: dict[tuple[str, str], int] = {}
        self._pairs: list[tuple[str, str]] = []
        self._cohorts: list[Cohort] = []
        self._of_app: dict[str, list[int]] = {}

    def number(self, app: str, cohort: str) -> int:
        """`cohort` in its text form."""
        pair = (app, cohort)
        number = self._numbers.get(pair)
        if number is not None:
            return number
        of_app = self._of_app.setdefault(app, [])
        if len(of_app) >= MAX_GROUPS_PER_APP:
            self._retire(of_app)
        if len(of_app) >= MAX_GROUPS_PER_APP:
            raise QueueFull("too many different versions, locales and quiet hours of this app", field="version")
        number = self._numbers[pair] = len(self._pairs)
        self._pairs.append(pair)
        self._cohorts.append(parse_cohort(cohort))
        of_app.append(number)
        return number

    def _retire(self, of_app: list[int]) -> None:
        """Forget the cohorts nobody has (any more): a device that changes its own again and again fills no place."""
        for group in [group for group in of_app if not self._population(group)]:
            of_app.remove(group)
            app, cohort = self._pairs[group]
            del self._numbers[app, cohort]
            self._pairs[group] = (app, "")
            self._cohorts[group] = Cohort("")

    def app(self, group: int) -> str:
        return self._pairs[group][0]

    def cohort(self, group: int) -> Cohort:
        return self._cohorts[group]

    def matching(self, app: str, versions: str, where: Condition | None = None) -> list[int]:
        """Groups of the app in this range that may match, in order of their numbers."""
        matches = Matcher(self, app, versions, where)
        return [group for group in self._of(app) if matches(group)]

    def _of(self, app: str) -> Iterable[int]:
        return self._of_app.get(app, ())
