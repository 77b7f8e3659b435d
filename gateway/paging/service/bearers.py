"""What takes a service page to a terminal: its own link, or a message of the network; must never look into the page."""

from __future__ import annotations

from typing import Protocol

from gateway.model.notification import Notification
from gateway.model.registration import Registration
from gateway.model.subscriber import Subscriber
from gateway.notifiers.upstream import Answer
from gateway.paging.segments import segment_binary
from gateway.paging.sms.bearer import SmsBearer
from gateway.paging.sms.pdu import Address
from gateway.paging.udh import Ports


class DevicePages(Protocol):
    """The device door's side of it (gateway/edge/pages.py)."""

    async def page(self, registration: int, page: bytes, within_s: float) -> bool:
        """True: the device has said in time that it started what the page is for."""
        ...


class PageBearer(Protocol):
    """One way of the network: short messages; a device trigger could be another."""

    name: str

    def start(self) -> None: ...

    async def send(
        self, subscriber: Subscriber, registration: Registration, notification: Notification, page: bytes, port: int
    ) -> Answer:
        """To the application port of the terminal. Raises TimeoutError and OSError at most."""
        ...

    async def close(self) -> None: ...


class SmsPages:
    """One short message to an application's port."""

    name = "sms"

    def __init__(self, bearer: SmsBearer, source: Address, channel: str) -> None:
        self._bearer = bearer
        self._source = source
        #: receipts stand in the history as this pager's
        self._channel = channel

    def start(self) -> None:
        self._bearer.start()

    async def send(
        self, subscriber: Subscriber, registration: Registration, notification: Notification, page: bytes, port: int
    ) -> Answer:
        segments = segment_binary(page, Ports(port, port), reference=notification.seq & 0xFF, most=1)
        return await self._bearer.send(
            subscriber, registration, notification, self._channel, segments, source=self._source
        )

    async def close(self) -> None:
        await self._bearer.close()
