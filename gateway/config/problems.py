"""Everything that is wrong, and not only what is met first; must never change a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.model.errors import ConfigError


def collect(checks: Iterable[Callable[[], object]]) -> list[ConfigError]:
    """What each check raises, in order; the same words of the same setting once."""
    found: dict[tuple[str, str], ConfigError] = {}
    for check in checks:
        try:
            check()
        except ConfigError as exc:
            found.setdefault((exc.field, exc.message), exc)
    return list(found.values())


def described(errors: Iterable[ConfigError]) -> list[tuple[str, str]]:
    """(field, what is wrong), as gateway.config.check has it."""
    return [(error.field, error.message) for error in errors]


def raise_first(errors: Iterable[ConfigError]) -> None:
    """For who needs the section as it is."""
    for error in errors:
        raise error
