"""IM over a device's connection (D): `Im` asks by name, and reads the items that come.

Sign in once, and the device stays signed in. Whatever must not be lost comes as a push; `catch_up` is for who was away
longer than pushes are kept, or to whom more came than is kept for one device."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import msgspec

from gateway.client.content import Notification
from gateway.client.registration import Registration
from gateway.model.errors import GatewayError, NotSignedIn
from gateway.model.im_people import Item, ItemKind

_pack = msgspec.msgpack.Encoder().encode
_parse_item = msgspec.msgpack.Decoder(Item).decode
#: items asked for at once
PAGE = 100
#: items that are remembered
GIVEN = 10_000


class Im:
    """Of one registration of the gateway's IM app.

    Every method is one operation of docs/im.md; its answer is a plain dict. Errors are GatewayErrors, as the gateway
    says them: `exc.name`, `exc.field`, `exc.message`.
    """

    def __init__(self, registration: Registration) -> None:
        self.registration = registration
        #: of the newest item that `items` gave; keep it over a restart, and give it to `catch_up`
        self.cursor = 0
        #: up to here `items` has given all there is; 0: it has given none
        self._whole = 0
        #: whose the items are that came, as far as this knows
        self._user = ""
        #: (cursor, at_ms) of what `items` gave lately: what was read from the log may still come as a push, and after a
        #: backup was restored cursors are given again
        self._given: OrderedDict[tuple[int, int], None] = OrderedDict()

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Any operation by its name; fields that are None are left out."""
        given = {name: value for name, value in fields.items() if value is not None}
        # the device, not a session of REST
        leaves = op == "sign_out" and bool(given.get("everywhere") or not given.get("key"))
        try:
            answer: dict[str, Any] = msgspec.msgpack.decode(await self.registration.ask(op, _pack(given)))
        except NotSignedIn:
            if leaves:
                self._forget()  # an answer that was lost said so before
            raise
        if leaves:
            self._forget()
        return answer

    # --- who I am (D1)

    async def register(self, address: str) -> dict[str, Any]:
        """Have a one-time code sent to a number (with its country code) or a mailbox."""
        return await self.ask("register", address=address)

    async def verify(self, address: str, code: str, name: str = "") -> dict[str, Any]:
        """This device belongs to the address's user from now on. Where it was another's, or nobody knows whose, what
        came for that one and was not read is dropped, and `cursor` begins anew: `catch_up` has whatever came for the
        new one meanwhile."""
        before = await self._whose() or self._user
        if not before:
            self._forget()  # nothing comes for that one any more, and what comes from now on is the new one's
        answer = await self.ask("verify", address=address, code=code, name=name or None)
        if before and answer["user"] != before:
            self._forget()
        self._user = str(answer["user"])
        return answer

    def _forget(self) -> None:
        """A5: what came is nobody's now."""
        self.registration.drop()
        self.cursor = self._whole = 0
        self._given.clear()

    async def _whose(self) -> str:
        """Whose device this is; empty: nobody's."""
        try:
            self._user = str((await self.ask("profile"))["user"])
            return self._user
        except NotSignedIn:
            return ""

    async def session_key(self) -> str:
        """For REST, and for ImMedia: shown this once."""
        return str((await self.ask("session_key"))["key"])

    async def bind(self, network: str, name: str, credentials: Mapping[str, str]) -> dict[str, Any]:
        """An account on another network; `name` is your own word for it, "to: name" posts there (D13)."""
        return await self.ask("bind", network=network, name=name, credentials=dict(credentials))

    async def accounts(self) -> list[dict[str, Any]]:
        accounts: list[dict[str, Any]] = (await self.ask("accounts"))["accounts"]
        return accounts

    # --- messages

    async def send(
        self, to: Iterable[Mapping[str, Any]] | Mapping[str, Any], text: str = "", **more: Any
    ) -> list[dict[str, Any]]:
        """`to`: one or many of {"account", "conversation", "kind"}, {"user"}, {"group"}, {"site"}; a verdict for each.
        `more`: subject, media, geo, reply_to, replaces. Asked again after a cut it is still sent once."""
        recipients = [dict(to)] if isinstance(to, Mapping) else [dict(one) for one in to]
        more.setdefault("idempotency_key", secrets.token_urlsafe(12))
        answer = await self.ask("send", to=recipients, text=text or None, **more)
        results: list[dict[str, Any]] = answer["results"]
        return results

    async def mark_read(self, account: int | str, conversation: str, remote_id: str, kind: str = "dm") -> None:
        """D10."""
        await self.ask("mark_read", account=account, conversation=conversation, remote_id=remote_id, kind=kind)

    async def typing(self, account: int | str, conversation: str, *, is_typing: bool = True, kind: str = "dm") -> None:
        await self.ask("typing", account=account, conversation=conversation, is_typing=is_typing, kind=kind)

    # --- what comes

    async def items(self) -> AsyncIterator[Item]:
        """What is pushed, in order; read from the log where a push had no room for all of it, or where more came than
        are kept for a device that is away. The registration must be without callbacks."""
        async for pushed in self.registration:
            values = (
                pushed.data.get("im") if isinstance(pushed, Notification) and isinstance(pushed.data, dict) else None
            )
            if not isinstance(values, dict):
                continue
            is_whole = True
            if self._whole and values["cursor"] > self._whole + 1:
                try:
                    async for item in self._read_between(values["cursor"]):
                        yield self._give(item, is_whole=True)
                except (GatewayError, ConnectionError):
                    is_whole = False  # with the next one
            if (values["cursor"], values["at_ms"]) in self._given:
                continue
            if values.get("cut"):
                found = await self.ask("history", after=values["cursor"] - 1, limit=1)
                values = found["items"][0] if found["items"] else None
                if values is None:
                    continue  # older than the log goes back
            yield self._give(msgspec.convert(values, Item), is_whole=is_whole)

    def _give(self, item: Item, *, is_whole: bool) -> Item:
        self.cursor = max(self.cursor, item.cursor)
        if is_whole:
            self._whole = max(self._whole, item.cursor)
        self._given[item.cursor, item.at_ms] = None
        if len(self._given) > GIVEN:
            self._given.popitem(last=False)
        return item

    async def _read_between(self, until: int) -> AsyncIterator[Item]:
        """Behind `_whole` and before that cursor, without what was given already."""
        after, more = self._whole, True
        while more and after + 1 < until:
            page = await self.ask("history", after=after, limit=PAGE)
            more = page["more"]
            for values in page["items"]:
                after = values["cursor"]
                if after >= until:
                    return
                if (after, values["at_ms"]) not in self._given:
                    yield msgspec.convert(values, Item)

    async def catch_up(self, after: int | None = None) -> AsyncIterator[Item]:
        """What is in the log behind a cursor, oldest first. A GAP of account 0 stands where the log goes back no
        further, or knows nothing of the cursor: it was restored from a backup."""
        cursor = self.cursor if after is None else after
        while True:
            page = await self.ask("history", after=cursor, limit=PAGE)
            if page["last"] < cursor:
                self.cursor = self._whole = cursor = 0
                yield Item(ItemKind.GAP, 0)
                continue
            if cursor and page["first"] > cursor + 1:
                yield Item(ItemKind.GAP, 0)
            for values in page["items"]:
                item = msgspec.convert(values, Item)
                cursor = item.cursor
                self.cursor = max(self.cursor, cursor)
                yield item
            if not page["more"]:
                return

    def on_told(self, callback: Callable[[Item], None] | None) -> None:
        """Who is there, who types: told while it is so, and never kept."""
        if callback is None:
            self.registration.on_told(None)
        else:
            heard = callback
            self.registration.on_told(lambda body: heard(_parse_item(body)))
