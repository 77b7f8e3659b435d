"""A media door in a process of its own, to be killed: `python media_server.py FOLDER` prints its port."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvicorn
from media_rig import media_rig


class Server(uvicorn.Server):
    async def startup(self, sockets: object = None) -> None:
        await super().startup()
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)


async def serve(folder: Path) -> None:
    async with media_rig(folder) as rig:
        config = uvicorn.Config(rig.app(), port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        await Server(config).serve()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
