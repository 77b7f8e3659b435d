"""Names that others see: of users, groups and accounts; must let nothing through that changes how the text around it
is read."""

from __future__ import annotations

import unicodedata

from gateway.model.errors import BadRequest

MAX_CHARS = 100
#: other, controls; surrogates; separators of lines and paragraphs
_REFUSED = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
#: those that turn the direction of what follows (UAX 9)
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_name(text: str, field: str = "name", *, may_be_empty: bool = False) -> str:
    """In NFC, without space around it. BadRequest."""
    name = unicodedata.normalize("NFC", text).strip()
    if len(name) > MAX_CHARS or any(unicodedata.category(char) in _REFUSED or char in _TURNS for char in name):
        raise BadRequest(f"a name has up to {MAX_CHARS} characters, none of them a control character", field=field)
    if not name and not may_be_empty:
        raise BadRequest("a name can not be empty", field=field)
    return name
