"""Apps as a node knows them, without their secrets: enough to say who asks at its doors; must never hold an older
record than it once had."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.model.errors import BadRequest
from gateway.model.registration import App

_decode = msgspec.msgpack.Decoder(App).decode


def parse_record(raw: bytes) -> App:
    """An exported record: secrets stay sealed. BadRequest."""
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise BadRequest("this is no record of an app") from error


class AppBook:
    """The part of model.ports.Directory that a door needs. Control thread only."""

    def __init__(self) -> None:
        self._apps: dict[str, App] = {}
        self._names: dict[int, str] = {}
        self._raw: dict[str, bytes] = {}
        #: rises with each change
        self.mark = 0
        #: called with each app that is new or was changed
        self.hear: Callable[[App], None] = lambda _: None

    def put(self, raw: bytes) -> App | None:
        """The app where the record is newer than what is here, else None. BadRequest."""
        app = parse_record(raw)
        known = self._apps.get(app.name)
        if known is not None and known.changes >= app.changes:
            return None
        self.mark += app.changes - (known.changes if known is not None else -1)
        self._apps[app.name] = app
        self._raw[app.name] = raw
        self._names[app.number] = app.name
        self.hear(app)
        return app

    def raw(self, name: str) -> bytes:
        """As it came: KeyError where there is none."""
        return self._raw[name]

    def app(self, name: str) -> App | None:
        return self._apps.get(name)

    def app_names(self) -> list[str]:
        return list(self._apps)

    def app_name(self, number: int) -> str | None:
        return self._names.get(number)


def mark_of(apps: list[App]) -> int:
    """The `mark` of a book that has these."""
    return sum(app.changes + 1 for app in apps)
