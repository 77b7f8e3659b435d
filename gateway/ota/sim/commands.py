"""Cuts what a secured packet holds into commands, as a card does it; must never guess where one ends.

Source: ETSI TS 102 226 §5.1.1, compact format: one command behind the other, each as long as its fifth byte says. Only
the last one may want an answer: its fifth byte says how much then, or a byte behind its data does.
"""

from __future__ import annotations

from gateway.ota.malformed import Malformed

_HEAD_BYTES = 5


def split_commands(data: bytes) -> list[bytes]:
    """Malformed where the last one ends early."""
    commands: list[bytes] = []
    at = 0
    while at < len(data):
        left = len(data) - at
        if left < _HEAD_BYTES:
            raise Malformed("a command has at least five bytes")
        size = _HEAD_BYTES + data[at + 4]
        if left == _HEAD_BYTES or left == size + 1:
            size = left
        if size > left:
            raise Malformed("a command ends early")
        commands.append(data[at : at + size])
        at += size
    return commands
