"""What is known of a card's terminal, and asking it (E1 to E5); an app is told the state and never the evidence."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from gateway.api.call import Call
from gateway.api.cards.ports import need
from gateway.api.cards.registry import find_card
from gateway.api.cards.views import view_capability
from gateway.api.cards.wire import Asked, CapabilityView
from gateway.api.ports import Backend
from gateway.api.route import EITHER, OPERATOR, Route
from gateway.model.errors import AcceptTimeout, NotConfigured, QueueFull, StoreUnavailable, UnknownCard

_STORE = (StoreUnavailable, AcceptTimeout, QueueFull)
_CARD = "card_5d0c1f0f6b7a4e3b9c8d7e6f5a4b3c2d"
_EVIDENCE = [
    {"at_ms": 1759999996000, "what": "check_request", "state": "unknown", "detail": ""},
    {"at_ms": 1760000000000, "what": "link_opened", "state": "capable", "detail": "3.9 s"},
]
_VIEW = {
    "card": _CARD,
    "state": "capable",
    "since_ms": 1760000000000,
    "until_ms": 1775552000000,
    "evidence": _EVIDENCE,
}


class CapabilityRoutes:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def show(self, call: Call) -> Response:
        door = need(self._backend)
        card, _ = find_card(door, call.path("card"))
        evidence = call.provider is None
        return call.answer(view_capability(card, door.capabilities.read(card), evidence=evidence))

    async def change_terminal(self, call: Call) -> Response:
        """E5: the operator knows that the card is in another terminal."""
        door = need(self._backend)
        card, _ = find_card(door, call.path("card"))
        door.capabilities.invalidate(card, "told")
        # the same once more: what was written before it is durable with it
        await call.committed(door.records.write_capability(card, door.records.capability(card)))
        return call.answer(view_capability(card, door.capabilities.read(card), evidence=True))

    async def check(self, call: Call) -> Response:
        """E2 to E4, without a request of the card."""
        door = need(self._backend)
        card, _ = find_card(door, call.path("card"))
        if not door.capabilities.ask(card):
            raise QueueFull("Too many cards are being asked (ota.at_once); this one was not.")
        return call.answer(Asked(asked=True), status=202)


def routes(backend: Backend) -> list[Route]:
    capability = CapabilityRoutes(backend)
    one = "/v1/cards/{card}"
    common: dict[str, Any] = {"group": "cards"}
    return [
        Route(
            method="GET",
            path=f"{one}/capability",
            handle=capability.show,
            summary="Can the card's terminal open a channel for it?",
            about="Kept by card, never by terminal; unknown counts as not capable. With the operator's key the answer "
            "has the evidence; with an app's it is null.",
            gives=CapabilityView,
            gives_example=_VIEW,
            errors=(NotConfigured, UnknownCard),
            caller=EITHER,
            **common,
        ),
        Route(
            method="POST",
            path=f"{one}/terminal-changed",
            handle=capability.change_terminal,
            summary="The card is in another terminal: what was known counts no more",
            gives=CapabilityView,
            gives_example=_VIEW,
            errors=(NotConfigured, UnknownCard, *_STORE),
            caller=OPERATOR,
            **common,
        ),
        Route(
            method="POST",
            path=f"{one}/check",
            handle=capability.check,
            summary="Ask the terminal now",
            about="The card is called, and what is concluded stands in its capability.",
            gives=Asked,
            gives_example={"asked": True},
            status=202,
            errors=(NotConfigured, UnknownCard, *_STORE),
            caller=OPERATOR,
            **common,
        ),
    ]
