"""Programs that run beside a tour or a test: started in a folder, waited for, and ended; must never outlive it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

PATIENCE_S = 20.0
END_S = 5.0


def missing(needed: Mapping[str, str]) -> str:
    """Program → Debian package: those to install, as they stand behind `apt install`; "" where all are there."""
    return " ".join(sorted({package for program, package in needed.items() if shutil.which(program) is None}))


class Programs:
    """What was started, in order; each one's output is in `<program>.log` in the folder. Each has `end_s` to end when
    it is told to."""

    def __init__(self, folder: Path, end_s: float = END_S) -> None:
        self._folder = folder
        self._end_s = end_s
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, program: str, *arguments: str, **environment: str) -> int:
        """Its pid."""
        with (self._folder / f"{Path(program).name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - programs that the tour names itself
                [program, *arguments],
                cwd=self._folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # with all its children a group, which `close` ends
            )
        self._running.append(process)
        return process.pid

    async def listens(self, program: str, host: str, port: int) -> None:
        """Return when it takes TCP connections there. RuntimeError with the end of its log where it does not."""
        for _ in range(int(PATIENCE_S / 0.05)):
            try:
                _, writer = await asyncio.open_connection(host, port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return
        log = (self._folder / f"{Path(program).name}.log").read_text(errors="replace")
        raise RuntimeError(f"{program} does not listen on {port}:\n{log[-2000:]}")

    async def close(self) -> None:
        """End them, the last first."""
        for process in reversed(self._running):
            _signal(process, signal.SIGTERM)
        for process in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, self._end_s)
            # workers may outlive who started them
            _signal(process, signal.SIGKILL)
            await asyncio.to_thread(process.wait)
        self._running.clear()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
