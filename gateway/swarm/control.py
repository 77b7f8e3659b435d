"""A swarm that does what it is told on stdin, a JSON object a line, and answers each with one on stdout: how benchmarks
drive it. docs/load.md has the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from gateway.model.errors import ConfigError
from gateway.swarm.swarm import Swarm, SwarmError


def _credentials(swarm: Swarm, save: str = "", load: str = "") -> dict[str, Any]:
    if bool(save) == bool(load):
        raise SwarmError("name one of save and load, with a file")
    return swarm.save(Path(save)) if save else swarm.load(Path(load))


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "connect": Swarm.connect,
    "drop": Swarm.drop,
    "reconnect": Swarm.reconnect,
    "storm": Swarm.storm,
    "push": Swarm.push,
    "broadcast": Swarm.broadcast,
    "idle": Swarm.idle,
    "stats": Swarm.stats,
    "credentials": _credentials,
}


def serve(swarm: Swarm, lines: TextIO, answers: TextIO) -> None:
    """Until the end of input, or {"do": "quit"}."""
    for line in lines:
        if not line.strip():
            continue
        try:
            asked = json.loads(line)
            if not isinstance(asked, dict) or not isinstance(asked.get("do"), str):
                raise SwarmError('a line is an object with "do"')
            do = asked.pop("do")
            if do == "quit":
                return
            if do not in COMMANDS:
                raise SwarmError(f"there is no {do!r}; there are {', '.join(COMMANDS)}, quit")
            answer = COMMANDS[do](swarm, **asked)
        except (SwarmError, ConfigError, OSError, ValueError) as error:
            answer = {"error": str(error)}
        except TypeError as error:
            answer = {"error": f"a field is unknown or of the wrong type: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
