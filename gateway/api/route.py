"""What a route is: one entry serves the router, the key check and the API description, so they can not disagree."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.call import Call
from gateway.model.errors import GatewayError

#: who may call: the holder of the admin key, of an app's key, of either (Call.provider says which), a user of IM (whose
#: key the handler looks at), or anybody
OPERATOR, PROVIDER, EITHER, USER, ANYBODY = "operator", "provider", "either", "user", ""


@dataclass(frozen=True, slots=True)
class Query:
    """A query or header parameter of a route."""

    name: str
    about: str
    kind: str = "integer"
    place: str = "query"
    required: bool = False
    #: bounds of a whole number
    low: int | None = None
    high: int | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a door that speaks another service's language answers errors."""

    #: of its paths
    prefix: str
    answer: Callable[[Request, GatewayError, Mapping[str, str] | None], Response]
    media: str
    #: type of its body
    shape: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    path: str
    handle: Callable[[Call], Awaitable[Response]]
    caller: str
    summary: str
    about: str = ""
    group: str = ""
    #: type of the request body; None = none
    takes: Any = None
    takes_optional: bool = False
    #: a body that is not parsed here: its kind
    takes_media: str = ""
    #: kinds besides JSON and msgpack
    takes_also: tuple[str, ...] = ()
    example: Any = None
    #: type of the answer; None = no body
    gives: Any = None
    gives_example: Any = None
    #: where it is not JSON or msgpack
    gives_media: str = ""
    status: int = 200
    #: further success answers: status → what it means
    also: tuple[tuple[int, str], ...] = ()
    #: of those: answers of another type than `gives`
    gives_also: tuple[tuple[int, Any], ...] = ()
    params: tuple[Query, ...] = ()
    errors: tuple[type[GatewayError], ...] = ()
    #: None: errors in the one shape of the provider API
    dialect: Dialect | None = None
    #: not part of the description
    hidden: bool = False
