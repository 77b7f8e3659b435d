"""HTML of a mail as plain text: one pass in linear time, whatever the bytes are; must never raise, never load anything,
and never keep a script or a style."""

from __future__ import annotations

import html
import re

_TAG = re.compile(r"<(/?)([A-Za-z!?][^<>\s/]{0,32})([^<>]*)>")
_HREF = re.compile(r"""href\s{0,8}=\s{0,8}["']?(https?://[^"'\s<>]{1,1024})""", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\r\n\f\v\xa0]+")
#: what no character has; int() refuses thousands of digits
_ENDLESS_REFERENCE = re.compile(r"&#x?[0-9A-Fa-f]{9,};?")
_BLANK_LINES = re.compile(r"\n{3,}")
_HIDDEN = frozenset(("script", "style", "head", "title", "template", "noscript"))
_BLOCKS = re.compile(
    "address|article|aside|blockquote|br|d[dlt]|div|fieldset|footer|form|h[1-6r]|header|li|main|nav|[ou]l|p|pre|section|"
    "table|tr"
)


def build_text(markup: str) -> str:
    """What a reader would see, block by block; targets of links stand behind them."""
    lower = markup.lower()
    if len(lower) != len(markup):  # a few letters grow when they are made small
        lower = markup
    pieces: list[str] = []
    at, link = 0, ""
    while at < len(markup):
        comment = markup.startswith("<!--", at)
        found = None if comment else _TAG.search(markup, at)
        next_comment = markup.find("<!--", at, found.start() + 4 if found else len(markup))
        if next_comment >= 0:
            pieces.append(_plain(markup[at:next_comment]))
            end = markup.find("-->", next_comment)
            at = len(markup) if end < 0 else end + 3
            continue
        if found is None:
            pieces.append(_plain(markup[at:]))
            break
        pieces.append(_plain(markup[at : found.start()]))
        at = found.end()
        name, is_end = found[2].lower(), bool(found[1])
        if name in _HIDDEN and not is_end and not found[3].endswith("/"):
            end = lower.find(f"</{name}", at)
            at = len(markup) if end < 0 else end
        elif _BLOCKS.fullmatch(name):
            pieces.append("\n- " if name == "li" and not is_end else "\n")
        elif name in ("td", "th"):
            pieces.append(" ")
        elif name == "a":
            if is_end and link:
                pieces.append(f" ({link})")
            target = None if is_end else _HREF.search(found[3])
            link = html.unescape(target[1]) if target and "&#" not in target[1] else target[1] if target else ""
    lines = (line.strip() for line in "".join(pieces).split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def _plain(text: str) -> str:
    return _SPACE.sub(" ", html.unescape(_ENDLESS_REFERENCE.sub("", text)))
