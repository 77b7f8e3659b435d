"""How what was accepted ends: one RESULT for each, in the log and on the devices; must never settle one twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.im.messaging.delivery import Deliverer
from gateway.metrics import Metric, Metrics
from gateway.model.errors import QueueFull, StoreUnavailable
from gateway.model.im import Conversation
from gateway.model.im_people import Item, ItemKind, Outgoing
from gateway.model.im_ports import Appended, LogRecords

SENT = "sent"
FAILED = "failed"


class Results:
    def __init__(
        self, log: LogRecords, deliverer: Deliverer, metrics: Metrics, clock: Callable[[], int], retry_s: float
    ) -> None:
        self._log = log
        self._deliverer = deliverer
        self._metrics = metrics
        self._clock = clock
        #: the store is tried again after so long
        self._retry_s = retry_s

    def build(self, outgoing: Outgoing, state: str, *, reason: str = "", remote_id: str = "") -> Item:
        return Item(
            ItemKind.RESULT,
            self._clock(),
            account=outgoing.account,
            conversation=conversation_of(outgoing),
            outgoing=outgoing.number,
            state=state,
            reason=reason,
            remote_id=remote_id,
        )

    def settle(self, outgoing: Outgoing, result: Item, message: Item | None, label: str) -> Appended:
        """In one commit, with the message itself where it was sent: the user's other devices see it. StoreUnavailable
        and QueueFull where nothing can be taken now."""
        appended = self._log.settle(outgoing, result)
        self._deliverer.push(outgoing.user, appended.items)
        if message is not None:
            other = self._deliverer.deliver(outgoing.user, [message], account=outgoing.account)
            other.done.add_done_callback(observe)
        self._metrics.count(Metric.IM_RESULTS, label=label)
        return appended

    def settle_now(self, outgoing: Outgoing, result: Item, message: Item | None, label: str) -> bool:
        """Where nobody can wait; False: the store takes nothing now."""
        try:
            appended = self.settle(outgoing, result, message, label)
        except (StoreUnavailable, QueueFull):
            return False
        appended.done.add_done_callback(observe)
        return True

    async def settle_for_good(self, outgoing: Outgoing, result: Item, message: Item | None, label: str) -> None:
        """What the network has is not sent again for the store's sake: the result waits for the store."""
        while True:
            try:
                appended = self.settle(outgoing, result, message, label)
                await asyncio.shield(appended.done)
            except (StoreUnavailable, QueueFull):
                self._metrics.count(Metric.IM_STORE_WAITS)
                await asyncio.sleep(self._retry_s)
            else:
                return


def conversation_of(outgoing: Outgoing) -> Conversation | None:
    if outgoing.envelope is not None:
        return outgoing.envelope.conversation
    conversation = getattr(outgoing.act, "conversation", None)
    return conversation if isinstance(conversation, Conversation) else None


def observe(done: asyncio.Future[None]) -> None:
    """A commit nobody waits for: the store has counted it, and what failed is undone."""
    if not done.cancelled():
        done.exception()
