"""Where a Bluesky account goes on: the newest record that was seen of each repository it follows; or, where the server
has a timeline, which of its newest items were seen."""

from __future__ import annotations

import msgspec

from gateway.im.connectors.bluesky.posts import parse_uri
from gateway.model.im import CursorForgotten


class _Kept(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    #: repository → key of its newest post that was seen; empty: it had none
    repositories: dict[str, str]


class Shown(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Of a timeline."""

    version: int
    #: Unix ms; what is older is not new, whatever it is
    since_ms: int
    #: newest last; hashes of their names
    items: list[str]


def parse_cursor(cursor: bytes) -> dict[str, str] | Shown:
    """CursorForgotten where it is none of ours."""
    kept: _Kept | Shown
    try:
        if cursor.startswith(b"[1,"):
            kept = msgspec.json.decode(cursor, type=_Kept)
        else:
            kept = msgspec.json.decode(cursor, type=Shown)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise CursorForgotten("the posts that were seen are not known any more") from None
    if isinstance(kept, Shown):
        if kept.version != 2:
            raise CursorForgotten("the posts that were seen are not known any more")
        return kept
    keys = kept.repositories.items()
    if any(parse_uri(f"at://{did}/x/{key or 'x'}") is None for did, key in keys):
        raise CursorForgotten("the posts that were seen are not known any more")
    return kept.repositories


def build_cursor(repositories: dict[str, str]) -> bytes:
    return msgspec.json.encode(_Kept(1, repositories))


def build_shown(since_ms: int, items: list[str]) -> bytes:
    return msgspec.json.encode(Shown(2, since_ms, items))
