"""Users (D1): a one-time code proves an address, the address is the user; their devices, profile and end.

Answers and work are the same whether an address is a user's or not, until whoever asks has proved that it is theirs.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from msgspec.structs import replace

from gateway.config.im_section import Im
from gateway.im.ust import addresses
from gateway.im.ust.accounts import BoundAccounts
from gateway.im.ust.codes import SIGN_IN, Codes
from gateway.im.ust.friends import Friends
from gateway.im.ust.groups import Groups
from gateway.im.ust.names import check_name
from gateway.im.ust.rates import DAY_MS, Rate
from gateway.im.ust.sessions import Sessions
from gateway.metrics.names import Metric
from gateway.metrics.sink import Metrics
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    Conflict,
    GatewayError,
    NotConfigured,
    NotFound,
    TooManyRequests,
)
from gateway.model.im_people import USER_BYTES, User
from gateway.model.im_ports import AddressTaken, CodeSender, UserRecords


class CodeSenders(NamedTuple):
    """None: no codes go there (phone_codes or mail_codes is none)."""

    phone: CodeSender | None
    mail: CodeSender | None


class SignedIn(NamedTuple):
    user: bytes
    is_new: bool
    #: for REST; empty where a device signed in
    key: str


class Users:
    """Loop thread only. `on_signed_in` and `on_signed_out` are told of every device (token, user), `on_removed` of
    every user who is gone: the latter two in the turn in which it is written."""

    def __init__(
        self,
        records: UserRecords,
        *,
        senders: CodeSenders,
        sessions: Sessions,
        accounts: BoundAccounts,
        friends: Friends,
        groups: Groups,
        settings: Im,
        metrics: Metrics,
        on_signed_in: Callable[[bytes, bytes], None],
        on_signed_out: Callable[[bytes, bytes], None],
        on_removed: Callable[[bytes], None],
        on_mailbox: Callable[[User, int], Awaitable[None]] | None = None,
    ) -> None:
        self._records = records
        self._senders = senders
        self._sessions = sessions
        self._accounts = accounts
        self._friends = friends
        self._groups = groups
        self._settings = settings
        self._metrics = metrics
        self._on_signed_in = on_signed_in
        self._on_signed_out = on_signed_out
        self._on_removed = on_removed
        #: a user has a mailbox from now on; called in the turn in which that is written
        self._on_mailbox = on_mailbox
        self._codes = Codes(settings, metrics)
        self._mailbox_tries = Rate("mailboxes", settings.mailbox_tries_per_day, DAY_MS, metrics)
        self._domain = addresses.parse_domain(settings.mail_domain) or ""

    # --- codes

    async def register(self, address: str, token: bytes | None, now_ms: int) -> None:
        """Send a code to whoever has this address, user or not."""
        await self._send_code(SIGN_IN, self._parse(address), token, now_ms)

    async def verify(
        self, address: str, code: str, token: bytes | None, now_ms: int, *, name: str = "", alone: bool = False
    ) -> SignedIn:
        """The user whose address this is, made where there is none. `token`: this device is theirs from now on, else
        there is a key for REST. `alone`: their other devices are signed out, and
        their keys end."""
        address = self._parse(address)
        name = check_name(name, may_be_empty=True)
        self._codes.check(SIGN_IN, address, token, code, now_ms)
        # from here to the first await nothing else runs: two who verify at once do not make two users
        found = self._records.find_user(address)
        user = found if found is not None else secrets.token_bytes(USER_BYTES)
        others = [device for device in self._records.devices(user) if device != token] if found is not None else []
        if token is not None and not alone and len(others) >= self._settings.devices_per_user:
            raise Conflict("too many devices are signed in: verify with sign_out_others", field="sign_out_others")
        done: list[asyncio.Future[None]] = []
        if found is None:
            done.append(self._records.put_user(User(user, now_ms, name, (address,))))
        if alone:
            done += [self._sign_out(device, user) for device in others]
            done.append(self._records.remove_sessions(user))
        key = ""
        if token is not None:
            before = self._records.signed_in(token)
            done.append(self._records.sign_in(token, user))
            if before not in (None, user):
                # in this turn: nothing of theirs may reach the device once it is another's (A5)
                self._on_signed_out(token, before)
        else:
            key, kept = self._sessions.make(user, now_ms)
            done.append(kept)
        self._codes.use(SIGN_IN, address, token)
        await asyncio.gather(*done)
        self._metrics.count(Metric.IM_USERS, label="signed_in")
        if found is None:
            self._metrics.count(Metric.IM_USERS, label="made")
        if token is not None:
            self._on_signed_in(token, user)
        return SignedIn(user, found is None, key)

    async def add_address(self, me: bytes, address: str, token: bytes | None, now_ms: int) -> None:
        """Send a code to a further address."""
        user = self.user(me)
        address = self._parse(address)
        self._check_room_for_address(user, address)
        await self._send_code(me, address, token, now_ms)

    async def confirm_address(self, me: bytes, address: str, code: str, token: bytes | None, now_ms: int) -> User:
        """Conflict where it is another user's: said to those alone who have proved that it is theirs."""
        user = self.user(me)
        address = self._parse(address)
        self._check_room_for_address(user, address)
        self._codes.check(me, address, token, code, now_ms)
        if address not in user.addresses:
            user = replace(user, addresses=(*user.addresses, address))
        try:
            done = self._records.put_user(user)
        except AddressTaken:
            done = None
        self._codes.use(me, address, token)
        if done is None:
            raise Conflict("this address is another user's: sign in with it, and remove it there", field="address")
        await done
        return user

    async def remove_address(self, me: bytes, address: str) -> User:
        user = self.user(me)
        address = addresses.parse_address(address)
        if address not in user.addresses:
            raise NotFound("this is no address of yours", field="address")
        if len(user.addresses) == 1:
            raise Conflict("this is the only address: add another one first, or remove the user", field="address")
        user = replace(user, addresses=tuple(one for one in user.addresses if one != address))
        await self._records.put_user(user)
        return user

    async def session_key(self, me: bytes, now_ms: int) -> str:
        """A new one, for who is signed in already. Past im.session_keys_per_user the one that would end first ends."""
        key, kept = self._sessions.make(me, now_ms)
        await kept
        return key

    # --- profile

    def user(self, me: bytes) -> User:
        found = self._records.user(me)
        if found is None:  # removed while an older question of theirs was under way
            raise NotFound("this user is no longer there")
        return found

    def mailbox(self, user: User) -> str:
        """Its address; empty: none."""
        return f"{user.mailbox}@{self._domain}" if user.mailbox and self._domain else ""

    async def change_profile(
        self, me: bytes, now_ms: int, *, name: str | None, is_discoverable: bool | None, mailbox: str | None
    ) -> User:
        """None: as it is. A mailbox is chosen once: mail to it would reach whoever took its name next."""
        user = self.user(me)
        if name is not None:
            user = replace(user, name=check_name(name, may_be_empty=True))
        if is_discoverable is not None:
            user = replace(user, is_discoverable=is_discoverable)
        if mailbox is not None:
            user = self._with_mailbox(user, mailbox, now_ms)
        try:
            done = self._records.put_user(user)
        except AddressTaken:
            done = None
        if done is None:
            raise Conflict("this name is taken: choose another", field="mailbox")
        if mailbox is not None and self._on_mailbox is not None:
            await asyncio.gather(done, self._on_mailbox(user, now_ms))
        else:
            await done
        return user

    def _with_mailbox(self, user: User, mailbox: str, now_ms: int) -> User:
        if not self._domain:
            raise NotConfigured("there are no mailboxes here (im.mail_domain)", field="mailbox")
        local = addresses.parse_local_part(mailbox)
        if local == user.mailbox:
            return user
        if user.mailbox:
            raise Conflict("a mailbox is chosen once, and this user has one", field="mailbox")
        after_ms = self._mailbox_tries.take(user.user, now_ms)
        if after_ms:
            raise TooManyRequests("too many names were tried", field="mailbox", after_ms=after_ms)
        return replace(user, mailbox=local)

    # --- the end

    async def sign_out(self, me: bytes, token: bytes | None, *, key: str, everywhere: bool) -> None:
        """This device, this key, or all devices and keys: one of them at least."""
        done: list[asyncio.Future[None]] = []
        if everywhere:
            done = [self._sign_out(device, me) for device in self._records.devices(me)]
            done.append(self._records.remove_sessions(me))
        elif key:
            ended = self._sessions.end(key)
            if ended is not None:
                done.append(ended)
        elif token is not None:
            done.append(self._sign_out(token, me))
        else:
            raise BadRequest("give the key that is to end, or everywhere", field="key")
        await asyncio.gather(*done)

    def _sign_out(self, token: bytes, user: bytes) -> asyncio.Future[None]:
        done = self._records.sign_out(token)
        self._metrics.count(Metric.IM_USERS, label="signed_out")
        self._on_signed_out(token, user)
        return done

    async def remove(self, me: bytes, now_ms: int) -> None:
        """The user and everything of theirs; friends and groups are told. What fails midway can be asked again."""
        self.user(me)
        await self._groups.leave_all(me, now_ms)
        await self._friends.end_all(me, now_ms)
        for token in self._records.devices(me):
            self._on_signed_out(token, me)
        self._accounts.cut_all(me)  # also what was bound since: from here to remove_user nothing else runs
        done = self._records.remove_user(me)
        self._on_removed(me)
        await done
        self._metrics.count(Metric.IM_USERS, label="removed")

    # --- parts

    def _parse(self, text: str) -> str:
        """Of an address that can prove a user. A mailbox in our own domain proves nobody: its mail is a user's log."""
        address = addresses.parse_address(text)
        if self._domain and address.endswith("@" + self._domain):
            raise BadRequest("give an address elsewhere: mailboxes here belong to users", field="address")
        return address

    def _check_room_for_address(self, user: User, address: str) -> None:
        if address not in user.addresses and len(user.addresses) >= self._settings.addresses_per_user:
            raise Conflict("too many addresses: remove one first", field="address")

    async def _send_code(self, purpose: bytes, address: str, token: bytes | None, now_ms: int) -> None:
        if addresses.is_number(address):
            sender, setting = self._senders.phone, "im.phone_codes"
            if addresses.is_dear(address):
                raise BadRequest("no codes go to premium numbers: give another", field="address")
        else:
            sender, setting = self._senders.mail, "im.mail_codes"
        if sender is None:
            raise NotConfigured(f"no codes go to addresses of this kind ({setting})", field="address")
        code = self._codes.make(purpose, address, token, now_ms)
        error = await self._bring(sender, address, code)
        self._metrics.count(Metric.IM_CODES, label="failed" if error else "sent")
        if error is not None:
            self._codes.use(purpose, address, token)
            raise error

    async def _bring(self, sender: CodeSender, address: str, code: str) -> GatewayError | None:
        try:
            async with asyncio.timeout(self._settings.request_s):
                await sender.send(address, code)
        except GatewayError as error:
            return error
        except TimeoutError:
            return AcceptTimeout("the code could not be sent in time: ask for another one")
        return None
