"""Which rooms an IRC account is in, and what the cursor keeps of it: those of the form, and what the user joined and
left since; keys of rooms are never kept in it."""

from __future__ import annotations

import msgspec

from gateway.im.connectors.irc.form import parse_channel
from gateway.im.connectors.irc.lines import LINE_BYTES, fold
from gateway.model.im import CursorForgotten, Rejected

_MOST = 200
_CHANNELS_A_LINE = 10


class _Kept(msgspec.Struct, array_like=True):
    joined: list[str] = []
    left: list[str] = []


class Rooms:
    """Names are as people write them; they are compared folded."""

    def __init__(self, of_form: tuple[str, ...], cursor: bytes | None) -> None:
        """CursorForgotten where the cursor is none of ours."""
        self._of_form = dict(parse_channel(channel) for channel in of_form)
        try:
            self._kept = msgspec.json.decode(cursor, type=_Kept) if cursor else _Kept()
            for name in self._kept.joined:
                parse_channel(name)
        except (msgspec.DecodeError, UnicodeDecodeError, Rejected):
            raise CursorForgotten("the rooms that were joined are not known any more") from None

    def wanted(self) -> dict[str, str]:
        """Name → key; those with a key first, as JOIN wants it."""
        left = {fold(name) for name in self._kept.left}
        names = {name: key for name, key in self._of_form.items() if fold(name) not in left}
        names |= dict.fromkeys((name for name in self._kept.joined if name not in names), "")
        return dict(sorted(names.items(), key=lambda item: not item[1]))

    def join(self, name: str) -> bytes | None:
        """The cursor, where it is another one now."""
        kept, folded = self._kept, fold(name)
        before = self.cursor
        kept.left = [each for each in kept.left if fold(each) != folded]
        known = {fold(each) for each in (*self._of_form, *kept.joined)}
        if folded not in known and len(kept.joined) < _MOST:
            kept.joined.append(folded)
        return self.cursor if self.cursor != before else None

    def leave(self, name: str) -> bytes | None:
        kept, folded = self._kept, fold(name)
        before = self.cursor
        kept.joined = [each for each in kept.joined if fold(each) != folded]
        if any(fold(each) == folded for each in self._of_form) and folded not in kept.left:
            kept.left.append(folded)
        return self.cursor if self.cursor != before else None

    @property
    def cursor(self) -> bytes:
        return msgspec.json.encode(self._kept)


def build_joins(wanted: dict[str, str]) -> list[tuple[str, str]]:
    """Parameters of JOIN: channels and keys, with commas; few enough for one line."""
    joins: list[tuple[str, str]] = []
    names: list[str] = []
    keys: list[str] = []
    size = 0
    for name, key in wanted.items():
        more = len(name.encode()) + len(key.encode()) + 2
        if names and (len(names) == _CHANNELS_A_LINE or size + more > LINE_BYTES - 16):
            joins.append((",".join(names), ",".join(keys)))
            names, keys, size = [], [], 0
        names.append(name)
        if key:
            keys.append(key)
        size += more
    if names:
        joins.append((",".join(names), ",".join(keys)))
    return joins
