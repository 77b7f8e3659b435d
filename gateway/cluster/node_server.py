"""The device door where owners of registrations are elsewhere; must never hold a link by itself.

What a reactor says is in flight knows nothing of what an owner has on its way to it. So the owner asks, behind all that
it sent, and the door asks the reactor then.
"""

from __future__ import annotations

from gateway.edge.server import EdgeServer


class NodeServer(EdgeServer):
    def hold(self, link: int) -> None:
        """Owners do, when they hear of what would make one machine hold it."""

    def ask_reactor(self, link: int) -> None:
        self.plane.insist(self.plane.of(link).hold, link)
