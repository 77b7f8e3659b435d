"""Which cards: `tag:batch-7 and not capable`; sans-IO, must never quote what it was given in an error beyond one word.

query  = term { "or" term }
term   = factor { "and" factor }
factor = "not" factor | "(" query ")" | word
word   = "all" | "capable" | "not_capable" | "unknown" | "tag:" name | 'tag:"' any name '"'
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from gateway.model.cards import Ability
from gateway.model.errors import BadRequest

MAX_CHARS = 1_024
MAX_WORDS = 64
MAX_DEPTH = 16

_TOKEN = re.compile(r'\s*(?:(?P<mark>[()])|tag:"(?P<quoted>[^"]{1,64})"|(?P<word>[^\s()"]+))')
_KEYWORDS = ("and", "or", "not")
_ABILITIES = {"capable": Ability.CAPABLE, "not_capable": Ability.NOT_CAPABLE, "unknown": Ability.UNKNOWN}

#: does a card with these tags fit; its ability is asked for where it matters
Fits = Callable[[tuple[str, ...], Callable[[], Ability]], bool]


class CardQuery(NamedTuple):
    fits: Fits
    #: it depends on what is known of the terminal
    asks_ability: bool


class _Token(NamedTuple):
    text: str
    tag: str
    at: int


def parse_query(text: str, field: str = "query") -> CardQuery:
    """BadRequest names the place."""
    if len(text) > MAX_CHARS:
        raise BadRequest(f"a query has at most {MAX_CHARS} characters", field=field)
    return _Parser(_cut(text, field), field).parse()


def _cut(text: str, field: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if found is None:
            raise BadRequest(f"what stands at character {at + 1} is no part of a query", field=field)
        at = found.end()
        quoted = found["quoted"]
        word = found["mark"] or found["word"] or ""
        tag = quoted if quoted is not None else word.removeprefix("tag:") if word.startswith("tag:") else ""
        start = found.start() + len(found[0]) - len(found[0].lstrip())
        tokens.append(_Token("tag" if tag else word, tag, start + 1))
    return tokens


class _Parser:
    def __init__(self, tokens: list[_Token], field: str) -> None:
        self._tokens = tokens
        self._field = field
        self._next = 0
        self._words = 0
        self._asks_ability = False

    def parse(self) -> CardQuery:
        fits = self._query(0)
        token = self._peek()
        if token is not None:
            raise self._error(token, "expected and, or, or the end")
        return CardQuery(fits, self._asks_ability)

    def _error(self, token: _Token | None, wanted: str) -> BadRequest:
        place = "at the end" if token is None else f"at character {token.at}"
        return BadRequest(f"{wanted}, {place}", field=self._field)

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self, text: str) -> bool:
        token = self._peek()
        if token is None or token.text != text:
            return False
        self._next += 1
        return True

    def _query(self, depth: int) -> Fits:
        parts = [self._term(depth)]
        while self._take("or"):
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else lambda tags, ability: any(part(tags, ability) for part in parts)

    def _term(self, depth: int) -> Fits:
        parts = [self._factor(depth)]
        while self._take("and"):
            parts.append(self._factor(depth))
        return parts[0] if len(parts) == 1 else lambda tags, ability: all(part(tags, ability) for part in parts)

    def _factor(self, depth: int) -> Fits:
        token = self._peek()
        if depth > MAX_DEPTH:
            raise self._error(token, f"more than {MAX_DEPTH} levels")
        if self._take("not"):
            inner = self._factor(depth + 1)
            return lambda tags, ability: not inner(tags, ability)
        if self._take("("):
            inner = self._query(depth + 1)
            if not self._take(")"):
                raise self._error(self._peek(), "expected and, or, or )")
            return inner
        return self._word(token)

    def _word(self, token: _Token | None) -> Fits:
        if token is None or token.text in (*_KEYWORDS, ")"):
            raise self._error(token, "expected all, capable, not_capable, unknown, or tag:NAME")
        self._next += 1
        self._words += 1
        if self._words > MAX_WORDS:
            raise self._error(token, f"more than {MAX_WORDS} words")
        if token.tag:
            name = token.tag
            return lambda tags, _: name in tags
        if token.text == "all":
            return lambda _, __: True
        if token.text not in _ABILITIES:
            raise self._error(token, "expected all, capable, not_capable, unknown, or tag:NAME")
        wanted = _ABILITIES[token.text]
        self._asks_ability = True
        return lambda _, ability: ability() == wanted
