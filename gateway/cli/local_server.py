"""Keeps one of `heliograph local`'s servers up until Ctrl-C; must never leave it behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from gateway.cli.output import CommandFailed, say


async def serve_local(
    start: Callable[[], Awaitable[tuple[str, str]]], close: Callable[[], Awaitable[None]], port: int
) -> None:
    """Until Ctrl-C. `start` says what is there now, and how it is found (`build_hint`)."""
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        what, hint = await start()
    except OSError as exc:
        words = os.strerror(exc.errno) if exc.errno else type(exc).__name__
        raise CommandFailed(f"127.0.0.1:{port} can not be listened on ({words}); --port 0 takes a free one") from None
    try:
        print(what, flush=True)
        say(hint)
        say("Ctrl-C ends this")
        await stopped.wait()
    finally:
        await close()


def build_hint(settings: str) -> str:
    """By which settings a gateway finds it; FILE stands for a file with the password."""
    in_file = ", with the password in FILE (mode 600)" if "FILE" in settings else ""
    return f"a gateway beside it: {settings}{in_file}"
