"""Which notifier of a fallback chain is next; must never go by its place alone: a chain may be changed while one of it
is asked, and a delivery lives longer than a process.

Those whose calls wait or are under way are known by name, and so are, by the history, those that answered: who took
the message, and who failed. A delivery's `hop` says how many of all these are used up. Who that is of those that
failed, its trail says; without one those behind `hop`, who failed last, count as unused again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from gateway.model.outcome import Step

#: names that are used up, of a chain that is changed over and over; the store keeps the number in a byte
MAX_HOPS = 64


def used_up(
    steps: Iterable[Step],
    hop: int,
    asked: Iterable[str] = (),
    *,
    failed: Iterable[str] = (),
    opened: Collection[str] = (),
) -> list[str]:
    """Names. `asked`: their calls are under way, or have just ended and have no line yet. `failed`, `opened`: of those
    that failed these are known to be used up, or not to be."""
    took, others = _who(steps)
    names = list(dict.fromkeys((*asked, *took, *failed)))
    rest = [name for name in others if name not in names and name not in opened]
    return names + rest[: max(0, hop - len(names))]


def find_next(chain: Iterable[str], used: Collection[str]) -> str:
    """Empty: none is left."""
    return next((name for name in chain if name not in used), "")


def count_took(steps: Iterable[Step]) -> int:
    """How many took the message: these are never asked again."""
    return len(_who(steps)[0])


def _who(steps: Iterable[Step]) -> tuple[list[str], list[str]]:
    """Names of those that took it, and of those that failed since, each in the order of its last word."""
    took: dict[str, None] = {}
    failed: dict[str, None] = {}
    for step in steps:
        if step.what == "notified":
            said = took
        elif step.what == "notifier_failed":
            said = failed
        else:
            continue
        took.pop(step.channel, None)
        failed.pop(step.channel, None)
        said[step.channel] = None
    return list(took), list(failed)
