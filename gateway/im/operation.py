"""What a user can ask for, told once for both doors: a frame UP of a device and a REST route run the same operation;
must know neither."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec


class Ask(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Base of what is asked; each field is bounded by its annotation."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hidden)"


class Reply(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Base of what is answered."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hidden)"


class Caller(NamedTuple):
    """Who asks. `user`: None for those operations that need none."""

    user: bytes | None
    #: of the device that asks; None over REST
    token: bytes | None
    now_ms: int

    @property
    def me(self) -> bytes:
        assert self.user is not None
        return self.user

    def __repr__(self) -> str:
        return "Caller(hidden)"


class Operation(NamedTuple):
    """`name` is the word in UP; `method` and `path` are REST's, whose {fields} are fields of the ask."""

    name: str
    method: str
    path: str
    ask: type[Ask]
    reply: type[Reply]
    #: raises GatewayError
    run: Callable[[Caller, Any], Awaitable[Any]]
    summary: str
    #: False: for whoever is not a user yet (register, verify)
    needs_user: bool = True
