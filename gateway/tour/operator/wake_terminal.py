"""An app on a mobile that hears over IP that there is something to fetch; a process, for the mobile has a network of
its own. Prints that it listens, then each payload in hexadecimal, a line each; must never believe what it hears.
"""

from __future__ import annotations

import asyncio
import sys

from gateway.client.wake import WakeListener


async def listen(port: int) -> None:
    """Until it is ended."""
    listener = WakeListener(lambda payload: print(payload.hex(), flush=True))
    await listener.start(port)
    print("listens", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(listen(int(sys.argv[1])))
