"""BODYSTRUCTURE (RFC 3501 §7.4.2) as the leaves of a mail; sans I/O. A server may answer anything: what is no
structure has no leaves."""

from __future__ import annotations

from typing import Any

from gateway.im.mime import DEPTH, PARTS, Leaf, parse_content

_ENCODINGS = ("base64", "quoted-printable")


def parse_structure(structure: Any) -> tuple[list[Leaf], int]:
    """Leaves in their order, and how many were left out for there were too many."""
    leaves: list[Leaf] = []
    left_out = choices = 0
    waiting: list[tuple[str, Any, int, int]] = [("", structure, 0, 0)]
    while waiting:
        path, node, depth, choice = waiting.pop()
        if not isinstance(node, tuple) or not node:
            continue
        if isinstance(node[0], list):
            if depth >= DEPTH:
                left_out += 1
                continue
            if len(node) > 1 and isinstance(node[1], bytes) and node[1].lower() == b"alternative":
                choices += 1
                choice = choices
            room = max(0, PARTS - len(leaves) - len(waiting))
            left_out += max(0, len(node[0]) - room)
            for number in range(min(len(node[0]), room), 0, -1):
                waiting.append((f"{path}.{number}" if path else str(number), node[0][number - 1], depth + 1, choice))
            continue
        leaf = _leaf(path or "1", node, choice)
        if leaf is not None:
            leaves.append(leaf)
    return leaves, left_out


def _leaf(path: str, node: tuple[Any, ...], choice: int) -> Leaf | None:
    if len(node) < 7 or not isinstance(node[0], bytes) or not isinstance(node[1], bytes):
        return None
    mime = node[0] + b"/" + node[1]
    # text has its lines, a message its envelope, structure and lines before the rest
    at = 9 if node[0].lower() == b"text" else 11 if mime.lower() == b"message/rfc822" else 8
    disposition = node[at] if len(node) > at else None
    kind = b""
    if isinstance(disposition, tuple) and disposition and isinstance(disposition[0], bytes):
        kind = disposition[0] + _parameters(disposition[1] if len(disposition) > 1 else None)
    content = parse_content(mime + _parameters(node[2]), kind, _text(node[5]))
    size = node[6] if isinstance(node[6], int) and node[6] >= 0 else -1
    is_file = content.is_attachment or not content.mime.startswith("text/")
    if content.mime.startswith("multipart/"):  # a leaf can not be one
        return None
    return Leaf(path, content.mime, content.charset, content.encoding, content.name, is_file, choice, size=size)


def _text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b""


def _parameters(value: Any) -> bytes:
    """As they would stand in a field."""
    if not isinstance(value, tuple):
        return b""
    pairs = [
        (name, text)
        for name, text in zip(value[::2], value[1::2], strict=False)
        if isinstance(name, bytes) and isinstance(text, bytes | int)
    ][:32]
    out = b""
    for name, text in pairs:
        raw = text if isinstance(text, bytes) else str(text).encode()
        quoted = raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        # an extended parameter (RFC 2231) is never quoted
        out += b"; " + name + b"=" + (raw if name.endswith(b"*") else b'"' + quoted + b'"')
    return out
