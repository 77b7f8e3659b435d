"""A bus that has started is known to its server: the order of what the client writes, as a server sees it."""

from __future__ import annotations

import asyncio

from gateway.cluster.nats_bus import NatsBus
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.metrics import Metrics

INFO = b'INFO {"server_id":"x","version":"2.11.0","proto":1,"headers":true,"max_payload":1048576}\r\n'


class ListeningServer:
    """Answers PING, and keeps the words that came in their order."""

    def __init__(self) -> None:
        self.words: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        while line := await reader.readline():
            self.words.append(line.split()[0])
            if self.words[-1] == b"PING":
                writer.write(b"PONG\r\n")
        writer.close()


async def test_a_bus_has_started_when_its_server_answered_after_the_subscription() -> None:
    server = ListeningServer()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    # a lease so long that no PING comes of its own accord
    link = NatsLink(Cluster(url=f"nats://127.0.0.1:{port}", lease_s=1_000.0), purpose="test")
    await link.connect()
    bus = NatsBus(link, "fleet", 1, Metrics(process=False), outbox_bytes=65_536)
    await bus.start()
    words = list(server.words)
    await bus.close()
    await link.close()
    listening.close()
    await listening.wait_closed()
    assert words[-1] == b"PING"
    assert words.count(b"SUB") == 1
