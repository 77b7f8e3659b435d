"""Which rooms are with one person: the content of m.direct, {user: [rooms]} (client-server API, 11.22); sans I/O."""

from __future__ import annotations

from typing import Any

from gateway.im.connectors.matrix.content import MAX_ID_CHARACTERS


def parse_direct(content: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """What is malformed is left out, and who has no rooms."""
    direct = {}
    for user, rooms in content.items():
        if _is_id(user, "@") and isinstance(rooms, list):
            found = tuple(dict.fromkeys(room for room in rooms if isinstance(room, str) and _is_id(room, "!")))
            if found:
                direct[user] = found
    return direct


def find_partners(direct: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Room → the one person in it; what is called direct with several is a room like others."""
    users: dict[str, list[str]] = {}
    for user, rooms in direct.items():
        for room in rooms:
            users.setdefault(room, []).append(user)
    return {room: found[0] for room, found in users.items() if len(found) == 1}


def with_room(content: dict[str, Any], user: str, room: str) -> dict[str, Any]:
    """Content with the room as the user's newest; all else as it was, also what is not understood."""
    rooms = content.get(user)
    kept = [each for each in rooms if each != room] if isinstance(rooms, list) else []
    return {**content, user: [*kept, room]}


def _is_id(text: str, sigil: str) -> bool:
    return text.startswith(sigil) and len(text) <= MAX_ID_CHARACTERS and text.isprintable()
