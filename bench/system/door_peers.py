"""What HTTP alone costs: `python -m bench.system.door_peers uvicorn|hypercorn` reads each body, answers 201, no more.

uvicorn is what the gateway's own HTTP/1.1 stands on, hypercorn is the usual server of HTTP/2 in Python. The first line
it prints is its port.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import uvloop


async def answer(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI application that only answers."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def serve_uvicorn(sock: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(answer, log_config=None, access_log=False, lifespan="off", http="httptools")
    await uvicorn.Server(config).serve(sockets=[sock])


async def serve_hypercorn(sock: socket.socket) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{sock.fileno()}"]
    config.h2_max_concurrent_streams = 1_000
    config.keep_alive_max_requests = 1_000_000_000
    await serve(answer, config, shutdown_trigger=asyncio.Event().wait)  # type: ignore[arg-type]


def main() -> None:
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(sock.getsockname()[1], flush=True)
    uvloop.run(serve_uvicorn(sock) if sys.argv[1] == "uvicorn" else serve_hypercorn(sock))


if __name__ == "__main__":
    main()
