"""The shape of a run: a day in a minute, a storm, or a burst; scaled to the users and the time there are."""

from __future__ import annotations

from typing import Any, NamedTuple

from load.scenarios.storms import STORMS


class Phase(NamedTuple):
    name: str
    end: float  # share of the run at which it ends
    users: float  # share of all users at its end
    storm: float = 0.0  # share of the devices that drop as it begins


#: night, the morning's reconnections, day, an evening peak, a storm, and how it calms down
SCENARIOS: dict[str, tuple[Phase, ...]] = {
    "day": (
        Phase("night", 0.1, 0.3),
        Phase("morning", 0.25, 0.8),
        Phase("day", 0.5, 0.8, 0.05),
        Phase("evening", 0.7, 1.0),
        Phase("storm", 0.85, 1.0, 0.5),
        Phase("late", 1.0, 0.7),
    ),
    "storm": (Phase("fill", 0.3, 1.0), Phase("storm", 0.65, 1.0, 1.0), Phase("again", 1.0, 1.0, 1.0)),
    "burst": (Phase("fill", 0.3, 1.0), Phase("burst", 1.0, 1.0)),
}


def phase_at(scenario: str, passed: float) -> tuple[int, Phase] | None:
    """The phase at this share of the run, and its place; None when it is over."""
    for place, phase in enumerate(SCENARIOS[scenario]):
        if passed < phase.end:
            return place, phase
    return None


def users_at(scenario: str, passed: float, most: int) -> int:
    """Users at this share of the run: a straight line inside each phase, at least two."""
    began, before = 0.0, 0.0
    for phase in SCENARIOS[scenario]:
        if passed < phase.end:
            inside = (passed - began) / (phase.end - began)
            return max(2, round(most * (before + (phase.users - before) * inside)))
        began, before = phase.end, phase.users
    return max(2, round(most * before))


class Shape:
    """What locust asks for (locust.LoadTestShape.tick), without locust."""

    def __init__(self) -> None:
        self._place = -1

    def tick(self, run_time: float, options: Any) -> tuple[int, float] | None:
        passed = run_time / options.full_seconds
        found = phase_at(options.scenario, passed)
        if found is None:
            return None
        place, phase = found
        if place != self._place:
            self._place = place
            if phase.storm:
                STORMS.call(phase.storm)
        users = users_at(options.scenario, passed, options.full_users)
        return users, max(10.0, options.full_users / 5)
