"""Ids of users, groups and accounts as they are asked for; must not tell whether there is such a one."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from gateway.model.errors import BadRequest
from gateway.model.im_people import parse_group_id, parse_user_id

#: an account by its number, or by the user's own name for it
AccountWord = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)] | Annotated[str, Meta(min_length=1, max_length=100)]
IdText = Annotated[str, Meta(min_length=1, max_length=40)]


def read_user_id(text: str, field: str = "user") -> bytes:
    """BadRequest."""
    found = parse_user_id(text)
    if found is None:
        raise BadRequest("this is no user id: expected user_ and 32 hex digits", field=field)
    return found


def read_group_id(text: str, field: str = "group") -> bytes:
    """BadRequest."""
    found = parse_group_id(text)
    if found is None:
        raise BadRequest("this is no group id: expected group_ and 32 hex digits", field=field)
    return found


def read_account(word: int | str) -> int | str:
    """A path has words only: one of digits alone is a number, and no account is called so."""
    if isinstance(word, str) and word.isascii() and word.isdigit() and len(word) < 19:
        return int(word)
    return word
