import asyncio
import os

import httpx

from gateway.client import Device


async def main() -> None:
    key = {"authorization": f"Bearer {os.environ.get('HELIOGRAPH_KEY') or exit('set HELIOGRAPH_KEY first')}"}
    done = asyncio.Event()

    def show(message):  # the app is in the foreground: it gets the message, not a tip
        print("device:", message.title, message.data)
        done.set()

    async with Device("127.0.0.1", 7400) as device:
        mail = await device.register("demo", "1.0", account="ann", on_message=show)
        push = {"target": {"token": mail.token}, "title": "Hello", "data": {"unread": 3}}
        async with httpx.AsyncClient(base_url="http://127.0.0.1:7480", headers=key) as provider:
            accepted = (await provider.post("/v1/push", json=push)).raise_for_status().json()
            await asyncio.wait_for(done.wait(), 10)
            print("provider:", (await provider.get(f"/v1/push/{accepted['id']}")).json()["state"])


asyncio.run(asyncio.wait_for(main(), 15))  # a TimeoutError: is `make serve` running?
