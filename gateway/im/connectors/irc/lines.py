"""Lines of IRC (RFC 1459 §2.3, RFC 2812 §2.3, IRCv3 message tags) as bytes and as words; sans I/O. Must never raise
anything but LineError, whatever a server sends, and never builds a line that a server would take for two."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from typing import NamedTuple

#: with its CR LF, and without tags (RFC 2812 §2.3)
LINE_BYTES = 512
#: tags that a server may put before it, with "@" and space (IRCv3 message-tags)
TAGS_BYTES = 8_191
_MOST_PARAMETERS = 64
_ASCII = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_CASEMAPPINGS = {
    "ascii": _ASCII,
    "rfc1459": _ASCII | str.maketrans("[]\\~", "{}|^"),
    "strict-rfc1459": _ASCII | str.maketrans("[]\\", "{}|"),
}
_TAG_ESCAPES = {":": ";", "s": " ", "\\": "\\", "r": "\r", "n": "\n"}
#: bold, colours, italics, … of chat clients
_FORMATS = re.compile(r"\x03(?:[0-9]{1,2}(?:,[0-9]{1,2})?)?|\x04(?:[0-9A-Fa-f]{6})?|[\x02\x0f\x11\x16\x1d\x1e\x1f]")
_FORBIDDEN = str.maketrans("", "", "\x00\r\n")


class LineError(ValueError):
    """This is no line of IRC. The text never quotes it."""


class Line(NamedTuple):
    command: str
    parameters: tuple[str, ...] = ()
    #: whose it is: a server, or nick!user@host; empty: not said
    source: str = ""
    tags: Mapping[str, str] = {}

    @property
    def nick(self) -> str:
        return self.source.partition("!")[0]

    def parameter(self, at: int) -> str:
        """Empty where there is none."""
        return self.parameters[at] if -len(self.parameters) <= at < len(self.parameters) else ""

    def __repr__(self) -> str:
        return f"Line({self.command})"


def decode(data: bytes) -> str:
    """UTF-8, and what it never is as the old code page that clients without UTF-8 write."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def parse_line(data: bytes) -> Line:
    """Without its end. LineError."""
    text = decode(data).translate(_FORBIDDEN)
    tags: dict[str, str] = {}
    if text.startswith("@"):
        head, _, text = text.partition(" ")
        tags = _parse_tags(head[1:])
        text = text.lstrip(" ")
    source = ""
    if text.startswith(":"):
        source, _, text = text[1:].partition(" ")
        text = text.lstrip(" ")
    head, colon, last = text.partition(" :")
    words = [word for word in head.split(" ") if word]
    if not words:
        raise LineError("a line without a command")
    parameters = words[1:] + ([last] if colon else [])
    if len(parameters) > _MOST_PARAMETERS:
        raise LineError("a line with too many parameters")
    command = words[0].upper()
    if not (command.isascii() and command.isalnum() and len(command) <= 32):
        raise LineError("a command is letters or digits")
    return Line(command, tuple(parameters), source, tags)


def _parse_tags(text: str) -> dict[str, str]:
    tags: dict[str, str] = {}
    for tag in text.split(";"):
        key, _, value = tag.partition("=")
        if key:
            tags[key] = re.sub(r"\\(.?)", lambda found: _TAG_ESCAPES.get(found[1], found[1]), value)
    return tags


def build_line(command: str, *parameters: str) -> bytes:
    """With its end. The last parameter may have spaces. LineError where it would be another line, or too long."""
    words = [command, *parameters[:-1]]
    if not all(is_word(word) for word in words):
        raise LineError("only the last parameter may be empty, have spaces, or begin with a colon")
    text = " ".join(words)
    if parameters:
        last = parameters[-1]
        if last != last.translate(_FORBIDDEN):
            raise LineError("a line ends at its end")
        text += f" {last}" if is_word(last) else f" :{last}"
    data = text.encode("utf-8", "replace") + b"\r\n"
    if len(data) > LINE_BYTES:
        raise LineError("a line is longer than 512 bytes")
    return data


def is_word(text: str) -> bool:
    return bool(text) and not text.startswith(":") and not any(char in text for char in " \x00\r\n")


class LineBuffer:
    """What came, as whole lines."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> Iterator[bytes]:
        """Lines without their ends, and no empty ones. LineError where one does not end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if len(line) > TAGS_BYTES + LINE_BYTES:
                raise LineError("a line is too long")
            if stripped := line.strip(b"\r"):
                yield stripped
        if len(self._rest) > TAGS_BYTES + LINE_BYTES:
            raise LineError("a line does not end")


def split_text(text: str, most_bytes: int) -> list[str]:
    """Pieces of at most so many bytes of UTF-8 (at least four): a line break ends one, a space is a good end, and no
    character is cut. Joined they are what was in the lines; empty lines are left out."""
    pieces: list[str] = []
    for line in re.split(r"[\r\n\x00]+", text):
        data = line.encode("utf-8", "replace")
        while len(data) > most_bytes:
            cut = most_bytes
            while data[cut] & 0xC0 == 0x80:
                cut -= 1
            space = data.rfind(b" ", cut // 2, cut)
            if space >= 0:
                cut = space + 1
            pieces.append(data[:cut].decode())
            data = data[cut:]
        if data:
            pieces.append(data.decode())
    return pieces


def strip_formats(text: str) -> str:
    return _FORMATS.sub("", text)


def fold(name: str, casemapping: str = "rfc1459") -> str:
    """A nick or channel as it is compared (RFC 2812 §2.2; ISUPPORT CASEMAPPING)."""
    return name.translate(_CASEMAPPINGS.get(casemapping, _ASCII))


# --- CTCP: queries inside messages ----------------------------------------------------------------------------------


def parse_ctcp(text: str) -> tuple[str, str] | None:
    """Command and argument; None where it is just a text."""
    if not text.startswith("\x01") or len(text) < 2:
        return None
    command, _, argument = text[1:].removesuffix("\x01").partition(" ")
    return command.upper(), argument


def build_ctcp(command: str, argument: str = "") -> str:
    return f"\x01{command} {argument}\x01" if argument else f"\x01{command}\x01"
