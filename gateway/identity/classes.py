"""Classes of apps (C1: service type, provider, APN), by the operator's configuration."""

from __future__ import annotations

from collections.abc import Iterable

#: what a class's name begins with
KINDS = ("service", "provider", "apn")


class Classes:
    """`pairs`: `class=app`, as in `apn:internet=chat`."""

    def __init__(self, pairs: Iterable[str]) -> None:
        self._apps: dict[str, set[str]] = {}
        self._classes: dict[str, set[str]] = {}
        for pair in pairs:
            name, _, app = pair.rpartition("=")
            self._apps.setdefault(name, set()).add(app)
            self._classes.setdefault(app, set()).add(name)

    def is_known(self, name: str) -> bool:
        return name in self._apps

    def has(self, name: str, app: str) -> bool:
        return app in self._apps.get(name, ())

    def apps(self, name: str) -> frozenset[str]:
        return frozenset(self._apps.get(name, ()))

    def of_app(self, app: str) -> frozenset[str]:
        return frozenset(self._classes.get(app, ()))
