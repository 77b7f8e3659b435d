"""IM aggregation, put together: users, accounts, connectors, supervision, messages and media (D1 to D16); must know no
more of the rest of the gateway than it is handed.

Imported and built where `im.app` is set alone, for its libraries are an extra. It is drained before the device door:
accounts are left in order, what is on its way to a network has its time, and what is cut off then goes on after the
next start.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address

import structlog
from msgspec.structs import replace

from gateway.api.call import Call
from gateway.api.im.links import MediaRoutes, media_routes
from gateway.api.im.ports import ImRest
from gateway.api.im.uploads import UploadRoutes, upload_routes
from gateway.config.sections import Config
from gateway.delivery.accept import Acceptor
from gateway.delivery.item_acks import ItemAcks
from gateway.delivery.item_pushes import ItemPushes
from gateway.edge.server import EdgeServer
from gateway.im.asking import Asking
from gateway.im.connectors import ConnectorSettings, build_connectors
from gateway.im.media.library import Library
from gateway.im.media.links import Links
from gateway.im.media.uploads import Uploads
from gateway.im.messaging.delivery import Deliverer
from gateway.im.messaging.expiry import Expiry
from gateway.im.messaging.incoming import Incoming
from gateway.im.messaging.mail_intake import MailIntake
from gateway.im.messaging.mail_listener import MailDoor
from gateway.im.messaging.mailbox_network import FIELD, NETWORK, MailboxNetwork
from gateway.im.messaging.outbox import Outbox
from gateway.im.messaging.own import OwnMessages
from gateway.im.messaging.own_mailbox import OwnMailbox
from gateway.im.messaging.presence import Presence
from gateway.im.messaging.results import Results
from gateway.im.messaging.sending import Sending
from gateway.im.operations.history import build_history_operations
from gateway.im.operations.messages import build_message_operations
from gateway.im.operations.ust import build_ust_operations
from gateway.im.supervision.supervisor import Supervisor
from gateway.im.ust.build import build_ust
from gateway.im.ust.code_by_mail import CodesByMail
from gateway.im.ust.code_log import LoggedCodes
from gateway.im.ust.gate import UstGate
from gateway.im.ust.rates import HOUR_MS, Rate
from gateway.im.ust.users import CodeSenders
from gateway.metrics import Metrics
from gateway.model.errors import ConfigError, NotSignedIn, QueueFull, StoreUnavailable
from gateway.model.im_people import Account, User
from gateway.model.im_ports import AddressTaken, CodeSender
from gateway.model.notifier import Notifier
from gateway.model.registration import build_token
from gateway.paging import build_code_messages
from gateway.store import Store

_log = structlog.get_logger(__name__)


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


class ImSide:
    """Control thread only. Raises ConfigError."""

    def __init__(
        self,
        config: Config,
        store: Store,
        metrics: Metrics,
        edge: EdgeServer,
        acceptor: Acceptor,
        sms_codes: CodeSender | None,
        link_base: Callable[[], str],
    ) -> None:
        im = self._config = config.im
        self._accounts = store.im_accounts
        self._forgetting: set[asyncio.Task[None]] = set()
        store.configure_im(im)
        users, accounts, log = store.im_users, store.im_accounts, store.im_log

        def tell(token: bytes, item: bytes) -> None:
            link = edge.attendance.link(token)
            if link:
                edge.asks.tell(link, build_token(token), item)

        links = Links(store.keys.push_id_key, link_base, im.link_s, unix_ms)
        media = self._library = Library(store.im_media, store.im_media_files, links, im, metrics, unix_ms)
        self._uploads = Uploads(store.im_uploads, media, im, metrics, unix_ms)
        pushes = ItemPushes(im.app, store.directory, acceptor, metrics, tell, unix_ms)
        connectors = build_connectors(
            im.networks,
            ConnectorSettings(
                private_hosts=im.private_hosts,
                request_s=im.request_s,
                text_bytes=im.max_text_bytes,
                media_bytes=im.media_bytes,
                events=im.account_events,
                irc_burst=im.irc_burst,
                irc_line_s=im.irc_line_s,
                irc_ping_s=im.irc_ping_s,
                poll_s=im.social_poll_s,
                follows=im.social_follows,
                threads=im.connector_threads,
                idle_s=im.mail_idle_s,
            ),
        )
        bindable = dict(connectors)
        if im.mail_domain and im.smtp_host:
            connectors[NETWORK] = MailboxNetwork(OwnMailbox(im))
        gate = UstGate(users, accounts)
        deliverer = Deliverer(log, users, pushes)
        results = Results(log, deliverer, metrics, unix_ms, im.store_retry_s)
        sending = Sending(log, results, media, im, metrics, unix_ms)
        expiry = self._expiry = Expiry(log, sending, unix_ms)
        presence = self._presence = Presence(users, deliverer, unix_ms, im.presence_s)
        supervisor = self.supervisor = Supervisor(
            gate=gate,
            users=users,
            accounts=accounts,
            attendance=edge.attendance,
            connectors=connectors,
            delivering=deliverer,
            incoming=Incoming(deliverer, media, im, metrics, unix_ms),
            sending=sending,
            expiry=expiry,
            config=im,
            metrics=metrics,
            clock=unix_ms,
            on_presence=presence.changed,
        )
        presence.is_present = supervisor.is_present
        self._mail_door: MailDoor | None = None
        if im.mail_port >= 0:
            intake = MailIntake(im, users, media, deliverer, metrics, unix_ms, self._mailbox_account)
            self._mail_door = MailDoor(im, intake, metrics)
        own = OwnMessages(gate, users, deliverer, media, metrics, unix_ms, im.sends_per_minute)
        self._acks = ItemAcks(im.app, store.receipts, own.on_acked)
        outbox = Outbox(
            gate=gate,
            log=log,
            own=own,
            media=media,
            supervision=supervisor,
            connectors=connectors,
            expiry=expiry,
            config=im,
            metrics=metrics,
            clock=unix_ms,
        )

        def signed_in(token: bytes, _user: bytes) -> None:
            if edge.attendance.is_connected(token):
                supervisor.connected(token)

        def signed_out(token: bytes, _user: bytes) -> None:
            supervisor.disconnected(token)
            number = store.directory.locate(token).number
            if number >= 0:
                edge.events.recall_all(number)

        ust = build_ust(
            users=users,
            accounts=accounts,
            gate=gate,
            delivering=deliverer,
            supervision=supervisor,
            connectors=bindable,
            senders=CodeSenders(self._phone_codes(sms_codes), self._mail_codes()),
            settings=im,
            metrics=metrics,
            on_signed_in=signed_in,
            on_signed_out=signed_out,
            on_removed=self._on_removed,
            on_mailbox=self._on_mailbox if NETWORK in connectors else None,
        )
        operations = (
            *build_ust_operations(ust, im),
            *build_message_operations(outbox, own),
            *build_history_operations(log, presence),
        )
        self.asking = Asking(operations, users, metrics, unix_ms, on_active=supervisor.active)
        edge.open_to_users(self.asking, im.app)

        def user_of(authorization: str | None) -> bytes | None:
            scheme, _, key = (authorization or "").partition(" ")
            return ust.sessions.user(key.strip(), unix_ms()) if scheme.lower() == "bearer" else None

        def authorize(call: Call) -> bytes:
            user = user_of(call.request.headers.get("authorization"))
            if user is None:
                raise NotSignedIn
            return user

        routes = (
            *upload_routes(UploadRoutes(self._uploads, authorize, im.media_bytes)),
            *media_routes(MediaRoutes(media, authorize, metrics)),
        )
        rate = Rate("strangers", im.strangers_per_hour, HOUR_MS, metrics)
        salt = secrets.token_bytes(16)

        def stranger(host: str) -> int:
            if not im.strangers_per_hour:
                return 0
            try:
                address = ip_address(host.partition("%")[0])
            except ValueError:
                return 0  # a socket without one: on this machine
            # a host has a whole /64 to itself
            whole = address.packed if address.version == 4 else address.packed[:8]
            return rate.take(hmac.digest(salt, whole, "sha256")[:16], unix_ms())

        self.rest = ImRest(asking=self.asking, user_of=user_of, stranger=stranger, media=routes)

    @property
    def mail_port(self) -> int:
        """Of the mail listener; -1: there is none."""
        return -1 if self._mail_door is None else self._mail_door.port

    def _phone_codes(self, sms: CodeSender | None) -> CodeSender | None:
        match self._config.phone_codes:
            case "sms":
                return sms
            case "log":
                return LoggedCodes()
        return None

    def _mail_codes(self) -> CodeSender | None:
        match self._config.mail_codes:
            case "smtp":
                return CodesByMail(self._config)
            case "log":
                return LoggedCodes()
        return None

    async def _on_mailbox(self, user: User, now_ms: int) -> None:
        """The account that the mailbox is written from, in the commit in which it is chosen; again where it was
        unbound, or could not be there before."""
        if self._mailbox_account(user.user):
            return
        number = self._accounts.reserve()
        sealed = self._accounts.seal(user.user, number, NETWORK, {FIELD: user.mailbox})
        account = Account(number, user.user, NETWORK, NETWORK, sealed, now_ms)
        try:
            done = self._accounts.put_account(account)
        except AddressTaken:  # the user has another account of this name
            done = self._accounts.put_account(replace(account, name=f"{NETWORK} {number}"))
        self.supervisor.bound(account)
        await done

    def _mailbox_account(self, user: bytes) -> int:
        return next((one.number for one in self._accounts.accounts(user) if one.network == NETWORK), 0)

    def _on_removed(self, user: bytes) -> None:
        self.supervisor.gone(user)
        forgetting = asyncio.get_running_loop().create_task(self._forget_media(user))
        self._forgetting.add(forgetting)
        forgetting.add_done_callback(self._forgetting.discard)

    async def _forget_media(self, user: bytes) -> None:
        """In slices. What a crash leaves goes when nobody has used it for im.media_days."""
        try:
            self._uploads.forget(user)
            while self._library.forget(user):  # noqa: ASYNC110
                await asyncio.sleep(0)  # a slice a turn of the loop
        except (StoreUnavailable, QueueFull):
            _log.warning("im_media_left", why="the store took nothing; they go when nobody has used them for long")

    async def start(self) -> None:
        """Before devices connect. StoreUnavailable, ConfigError."""
        await self._library.start()
        await self._uploads.start()
        self._acks.start()
        self.supervisor.start()
        if self._mail_door is not None:
            try:
                await self._mail_door.start()
            except OSError as exc:
                raise ConfigError(
                    f"the mail listener can not bind {self._config.mail_host}: {exc.strerror or exc}",
                    field="im.mail_port",
                ) from exc

    async def stop(self) -> None:
        """Bounded by im.close_s."""
        if self._mail_door is not None:
            await self._mail_door.close()
        await self.supervisor.stop()
        self._presence.close()
        self._expiry.close()
        self._acks.close()
        await self._uploads.stop()
        await self._library.stop()


def build_im_side(
    config: Config,
    store: Store,
    metrics: Metrics,
    edge: EdgeServer,
    acceptor: Acceptor,
    notifiers: Mapping[str, Notifier],
    link_base: Callable[[], str],
) -> ImSide:
    """Before the pagers start. ConfigError."""
    sms_codes = build_code_messages(config, notifiers) if config.im.phone_codes == "sms" else None
    return ImSide(config, store, metrics, edge, acceptor, sms_codes, link_base)
