"""Fan-out groups: the registrations of an app that have their cohort in common, and which groups a target matches; must
never decide for one registration what its cohort decides for all.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from gateway.model.cohort import Cohort, parse_cohort
from gateway.model.condition import Condition, decide
from gateway.model.errors import QueueFull
from gateway.model.registration import PAGING_ONLY
from gateway.model.versions import in_versions, parse_versions

#: cohorts of one app that live registrations may have; past it a REGISTER with one more is refused (queue_full)
MAX_GROUPS_PER_APP = 65_536
#: a number nobody has any more is given to another cohort after this time, seconds
REST_S = 600.0
#: an app with so many is looked through for ones that nobody has, and again whenever those that were left doubled:
#: whoever broadcasts looks at them all
RETIRE_FROM = 1_024
#: how often at most
RETIRE_S = 10.0


class Matcher:
    """One range of one app, narrowed by a condition; remembers its verdict on each group."""

    __slots__ = ("_epoch", "_groups", "_specifiers", "_verdicts", "_where", "app")

    def __init__(self, groups: Groups, app: str, versions: str, where: Condition | None = None) -> None:
        self._groups = groups
        self._specifiers = parse_versions(versions)
        self._where = where
        self._verdicts: dict[int, bool] = {}
        self._epoch = groups.epoch
        self.app = app

    def __call__(self, group: int) -> bool:
        """May a registration of this group match? Where the condition looks at no more than cohorts: does it?"""
        if self._epoch != self._groups.epoch:
            self._verdicts.clear()
            self._epoch = self._groups.epoch
        verdict = self._verdicts.get(group)
        if verdict is None:
            verdict = self._verdicts[group] = self._groups.app(group) == self.app and self._decide(group)
        return verdict

    def _decide(self, group: int) -> bool:
        cohort = self._groups.cohort(group)
        if cohort.version == PAGING_ONLY or not in_versions(cohort.version, self._specifiers):
            return False
        return self._where is None or decide(self._where, cohort) is not False


class Groups:
    """Dense group numbers, given out as (app, cohort) pairs are met. Pairs that have no registration any more are
    forgotten when an app has many, and their numbers given to others, but not before REST_S are over: fan-outs
    under way hold them. Matchers forget their verdicts then. `population`: how many registrations a group has.
    """

    def __init__(self, population: Callable[[int], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._population = population
        self._clock = clock
        #: counts reuses: verdicts of before are not worth anything
        self.epoch = 0
        self._resting: deque[tuple[float, int]] = deque()  # (since, number)
        self._retired_at: dict[str, float] = {}  # app → when it was looked through
        self._retire_from: dict[str, int] = {}  # app → number of groups at which it is next
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
        now = self._clock()
        is_many = len(of_app) >= min(self._retire_from.get(app, RETIRE_FROM), MAX_GROUPS_PER_APP)
        if is_many and now - self._retired_at.get(app, -RETIRE_S) >= RETIRE_S:
            self._retired_at[app] = now
            self._retire(of_app, now)
            self._retire_from[app] = max(RETIRE_FROM, 2 * len(of_app))
        if len(of_app) >= MAX_GROUPS_PER_APP:
            raise QueueFull("too many different versions, locales and quiet hours of this app", field="version")
        if self._resting and now - self._resting[0][0] >= REST_S:
            number = self._resting.popleft()[1]
            self._pairs[number], self._cohorts[number] = pair, parse_cohort(cohort)
            self.epoch += 1
        else:
            number = len(self._pairs)
            self._pairs.append(pair)
            self._cohorts.append(parse_cohort(cohort))
        self._numbers[pair] = number
        of_app.append(number)
        return number

    def known(self, app: str, cohort: str) -> int:
        """-1 where the pair was not met, or is forgotten."""
        return self._numbers.get((app, cohort), -1)

    def _retire(self, of_app: list[int], now: float) -> None:
        """Forget the cohorts nobody has (any more): a device that changes its own again and again fills no place."""
        kept: list[int] = []
        for group in of_app:
            if self._population(group):
                kept.append(group)
                continue
            app, cohort = self._pairs[group]
            del self._numbers[app, cohort]
            self._pairs[group] = (app, "")
            self._cohorts[group] = Cohort("")
            self._resting.append((now, group))
        of_app[:] = kept

    def app(self, group: int) -> str:
        return self._pairs[group][0]

    def cohort(self, group: int) -> Cohort:
        return self._cohorts[group]

    def matching(self, app: str, versions: str, where: Condition | None = None) -> list[int]:
        """Groups of the app in this range that may match, in order of their numbers."""
        if not versions and where is None:
            return [group for group in self._of(app) if self._cohorts[group].version != PAGING_ONLY]
        matches = Matcher(self, app, versions, where)
        return [group for group in self._of(app) if matches(group)]

    def _of(self, app: str) -> Iterable[int]:
        return self._of_app.get(app, ())
