"""Service indication and service loading in their binary form; must never read past what it was given.

Sources: WAP-192 (WBXML 1.3, of which version 1.2 is written) §5 and §7; tokens: WAP-167 §8.3, WAP-168 §9.3.
"""

from __future__ import annotations

from gateway.paging.wap.documents import (
    BadDocument,
    Document,
    ServiceIndication,
    build_document,
    check,
    list_attributes,
)

VERSION_1_2, UTF_8 = 0x02, 0x6A
SI, SL = 0x05, 0x06
# global tokens (WAP-192 §7.1)
END, ENTITY, STR_I, STR_T, OPAQUE = 0x01, 0x02, 0x03, 0x83, 0xC3
WITH_ATTRIBUTES, WITH_CONTENT = 0x80, 0x40
TAG_SI, TAG_INDICATION, TAG_SL = 0x05, 0x06, 0x05

#: attribute starts: (name, what its value begins with) → token; the longest beginning is taken
_STARTS: dict[int, dict[tuple[str, str], int]] = {
    SI: {
        ("action", "signal-none"): 0x05,
        ("action", "signal-low"): 0x06,
        ("action", "signal-medium"): 0x07,
        ("action", "signal-high"): 0x08,
        ("action", "delete"): 0x09,
        ("created", ""): 0x0A,
        ("href", ""): 0x0B,
        ("href", "http://"): 0x0C,
        ("href", "http://www."): 0x0D,
        ("href", "https://"): 0x0E,
        ("href", "https://www."): 0x0F,
        ("si-expires", ""): 0x10,
        ("si-id", ""): 0x11,
    },
    SL: {
        ("action", "execute-low"): 0x05,
        ("action", "execute-high"): 0x06,
        ("action", "cache"): 0x07,
        ("href", ""): 0x08,
        ("href", "http://"): 0x09,
        ("href", "http://www."): 0x0A,
        ("href", "https://"): 0x0B,
        ("href", "https://www."): 0x0C,
    },
}
_BY_TOKEN = {kind: {token: start for start, token in starts.items()} for kind, starts in _STARTS.items()}
#: attribute values, the same in both
_VALUES = {".com/": 0x85, ".edu/": 0x86, ".net/": 0x87, ".org/": 0x88}
_VALUE_OF = {token: value for value, token in _VALUES.items()}
_TIMES = ("created", "si-expires")
#: a length or a code that is written with more bytes is none
_UINT_BYTES = 5


def build_time(text: str) -> bytes:
    """The digits of a time, two a byte, without those at the end that are zero (WAP-167 §8.2.2)."""
    digits = bytes.fromhex("".join(filter(str.isdigit, text))).rstrip(b"\0")
    return bytes((OPAQUE, len(digits))) + digits


def _build_string(text: str) -> bytes:
    return bytes((STR_I,)) + text.encode() + b"\0" if text else b""


def _build_value(text: str) -> bytes:
    """With the few words that have a token."""
    out, at = b"", 0
    while at < len(text):
        places = [(place, word) for word in _VALUES if (place := text.find(word, at)) >= 0]
        place, word = min(places, default=(len(text), ""))
        out += _build_string(text[at:place])
        if word:
            out += bytes((_VALUES[word],))
        at = place + len(word)
    return out


