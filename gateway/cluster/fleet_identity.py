"""Which fleet a partition's folder is of, in a file beside it; must never tell a key, nor take two fleets for one.

A fleet is told by its name and its token key, which is never changed: all that lies in a folder is found by tokens of
that key. Both outlive NATS, for the first node of a fleet brings the keys of its folder along. So a fleet that lost all
of NATS is the one it was, and one that was begun anew under the same name, with keys of its own, is another.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import NamedTuple

from gateway.store.keys import write_secret_file

FLEET_FILE = "fleet"
_IDENT_CHARS = 16
_MOST_BYTES = 256


class FleetIdentity(NamedTuple):
    name: str
    ident: str  # hex

    def __str__(self) -> str:
        return f"{self.name!r} ({self.ident})"


def fleet_identity(name: str, token_key: bytes) -> FleetIdentity:
    digest = hmac.digest(token_key, b"heliograph fleet " + name.encode(), hashlib.sha256)
    return FleetIdentity(name, digest.hex()[:_IDENT_CHARS])


def write_identity(folder: Path, fleet: FleetIdentity) -> None:
    """ConfigError where the folder can not be written."""
    write_secret_file(folder / FLEET_FILE, f"{fleet.name} {fleet.ident}\n".encode())


def read_identity(folder: Path) -> FleetIdentity | None:
    """None: it does not say so, as one that an older program made."""
    try:
        with (folder / FLEET_FILE).open("rb") as file:
            words = file.read(_MOST_BYTES).decode("ascii").split()
    except (OSError, UnicodeDecodeError):
        return None
    return FleetIdentity(*words) if len(words) == 2 else None
