"""IMS paging put together: a link to each SIP server, and the calls they hold; must never keep the gateway from
starting where a server is away.
"""

from __future__ import annotations

from gateway.config.ims import read_servers
from gateway.metrics import Metric
from gateway.paging.ims.calls import HeldCalls, Parts
from gateway.paging.ims.link import CscfLink


class ImsPaging:
    """Nothing at all where `ims.servers` is empty."""

    def __init__(self, parts: Parts) -> None:
        """ConfigError."""
        ims = parts.config.ims
        self.calls = HeldCalls(parts)
        self.links = [CscfLink(server, ims, parts.metrics, self.calls.on_message) for server in read_servers(ims)]
        for link in self.links:
            parts.metrics.set(Metric.IMS_LINKS, 0, label=link.name)

    def start(self) -> None:
        """On the loop; `close` ends it."""
        for link in self.links:
            link.start()

    async def close(self) -> None:
        for link in self.links:
            await link.close()
        await self.calls.close()
