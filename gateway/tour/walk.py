"""Goes from clause to clause, each in turn on the same stage; a clause that fails does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from gateway.tour import (
    clauses_a,
    clauses_b,
    clauses_c,
    clauses_c8,
    clauses_c14,
    clauses_campaign,
    clauses_card_osmo,
    clauses_d,
    clauses_d_networks,
    clauses_doors,
    clauses_downloads,
    clauses_e,
    clauses_f,
    clauses_hss,
    clauses_ip,
    clauses_k,
    clauses_service,
    clauses_tokens,
    clauses_trigger,
    clauses_wap,
)
from gateway.tour.fleet import Fleet
from gateway.tour.stage import Failed, Shown, Skipped, Stage

Clause = Callable[[Stage, Fleet], Awaitable[str | Shown]]
_PARTS = (
    clauses_a,
    clauses_b,
    clauses_c,
    clauses_c8,
    clauses_c14,
    clauses_wap,
    clauses_trigger,
    clauses_hss,
    clauses_ip,
    clauses_service,
    clauses_d,
    clauses_d_networks,
    clauses_e,
    clauses_card_osmo,
    clauses_downloads,
    clauses_campaign,
    clauses_f,
    clauses_tokens,
    clauses_doors,
    clauses_k,
)


def _place(clause: str) -> tuple[str, int, str]:
    """B3+ stands behind B3, C14 behind C9."""
    digits = "".join(filter(str.isdigit, clause))
    return clause[0], int(digits or 0), clause


#: id → (what it shows, how), in the order of the README's clauses
CLAUSES: dict[str, tuple[str, Clause]] = {clause: part.CLAUSES[clause] for part in _PARTS for clause in part.CLAUSES}
CLAUSES = {clause: CLAUSES[clause] for clause in sorted(CLAUSES, key=_place)}
#: clauses without a row of their own, and the row in which they are shown
SHOWN_BY = {**clauses_c.SHOWN_BY, **clauses_d_networks.SHOWN_BY}


class Row(NamedTuple):
    """One line of the table: ok None = skipped, `detail` says why."""

    clause: str
    tried: str
    ok: bool | None
    detail: str
    seconds: float
    #: for a table of their own
    figures: dict[str, str] = {}  # noqa: RUF012 - never changed


class Walk(NamedTuple):
    """What a walk reports while it goes: devices up so far, then rows as they come."""

    on_devices: Callable[[int, int], None]
    on_clause: Callable[[str, str], None]
    on_row: Callable[[Row], None]
    #: what goes on inside a row that takes long
    on_progress: Callable[[str], None] = lambda _: None


def select(wanted: Iterable[str]) -> list[str]:
    """Clause ids for arguments like "A" or "B3"; all for none; the row that shows it for one that has none. KeyError
    names one that is not there."""
    chosen: list[str] = []
    for word in wanted:
        name = SHOWN_BY.get(word.upper(), word.upper())
        found = [clause for clause in CLAUSES if name in (clause, clause[0])]
        if not found:
            raise KeyError(word)
        chosen += [clause for clause in found if clause not in chosen]
    return chosen or list(CLAUSES)


def describe() -> str:
    """Every row there is, for people."""
    parts: dict[str, list[str]] = {}
    for clause in CLAUSES:
        parts.setdefault(clause[0], []).append(clause)
    rows = "; ".join(", ".join(clauses) for clauses in parts.values())
    shown: dict[str, list[str]] = {}
    for clause, row in SHOWN_BY.items():
        shown.setdefault(row, []).append(clause)
    others = "; ".join(f"{row} shows {', '.join(clauses)} too" for row, clauses in shown.items())
    return f"{rows} ({others})"


async def walk(clauses: list[str], devices: int, report: Walk) -> list[Row]:
    """Start a gateway and a fleet, show each clause, and clean up. Raises Failed where the stage itself fails."""
    rows = []
    async with Stage() as stage:
        stage.say = report.on_progress
        fleet = Fleet(devices, stage.device_port)
        try:
            await fleet.connect(lambda up: report.on_devices(up, devices))
            for clause in clauses:
                tried, show = CLAUSES[clause]
                report.on_clause(clause, tried)
                began = time.monotonic()
                ok: bool | None
                figures: dict[str, str] = {}
                try:
                    came = await show(stage, fleet)
                    ok, (detail, figures) = True, came if isinstance(came, Shown) else (came, {})
                except Skipped as exc:
                    ok, detail = None, str(exc)
                except Failed as exc:
                    ok, detail = False, str(exc)
                except Exception as exc:
                    ok, detail = False, f"{type(exc).__name__}: {exc}"
                row = Row(clause, tried, ok, detail, time.monotonic() - began, figures)
                rows.append(row)
                report.on_row(row)
        finally:
            await fleet.close()
    return rows
