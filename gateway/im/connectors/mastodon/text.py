"""The HTML of Mastodon's posts as text; whatever the HTML is, it ends, and gives a text no longer than it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

#: of one post; the rest is not looked at
_MOST_CHARS = 262_144
_BLOCKS = frozenset({"p", "div", "blockquote", "ul", "ol", "pre", "h1", "h2", "h3"})
_HIDDEN = frozenset({"script", "style"})
_MENTIONS = re.compile(r"^(?:@[\w.-]+(?:@[\w.:-]+)?\s+)+")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - its signature
        if tag == "br":
            self.pieces.append("\n")
        elif tag == "li":
            self.pieces.append("\n- ")
        elif tag in _HIDDEN:
            self._hidden += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.pieces.append("\n\n")
        elif tag in _HIDDEN:
            self._hidden = max(self._hidden - 1, 0)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data)


def parse_html(html: str) -> str:
    reader = _Reader()
    try:
        reader.feed(html[:_MOST_CHARS])
        reader.close()
    except AssertionError:  # of html.parser, where a declaration is broken
        pass
    return re.sub(r"\n{3,}", "\n\n", "".join(reader.pieces)).strip()


def strip_mentions(text: str) -> str:
    """Without the names at its beginning that only say to whom it goes."""
    return _MENTIONS.sub("", text + " ", count=1).strip() if text.startswith("@") else text