def build_wbxml(document: Document) -> bytes:
    """Version 1.2, UTF-8, no string table. BadDocument."""
    check(document)
    kind = SI if isinstance(document, ServiceIndication) else SL
    attributes = b""
    for name, value in list_attributes(document):
        beginnings = [begins for other, begins in _STARTS[kind] if other == name and value.startswith(begins)]
        begins = max(beginnings, key=len)
        attributes += bytes((_STARTS[kind][name, begins],))
        attributes += build_time(value) if name in _TIMES else _build_value(value[len(begins) :])
    head = bytes((VERSION_1_2, kind, UTF_8, 0))
    if isinstance(document, ServiceIndication):
        tag = TAG_INDICATION | WITH_ATTRIBUTES | (WITH_CONTENT if document.text else 0)
        content = _build_string(document.text) + bytes((END,)) if document.text else b""
        return head + bytes((TAG_SI | WITH_CONTENT, tag)) + attributes + bytes((END,)) + content + bytes((END,))
    return head + bytes((TAG_SL | WITH_ATTRIBUTES,)) + attributes + bytes((END,))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._table = b""

    def byte(self) -> int:
        if self._at >= len(self._data):
            raise BadDocument("ends too early")
        self._at += 1
        return self._data[self._at - 1]

    def peek(self) -> int:
        return self._data[self._at] if self._at < len(self._data) else -1

    def number(self) -> int:
        """mb_u_int32 (WAP-192 §5.1)."""
        value = 0
        for _ in range(_UINT_BYTES):
            byte = self.byte()
            value = value << 7 | byte & 0x7F
            if not byte & 0x80:
                return value
        raise BadDocument("a number is too long")

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise BadDocument("ends too early")
        self._at += count
        return self._data[self._at - count : self._at]

    def table(self) -> None:
        self._table = self.take(self.number())

    def string(self, token: int) -> str:
        """What STR_I, STR_T or ENTITY says."""
        if token == ENTITY:
            code = self.number()
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise BadDocument("a character is none")
            return chr(code)
        if token == STR_I:
            source, at = self._data, self._at
        elif token == STR_T:
            source, at = self._table, self.number()
        else:
            raise BadDocument("a token is not allowed there")
        end = source.find(b"\0", at)
        if end < 0:
            raise BadDocument("a string has no end")
        if token == STR_I:
            self._at = end + 1
        try:
            return source[at:end].decode()
        except UnicodeDecodeError:
            raise BadDocument("a string is not UTF-8") from None

    def expect(self, *tokens: int) -> int:
        token = self.byte()
        if token not in tokens:
            raise BadDocument("a token is not allowed there")
        return token

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._data)


def _parse_time(digits: bytes) -> str:
    text = digits.hex().ljust(14, "0")
    if not 4 <= len(digits) <= 7 or digits.endswith(b"\0") or not text.isdecimal():
        raise BadDocument("a time is none")
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}T{text[8:10]}:{text[10:12]}:{text[12:]}Z"


def _parse_attributes(reader: _Reader, kind: int) -> dict[str, str]:
    found: dict[str, str] = {}
    while (token := reader.byte()) != END:
        if token not in _BY_TOKEN[kind]:
            raise BadDocument("an attribute is none of ours")
        name, value = _BY_TOKEN[kind][token]
        if name in found:
            raise BadDocument("an attribute stands twice")
        if name in _TIMES:
            reader.expect(OPAQUE)
            found[name] = _parse_time(reader.take(reader.number()))
            continue
        while True:
            following = reader.peek()
            if following in _VALUE_OF:
                value += _VALUE_OF[reader.byte()]
            elif following in (STR_I, STR_T, ENTITY):
                value += reader.string(reader.byte())
            else:
                break
        found[name] = value
    return found


def parse_wbxml(data: bytes) -> Document:
    """What a terminal does with it. BadDocument."""
    reader = _Reader(data)
    reader.expect(0x01, 0x02, 0x03)  # versions 1.1 to 1.3
    kind = reader.number()
    if kind not in (SI, SL):
        raise BadDocument("is none of ours")
    if reader.number() != UTF_8:
        raise BadDocument("is not UTF-8")
    reader.table()
    attributes: dict[str, str] = {}
    text = ""
    if kind == SI:
        reader.expect(TAG_SI | WITH_CONTENT)
        tag = reader.expect(TAG_INDICATION | WITH_ATTRIBUTES, TAG_INDICATION | WITH_ATTRIBUTES | WITH_CONTENT)
        attributes = _parse_attributes(reader, kind)
        if tag & WITH_CONTENT:
            while (token := reader.byte()) != END:
                text += reader.string(token)
        reader.expect(END)
    else:
        reader.expect(TAG_SL | WITH_ATTRIBUTES)
        attributes = _parse_attributes(reader, kind)
    if not reader.is_at_end:
        raise BadDocument("goes on behind its end")
    return build_document("si" if kind == SI else "sl", attributes, text)
