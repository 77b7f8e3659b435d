"""What networks bring, into users' logs (D2, D12, D14): UST says whose it is, files are fetched before the message
counts as told; must never move an account's cursor past what is not in the log.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from gateway.config.im_section import Im
from gateway.im.deadline import bounded
from gateway.im.messaging.inbox import Inbox
from gateway.metrics import Metric, Metrics
from gateway.model.errors import GatewayError
from gateway.model.im import (
    ContactChanged,
    Envelope,
    Event,
    FriendRequest,
    Media,
    Message,
    Moved,
    Person,
    PresenceChanged,
    ReadUpTo,
    Rejected,
    Session,
    Transient,
    TypingChanged,
)
from gateway.model.im_people import Account, Item, ItemKind
from gateway.model.im_ports import Delivering, MediaRefused, MediaStore

#: times one file is asked for, and the pause between
FETCHES = 3
PAUSE_S = 1.0
#: requests that networks repeat at each login, and that are told once
REQUESTS_REMEMBERED = 50_000
#: characters of what a network calls itself a text
PRESENCE_TEXT = 500


class Incoming:
    """One for all accounts."""

    def __init__(
        self,
        delivering: Delivering,
        media: MediaStore,
        config: Im,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._delivering = delivering
        self._media = media
        self._config = config
        self._metrics = metrics
        #: Unix ms
        self._clock = clock
        self._fetches = asyncio.Semaphore(config.fetches_at_once)
        self._requests: OrderedDict[tuple[int, str], None] = OrderedDict()

    def open(self, account: Account) -> Inbox:
        return Inbox(self._delivering, account.user, account.number, self._config.store_retry_s, self._on_store_wait)

    async def take(self, account: Account, session: Session, inbox: Inbox, event: Event) -> None:
        """One event; returns when the next may come."""
        self._metrics.count(Metric.IM_EVENTS, label=_NAMES[type(event)])
        now_ms = self._clock()
        match event:
            case Message(envelope, cursor):
                envelope = await self._with_files(account, session, envelope)
                item = Item(ItemKind.MESSAGE, now_ms, account=account.number, envelope=self._stamp(envelope, now_ms))
                await inbox.put(item, cursor)
            case ReadUpTo(conversation, by, remote_id, cursor):
                item = Item(
                    ItemKind.READ,
                    now_ms,
                    account=account.number,
                    conversation=conversation,
                    by=by,
                    remote_id=remote_id,
                )
                await inbox.put(item, cursor)
            case FriendRequest(by, text, cursor):
                if self._is_known_request(account.number, by.remote_id):
                    await inbox.put(None, cursor)
                    return
                item = Item(ItemKind.FRIEND_REQUEST, now_ms, account=account.number, by=by, text=self._cut(text))
                await inbox.put(item, cursor)
                await inbox.drain()  # told means durable
                self._remember_request(account.number, by.remote_id)
            case ContactChanged(remote_id, contact, cursor):
                by = Person(remote_id, contact.display if contact else "")
                state = "there" if contact else "gone"
                if contact is None:
                    self._requests.pop((account.number, remote_id), None)
                item = Item(ItemKind.CONTACT, now_ms, account=account.number, by=by, state=state)
                await inbox.put(item, cursor)
            case Moved(cursor):
                await inbox.put(None, cursor)
            case PresenceChanged(by, is_available, text):
                state = "available" if is_available else "away"
                text = text[:PRESENCE_TEXT]
                item = Item(ItemKind.PRESENCE, now_ms, account=account.number, by=by, state=state, text=text)
                self._delivering.tell(account.user, item)
            case TypingChanged(conversation, by, is_typing):
                state = "typing" if is_typing else "paused"
                self._delivering.tell(
                    account.user,
                    Item(
                        ItemKind.TYPING,
                        now_ms,
                        account=account.number,
                        conversation=conversation,
                        by=by,
                        state=state,
                    ),
                )

    # --- texts -----------------------------------------------------------------------------------------------------

    def _stamp(self, envelope: Envelope, now_ms: int) -> Envelope:
        return msgspec.structs.replace(envelope, at_ms=now_ms, text=self._cut(envelope.text))

    def _cut(self, text: str) -> str:
        """What is longer than a text may be loses its end, and says so."""
        most = self._config.max_text_bytes
        if len(text) * 4 <= most or len(text.encode("utf-8", "replace")) <= most:
            return text
        ending = "… [cut]"
        return text.encode("utf-8", "replace")[: most - len(ending.encode())].decode("utf-8", "ignore") + ending

    def _is_known_request(self, account: int, remote_id: str) -> bool:
        key = account, remote_id
        if key not in self._requests:
            return False
        self._requests.move_to_end(key)
        return True

    def _remember_request(self, account: int, remote_id: str) -> None:
        self._requests[account, remote_id] = None
        if len(self._requests) > REQUESTS_REMEMBERED:
            self._requests.popitem(last=False)

    # --- files -----------------------------------------------------------------------------------------------------

    async def _with_files(self, account: Account, session: Session, envelope: Envelope) -> Envelope:
        """Its media as they are in our store; what could not be had is said in the text."""
        if not envelope.media:
            return envelope
        loop = asyncio.get_running_loop()
        until = loop.time() + self._config.fetch_s
        media, words = [], []
        for one in envelope.media:
            try:
                media.append(await self._fetch(account, session, one, until))
            except MediaRefused as exc:
                self._metrics.count(Metric.IM_FILES, label="refused")
                words.append(f"[a file was not taken: {exc}]")
            except (Rejected, Transient):
                self._metrics.count(Metric.IM_FILES, label="unreachable")
                words.append("[a file could not be fetched]")
        text = "\n".join(part for part in (envelope.text, *words) if part)
        return msgspec.structs.replace(envelope, media=tuple(media), text=text)

    async def _fetch(self, account: Account, session: Session, media: Media, until: float) -> Media:
        """MediaRefused; Rejected and Transient where the network does not give it. AuthFailed goes up."""
        loop = asyncio.get_running_loop()
        tries = 0
        while True:
            try:
                async with (
                    self._fetches,
                    asyncio.timeout_at(until),
                    aclosing(self._pieces(account, session, media)) as pieces,
                ):
                    taken = await self._media.take(pieces, user=account.user, media=media)
            except TimeoutError:
                raise Transient("the file did not come in time") from None
            except GatewayError:
                # our own store's trouble: nothing is skipped for it
                self._on_store_wait()
                await asyncio.sleep(self._config.store_retry_s)
                until = loop.time() + self._config.fetch_s
            except Transient as exc:
                tries += 1
                pause_s = max(exc.retry_after_s, PAUSE_S)
                if tries >= FETCHES or loop.time() + pause_s >= until:
                    raise
                await asyncio.sleep(pause_s)
            else:
                self._metrics.count(Metric.IM_FILES, label="taken")
                return taken

    async def _pieces(self, account: Account, session: Session, media: Media) -> AsyncGenerator[bytes, None]:
        """Each piece by a deadline of its own."""
        pieces = session.fetch(media).__aiter__()
        try:
            while True:
                async with bounded(self._config.request_s, account.network, self._on_fault):
                    try:
                        piece = await pieces.__anext__()
                    except StopAsyncIteration:
                        return
                yield piece
        finally:
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()

    def _on_fault(self, network: str) -> None:
        self._metrics.count(Metric.IM_FAULTS, label=network)

    def _on_store_wait(self) -> None:
        self._metrics.count(Metric.IM_STORE_WAITS)


_NAMES: dict[type, str] = {
    Message: "message",
    ReadUpTo: "read",
    FriendRequest: "friend_request",
    ContactChanged: "contact",
    Moved: "moved",
    PresenceChanged: "presence",
    TypingChanged: "typing",
}
