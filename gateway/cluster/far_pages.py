"""Service pages of a core to devices on any node (C13); must never take silence for an answer."""

from __future__ import annotations

from gateway.cluster.far_edge import FarEdge
from gateway.cluster.far_wire import WIRE_VERSION, AskPage, build_body
from gateway.model.cluster import Bus, node_of_link
from gateway.model.errors import GatewayError

PAGE = "far.page"
#: time beyond the page's own for the way to the node and back, seconds
_WAY_S = 0.5


class FarPages:
    """As gateway.edge.pages.LinkPages, for whoever pages in a core."""

    def __init__(self, edge: FarEdge, bus: Bus) -> None:
        self._edge = edge
        self._bus = bus

    async def page(self, registration: int, page: bytes, within_s: float) -> bool:
        """True: the device said in time that it has started what the page is for."""
        link = self._edge.registry.link(registration)
        if not link:
            return False
        ask = AskPage(
            WIRE_VERSION,
            self._edge.partition,
            self._edge.epoch,
            registration,
            self._edge.local_of(registration),
            page,
            int(within_s * 1000),
        )
        try:
            answer = await self._bus.ask(node_of_link(link), PAGE, build_body(ask), timeout_s=within_s + _WAY_S)
        except GatewayError:
            return False
        return answer == b"\1"
