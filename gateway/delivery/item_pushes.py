"""Items of users' logs as pushes to their devices (D2): kept, acked and fallen over like any other push.

Must never hold up, or fail, whoever wrote the item: the log has it, and a device comes back to that by its cursor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.delivery.accept import Acceptor
from gateway.delivery.request import PushRequest, TargetRequest
from gateway.metrics import Metric, Metrics
from gateway.model.errors import GatewayError, PayloadTooLarge
from gateway.model.im_people import Item
from gateway.model.ports import Directory
from gateway.model.registration import build_token

_pack = msgspec.msgpack.Encoder().encode
#: characters, so that a cut item fits whatever they are
_TITLE, _TEXT = 100, 200


def cut(item: Item) -> dict[str, Any]:
    """What is pushed of an item that is too large for a push: the device reads the rest from the log."""
    return {"kind": item.kind, "at_ms": item.at_ms, "cursor": item.cursor, "account": item.account, "cut": True}


class ItemPushes:
    """model.im_ports.Pushes; control thread only. `tell`: hands a packed item to a link, where the token is on one."""

    def __init__(
        self,
        app: str,
        directory: Directory,
        acceptor: Acceptor,
        metrics: Metrics,
        tell: Callable[[bytes, bytes], None],
        clock: Callable[[], int],
    ) -> None:
        self._app = app
        self._directory = directory
        self._acceptor = acceptor
        self._metrics = metrics
        self._tell = tell
        self._clock = clock

    def push(self, token: bytes, item: Item, *, title: str = "", text: str = "", urgent: bool = True) -> int:
        app = self._directory.app(self._app)
        if app is None:
            return 0
        full: dict[str, Any] = msgspec.to_builtins(item)
        for values in (full, cut(item)):
            request = PushRequest(
                target=TargetRequest(token=build_token(token)),
                title=title[:_TITLE],
                text=text[:_TEXT],
                data={"im": values},
                urgency="high" if urgent else "low",
            )
            try:
                # Nothing of it leaves before its commit, which is that of the log: a device never knows of what is not.
                return self._acceptor.push(app, request, self._clock(), durable_first=True).seq
            except PayloadTooLarge:
                continue
            except GatewayError as exc:
                self._metrics.count(Metric.IM_UNPUSHED, label=exc.name)
                return 0
        self._metrics.count(Metric.IM_UNPUSHED, label="payload_too_large")
        return 0

    def tell(self, token: bytes, item: Item) -> None:
        self._tell(token, _pack(item))
