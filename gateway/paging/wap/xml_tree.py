"""Small XML documents from outside as a tree; must never expand an entity, fetch anything or grow past its bounds."""

from __future__ import annotations

from typing import NamedTuple
from xml.parsers import expat

MOST_BYTES, MOST_ELEMENTS, MOST_DEPTH = 65_536, 256, 8


class BadXml(ValueError):
    """No XML that is taken here; the text of the error repeats nothing of it."""


class Element(NamedTuple):
    name: str
    attributes: dict[str, str]
    children: list[Element]
    #: character data right inside it, pieces in order
    pieces: list[str]

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def __repr__(self) -> str:
        return f"Element({self.name})"


class _Reader:
    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._count = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > MOST_ELEMENTS or len(self._open) >= MOST_DEPTH:
            raise BadXml("has too many elements")
        element = Element(name, attributes, [], [])
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def end(self, _name: str) -> None:
        self._open.pop()

    def characters(self, text: str) -> None:
        self._open[-1].pieces.append(text)


def _refuse(*_arguments: object) -> int:
    raise BadXml("declares or names an entity")


def read_tree(data: bytes) -> Element:
    """The root. A DOCTYPE may name a DTD, which is not read. BadXml."""
    if len(data) > MOST_BYTES:
        raise BadXml("is too long")
    reader, parser = _Reader(), expat.ParserCreate()
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    parser.EntityDeclHandler = _refuse
    parser.ExternalEntityRefHandler = _refuse
    parser.SkippedEntityHandler = _refuse
    try:
        parser.Parse(data, True)
    except BadXml:
        raise
    except (expat.ExpatError, ValueError, LookupError):  # the last two: a coding that there is not
        raise BadXml("is not well-formed") from None
    if reader.root is None:
        raise BadXml("is empty")
    return reader.root
