"""The push parameters of a SIP URI (RFC 8599): which push service, and by what it knows the terminal; must never take a
value that RFC 3261 does not let stand in a URI, nor show one by being printed.

Sources: RFC 8599 §6 and §14 (pn-provider, pn-param, pn-prid, pn-purr), RFC 3261 §25.1 (uri-parameters, paramchar).
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

MOST_CHARS = 2_048
#: paramchar without its escapes: unreserved and param-unreserved
_SAFE = "-_.!~*'()[]/:&+$"
_VALUE = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()\[\]/:&+$]|%[0-9A-Fa-f]{2})+")
_NAMES = ("pn-provider", "pn-param", "pn-prid", "pn-purr")


class PushParams(NamedTuple):
    """None: the parameter is not there. A provider that is empty stands without a value: the terminal asks which push
    services there are (§4.1.1)."""

    provider: str | None = None
    param: str | None = None  # of the push service; the app's name with ours
    prid: str | None = None  # by what the push service knows the terminal; an opaque id or a token with ours
    purr: str | None = None  # the proxy's own name of a registration, in the Contact of a dialog (§8)

    def __repr__(self) -> str:
        there = [name for name, value in zip(_NAMES, self, strict=True) if value is not None]
        return f"PushParams({', '.join(there)})"


class BadParams(ValueError):
    """They break the rules; the text repeats nothing."""


def parse_push_params(params: str) -> PushParams:
    """`params`: the parameters of a SIP URI, each `;name=value`, in any order and beside others; the first `;` may be
    missing. BadParams."""
    if len(params) > MOST_CHARS:
        raise BadParams("too long")
    found: dict[str, str] = {}
    for each in params.removeprefix(";").split(";") if params else ():
        name, equals, value = each.partition("=")
        name = name.lower()  # RFC 3261 §7.3.1
        if name not in _NAMES:
            continue
        if name in found:
            raise BadParams(f"{name} is there twice (RFC 3261 §19.1.1)")
        if not equals and name == "pn-provider":
            found[name] = ""
            continue
        if _VALUE.fullmatch(value) is None:
            raise BadParams(f"{name} has no value that may stand in a URI")
        found[name] = _unescape(name, value)
    if "pn-provider" not in found and ("pn-param" in found or "pn-prid" in found):
        raise BadParams("pn-param and pn-prid need a pn-provider (RFC 8599 §4.1.1)")
    return PushParams(*(found.get(name) for name in _NAMES))


def _unescape(name: str, value: str) -> str:
    try:
        text = unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        text = "\0"
    if not text.isprintable():
        raise BadParams(f"{name} has escapes that are no text")
    return text


def build_push_params(params: PushParams) -> str:
    """Behind the host of a SIP URI, each with its `;`. BadParams where a value is empty, or no text."""
    out = []
    for name, value in zip(_NAMES, params, strict=True):
        if value is None:
            continue
        if name == "pn-provider" and not value:
            out.append(f";{name}")
            continue
        if not value or not value.isprintable():  # a lone surrogate is not
            raise BadParams(f"{name} is empty, or no text")
        out.append(f";{name}={quote(value, safe=_SAFE)}")
    built = "".join(out)
    parse_push_params(built)  # what it would not take back must not leave
    return built
