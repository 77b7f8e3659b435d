"""A store whose gateway became a fleet says so in a file beside it; must never be served alone any more, for whatever
it has would be delivered twice.
"""

from __future__ import annotations

from pathlib import Path

from gateway.model.errors import ConfigError
from gateway.store.keys import write_secret_file

MOVED_FILE = "moved-to-fleet"
_MOST_BYTES = 256


def mark_moved(folder: Path, fleet: str) -> None:
    """Durable when it returns. ConfigError where the folder can not be written."""
    write_secret_file(folder / MOVED_FILE, fleet.encode() + b"\n")


def moved_to(folder: Path) -> str:
    """The fleet that has it; empty: it was not moved."""
    try:
        with (folder / MOVED_FILE).open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace").strip() or "?"
    except FileNotFoundError:
        return ""
    except OSError as exc:
        raise ConfigError(f"{MOVED_FILE} can not be read: {exc.strerror}", field="store.path") from exc


def refuse_moved(folder: Path) -> None:
    """ConfigError where a fleet has it."""
    fleet = moved_to(folder)
    if fleet:
        raise ConfigError(
            f"this store was imported into the fleet {fleet!r}, which delivers what it has: set cluster.url and an"
            f" empty store.path. Who gives the fleet up removes {MOVED_FILE} from the folder",
            field="store.path",
        )
