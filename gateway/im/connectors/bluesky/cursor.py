"""Where a Bluesky account goes on: the newest record that was seen of each repository it follows."""

from __future__ import annotations

import msgspec

from gateway.im.connectors.bluesky.posts import parse_uri
from gateway.model.im import CursorForgotten


class _Kept(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    #: repository → key of its newest post that was seen; empty: it had none
    repositories: dict[str, str]


def parse_cursor(cursor: bytes) -> dict[str, str]:
    """CursorForgotten where it is none of ours."""
    try:
        kept = msgspec.json.decode(cursor, type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise CursorForgotten("the posts that were seen are not known any more") from None
    keys = kept.repositories.items()
    if kept.version != 1 or any(parse_uri(f"at://{did}/x/{key or 'x'}") is None for did, key in keys):
        raise CursorForgotten("the posts that were seen are not known any more")
    return kept.repositories


def build_cursor(repositories: dict[str, str]) -> bytes:
    return msgspec.json.encode(_Kept(1, repositories))
