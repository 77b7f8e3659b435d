"""A media door in a process of its own, that tests kill, starve and start again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Door:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.process: subprocess.Popen[str]
        self.url = ""
        self.start()

    def start(self) -> None:
        here = Path(__file__).parent
        command = [sys.executable, str(here / "media_server.py"), str(self._folder)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=here.parents[2], stderr=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip().isdecimal():
                self.url = f"http://127.0.0.1:{line.strip()}"
                return
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def door_process(folder: Path) -> Iterator[Door]:
    door = Door(folder)
    try:
        yield door
    finally:
        door.kill()
