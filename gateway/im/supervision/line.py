"""One account that is to be connected: the one task that connects, reads, and connects again (D16); must never read on
past what the log does not have, nor try again what the network called wrong.

While something waits to be sent a second task sends it; an idle account has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Protocol

import structlog

from gateway.im.backoff import Backoff
from gateway.im.deadline import DECLARED, bounded, declared
from gateway.im.messaging.inbox import Inbox
from gateway.im.messaging.incoming import Incoming
from gateway.im.messaging.sending import Sending
from gateway.im.supervision.admission import Admission
from gateway.im.supervision.breaker import Breakers
from gateway.im.supervision.reports import Reports
from gateway.metrics import Metric
from gateway.model.errors import GatewayError
from gateway.model.im import (
    Act,
    AuthFailed,
    Connector,
    Contact,
    Credentials,
    CursorForgotten,
    Event,
    Rejected,
    Session,
    Transient,
)
from gateway.model.im_people import Account, AccountState
from gateway.model.im_ports import AccountRecords, Gate

_log = structlog.get_logger(__name__)

#: a message that is on its way when the connection is lost has so long to say what became of it
LAST_WORD_S = 0.5


class Switchboard(Protocol):
    """What all lines share (gateway/im/supervision/supervisor.py)."""

    gate: Gate
    accounts: AccountRecords
    admission: Admission
    breakers: Breakers
    incoming: Incoming
    sending: Sending
    reports: Reports
    connect_s: float
    request_s: float
    retry_s: float
    retry_max_s: float
    stable_s: float

    def connector(self, network: str) -> Connector | None: ...

    def rank(self, user: bytes) -> float:
        """How lately the user was active; more is later."""
        ...

    def on_fault(self, network: str) -> None: ...


class Line:
    __slots__ = (
        "_backoff",
        "_board",
        "_failure",
        "_sender",
        "_session",
        "account",
        "is_stopping",
        "outage_timer",
        "reason",
        "state",
        "task",
    )

    def __init__(self, account: Account, board: Switchboard) -> None:
        self.account = account
        self.state = AccountState.CONNECTING
        #: of gateway.im.supervision.reports
        self.outage_timer: asyncio.TimerHandle | None = None
        self.reason = ""
        self._board = board
        self._backoff = Backoff(board.retry_s, board.retry_max_s)
        self._session: Session | None = None
        self._sender: asyncio.Task[None] | None = None
        #: why the sender has ended the session
        self._failure: Exception | None = None
        self.is_stopping = False
        self.task = asyncio.create_task(self._run())

    @property
    def is_connected(self) -> bool:
        return self._session is not None

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        return [self.task] if self._sender is None else [self.task, self._sender]

    def stop(self, *, at_once: bool = False) -> None:
        """Take leave: what is on its way may end, unless `at_once`."""
        self.is_stopping = True
        if at_once and self._sender is not None:
            self._sender.cancel()
        self.task.cancel()

    def wake(self) -> None:
        """Something waits to be sent."""
        if self._session is None or self.is_stopping or self._sender is not None:
            return
        connector = self._board.connector(self.account.network)
        assert connector is not None
        self._sender = asyncio.create_task(
            self._board.sending.drain(self.account, self._session, connector.caps, self._may_send)
        )
        self._sender.add_done_callback(self._on_sender_done)

    def _may_send(self) -> bool:
        return self._session is not None and not self.is_stopping

    async def act(self, act: Act) -> None:
        """On the open session, once. Transient where there is none; what the network says else."""
        async with bounded(self._board.request_s, self.account.network, self._board.on_fault):
            await self._open_session().act(act)

    def contacts(self) -> AsyncIterator[Contact]:
        """Of the open session. Transient where there is none."""
        return self._open_session().contacts()

    def _open_session(self) -> Session:
        if self._session is None:
            raise Transient("the account is not connected")
        return self._session

    # --- connecting, again and again ---------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Until the account is not to be connected any more."""
        board = self._board
        while True:
            account = board.gate.owner(self.account.number)
            if account is None or account.state is AccountState.BAD_CREDENTIALS:
                return
            self.account = account
            at_least_s = 0.0
            try:
                await self._connect_once()
            except AuthFailed:
                board.reports.bad_credentials(self, "the network does not take the password or the key")
                return
            except Rejected as exc:
                # what was right once is not the user's to mend: a name that is not looked up today, a nick in use
                if board.accounts.cursor(account.number) is None:
                    board.reports.bad_credentials(self, str(exc))
                    return
                self.reason = str(exc)
            except CursorForgotten:
                await board.reports.gap(self)
            except Transient as exc:
                at_least_s = exc.retry_after_s
                self.reason = str(exc)
            except GatewayError as exc:
                # ours: the store takes nothing, the key is another's
                _log.warning("im_line_failed", network=account.network, error=exc.name)
            except Exception as exc:
                _log.error("im_line_failed", network=account.network, error=type(exc).__name__)
            board.reports.lost(self)
            await asyncio.sleep(self._backoff.next_s(at_least_s))

    async def _connect_once(self) -> None:
        """Connect, and attend to the session until it ends; it always ends by an exception."""
        board, account = self._board, self.account
        connector = board.connector(account.network)
        if connector is None:
            raise Transient("the network is not served here (im.networks)")
        credentials = Credentials(board.accounts.unseal(account))
        try:
            host = f"{account.network} {connector.host(credentials)}"
        except DECLARED:
            raise
        except Exception as exc:
            raise declared(exc, account.network, board.on_fault) from None
        is_probe = await self._wait_for_turn(host)
        cursor = board.accounts.cursor(account.number) or None
        opening = None
        try:
            try:
                async with bounded(board.connect_s, account.network, board.on_fault):
                    opening = connector.open(credentials, cursor)
                    session = await opening.__aenter__()
            except CursorForgotten:
                if cursor is None:
                    raise Transient("the network forgot what it was not asked for") from None
                raise
            finally:
                board.admission.leave()
        except BaseException as exc:
            self._count_connect(host, exc, is_probe=is_probe)
            raise
        board.breakers.succeeded(host)
        board.reports.count(Metric.IM_CONNECTS, "connected")
        since = asyncio.get_running_loop().time()
        try:
            await self._attend(session)
        except BaseException as exc:
            board.reports.count(Metric.IM_ENDED, "lost" if isinstance(exc, Transient) else _word(exc))
            raise
        finally:
            if asyncio.get_running_loop().time() - since >= board.stable_s:
                self._backoff.reset()
            with suppress(*DECLARED):
                async with bounded(board.request_s, account.network, board.on_fault):
                    await opening.__aexit__(None, None, None)

    async def _wait_for_turn(self, host: str) -> bool:
        """The circuit first, then a place among those who connect; True: this is the host's probe."""
        board = self._board
        while True:
            if board.breakers.is_open(host):
                board.reports.lost(self)
            is_probe = await board.breakers.enter(host)
            try:
                await board.admission.enter(board.rank(self.account.user))
            except BaseException:
                board.breakers.abandoned(host, is_probe=is_probe)
                raise
            if is_probe or not board.breakers.is_open(host):
                return is_probe
            board.admission.leave(unused=True)

    def _count_connect(self, host: str, exc: BaseException, *, is_probe: bool) -> None:
        board = self._board
        if isinstance(exc, Transient):
            if exc.retry_after_s > 0 and not is_probe:
                # the host is there and asks this account for a pause: that is not the others' trouble
                board.breakers.abandoned(host, is_probe=False)
            else:
                board.breakers.failed(host, is_probe=is_probe)
        elif isinstance(exc, DECLARED):
            board.breakers.succeeded(host)  # it answered
        else:
            board.breakers.abandoned(host, is_probe=is_probe)
            return
        board.reports.count(Metric.IM_CONNECTS, _word(exc))

    # --- a session ---------------------------------------------------------------------------------------------------

    async def _attend(self, session: Session) -> None:
        board = self._board
        self._session = session
        self._failure = None
        inbox = board.incoming.open(self.account)
        board.reports.connected(self)
        if board.sending.has_work(self.account.number):
            self.wake()
        events = session.events()
        try:
            await self._read(session, events, inbox)
        except asyncio.CancelledError:
            failure, task = self._failure, asyncio.current_task()
            if failure is None or self.is_stopping or task is None:
                raise
            # the sender ended the session, not somebody who wants us gone
            task.uncancel()
            raise failure from None
        finally:
            self._session = None
            await self._take_leave(inbox, events)

    async def _read(self, session: Session, events: AsyncIterator[Event], inbox: Inbox) -> None:
        board, network = self._board, self.account.network
        while True:
            try:
                event = await events.__anext__()
            except (StopAsyncIteration, Rejected):
                raise Transient("the connection is over") from None
            except DECLARED:
                raise
            except (Exception, asyncio.CancelledError) as exc:
                raise declared(exc, network, board.on_fault) from None
            if board.gate.owner(self.account.number) is None:
                raise Transient("the account is unbound")
            await board.incoming.take(self.account, session, inbox, event)

    async def _take_leave(self, inbox: Inbox, events: AsyncIterator[Event]) -> None:
        """Bounded: the sender's last word, what was read into the log, the reader closed."""
        board, sender = self._board, self._sender
        try:
            if sender is not None and not sender.done():
                if board.sending.is_trying(self.account.number):
                    await asyncio.wait([sender], timeout=board.request_s if self.is_stopping else LAST_WORD_S)
                sender.cancel()
                await asyncio.wait([sender], timeout=LAST_WORD_S)
            async with asyncio.timeout(board.request_s):
                await inbox.drain()
        except TimeoutError:
            _log.warning("im_inbox_not_kept", network=self.account.network)
        finally:
            inbox.close()
            if sender is not None:
                sender.cancel()
            close = getattr(events, "aclose", None)
            if close is not None:
                with suppress(*DECLARED):
                    async with bounded(board.request_s, self.account.network, board.on_fault):
                        await close()

    def _on_sender_done(self, sender: asyncio.Task[None]) -> None:
        self._sender = None
        failure = None if sender.cancelled() else sender.exception()
        if failure is None:
            if not sender.cancelled() and self._may_send() and self._board.sending.has_work(self.account.number):
                self.wake()
            return
        if not isinstance(failure, DECLARED):
            _log.error("im_sender_failed", network=self.account.network, error=type(failure).__name__)
            failure = Transient("sending failed")
        if self._session is not None and not self.is_stopping:
            self._failure = failure
            self.task.cancel()


def _word(exc: BaseException) -> str:
    for kind, word in _WORDS.items():
        if isinstance(exc, kind):
            return word
    return "closed"


_WORDS: dict[type[BaseException], str] = {
    AuthFailed: "auth_failed",
    Rejected: "rejected",
    Transient: "transient",
    CursorForgotten: "cursor_forgotten",
}
