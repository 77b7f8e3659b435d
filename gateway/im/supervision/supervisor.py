"""Which accounts are to be connected (D16): those of users with a device on line, and a while longer; an account that
is not has no object here. Must never connect one that has no owner in UST, nor more than the node is to hold.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing

import msgspec
import structlog

from gateway.config.im_section import Im
from gateway.im.deadline import DECLARED, bounded
from gateway.im.messaging.expiry import Expiry
from gateway.im.messaging.incoming import Incoming
from gateway.im.messaging.results import observe
from gateway.im.messaging.sending import Sending
from gateway.im.supervision.admission import Admission
from gateway.im.supervision.breaker import Breakers
from gateway.im.supervision.line import Line
from gateway.im.supervision.reports import Reports
from gateway.metrics import Metric, Metrics
from gateway.metrics.sink import Reading
from gateway.model.errors import Conflict, InvalidField, NotFound
from gateway.model.im import Act, Connector, Contact, Rejected
from gateway.model.im_people import Account, AccountState
from gateway.model.im_ports import AccountRecords, Attendance, Delivering, Gate, UserRecords

_log = structlog.get_logger(__name__)

#: contacts of one account that are read; past it the rest is left out
MOST_CONTACTS = 20_000
#: typing words on their way at once, of all accounts
MOST_ACTS = 1_000


class _Present:
    """A user with a device on line, or who had one a moment ago."""

    __slots__ = ("active_at", "devices", "is_shed", "lines", "linger", "user")

    def __init__(self, user: bytes) -> None:
        self.user = user
        #: by the loop's clock
        self.active_at = 0.0
        self.devices: set[bytes] = set()
        self.lines: dict[int, Line] = {}
        self.linger: asyncio.TimerHandle | None = None
        self.is_shed = False


class Supervisor:
    """`Supervision` of gateway.model.im_ports, and the Switchboard of its lines."""

    def __init__(
        self,
        *,
        gate: Gate,
        users: UserRecords,
        accounts: AccountRecords,
        attendance: Attendance,
        connectors: Mapping[str, Connector],
        delivering: Delivering,
        incoming: Incoming,
        sending: Sending,
        expiry: Expiry,
        config: Im,
        metrics: Metrics,
        clock: Callable[[], int],
        on_presence: Callable[[bytes, bool], None] = lambda _user, _is_here: None,
    ) -> None:
        self.gate = gate
        self.accounts = accounts
        self.incoming = incoming
        self.sending = sending
        self.admission = Admission(config.connects_at_once, config.connects_per_s)
        self.breakers = Breakers(config.breaker_failures, config.breaker_s)
        self.reports = Reports(delivering, accounts, metrics, clock, config.outage_s, config.store_retry_s)
        self.connect_s = config.connect_s
        self.request_s = config.request_s
        self.retry_s = config.retry_s
        self.retry_max_s = config.retry_max_s
        self.stable_s = config.stable_s
        self._users_records = users
        self._attendance = attendance
        self._connectors = connectors
        self._expiry = expiry
        self._config = config
        self._metrics = metrics
        self._on_presence = on_presence
        #: of devices that are on line
        self._tokens: dict[bytes, bytes] = {}
        self._present: dict[bytes, _Present] = {}
        #: those with lines, the one that was active longest ago first
        self._served: OrderedDict[bytes, _Present] = OrderedDict()
        #: those that had to go for others (im.max_sessions), in the order in which they went
        self._shed: OrderedDict[bytes, None] = OrderedDict()
        self._lines: dict[int, Line] = {}
        self._stopping = 0
        #: accounts whose line begins anew when it has ended
        self._again: set[int] = set()
        self._acts: dict[int, asyncio.Task[None]] = {}
        self._is_closed = False
        self._remove_source: Callable[[], None] = lambda: None

    # --- start and end ---------------------------------------------------------------------------------

    def start(self) -> None:
        self._attendance.on_connected = self.connected
        self._attendance.on_disconnected = self.disconnected
        self._remove_source = self._metrics.add_source(self._readings)
        self._expiry.start()

    async def stop(self) -> None:
        """Bounded by im.close_s: sessions take leave; those that do not are left where they are."""
        self._is_closed = True
        self._again.clear()
        self._expiry.close()
        for present in self._present.values():
            if present.linger is not None:
                present.linger.cancel()
                present.linger = None
        for task in self._acts.values():
            task.cancel()
        for line in list(self._lines.values()):
            self._stop_line(line)
        await self._wait_for_lines(self._config.close_s)
        for line in list(self._lines.values()):
            line.stop(at_once=True)
        await self._wait_for_lines(1.0)
        if self._lines:
            _log.warning("im_sessions_left", count=len(self._lines))
        self.admission.close()
        self.breakers.close()
        self._remove_source()

    async def _wait_for_lines(self, seconds: float) -> None:
        tasks = [task for line in self._lines.values() for task in line.tasks] + list(self._acts.values())
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
            await asyncio.sleep(0)  # their callbacks

    # --- who is there ---------------------------------------------------------------------------------

    def connected(self, token: bytes) -> None:
        """A device's registration is on line, or its user has signed in on it."""
        user = self._users_records.signed_in(token)
        known = self._tokens.get(token)
        if known is not None and known != user:
            self.disconnected(token)
        if user is None or self._is_closed:
            return
        self._tokens[token] = user
        present = self._touch(user)
        is_first = not present.devices
        present.devices.add(token)
        if is_first:
            self._on_presence(user, True)
        if present.linger is not None:
            present.linger.cancel()
            present.linger = None
        self._start_lines(present)

    def disconnected(self, token: bytes) -> None:
        """It is off line, or its user has signed out on it."""
        user = self._tokens.pop(token, None)
        present = None if user is None else self._present.get(user)
        if present is None:
            return
        present.devices.discard(token)
        if not present.devices:
            self._on_presence(present.user, False)
            self._arm_linger(present)

    def active(self, user: bytes) -> None:
        """The user asked for something, over REST as well: their accounts are connected for a while."""
        if self._is_closed:
            return
        present = self._touch(user)
        if not present.devices:
            self._arm_linger(present)
        self._start_lines(present)

    def is_present(self, user: bytes) -> bool:
        present = self._present.get(user)
        return present is not None and bool(present.devices)

    def gone(self, user: bytes) -> None:
        """The user is removed: nothing of theirs stays connected."""
        present = self._present.get(user)
        if present is None:
            return
        for token in list(present.devices):
            self.disconnected(token)
        self._on_linger(present)

    def _touch(self, user: bytes) -> _Present:
        present = self._present.get(user)
        if present is None:
            present = self._present[user] = _Present(user)
        present.active_at = asyncio.get_running_loop().time()
        if user in self._served:
            self._served.move_to_end(user)
        self._shed.pop(user, None)
        present.is_shed = False
        return present

    def _arm_linger(self, present: _Present) -> None:
        if present.linger is not None:
            present.linger.cancel()
        if not self._is_closed:
            loop = asyncio.get_running_loop()
            present.linger = loop.call_later(self._config.linger_s, self._on_linger, present)

    def _on_linger(self, present: _Present) -> None:
        if present.linger is not None:
            present.linger.cancel()
            present.linger = None
        if present.devices:
            return
        self._shed.pop(present.user, None)
        for line in list(present.lines.values()):
            self._again.discard(line.account.number)
            self._stop_line(line)
        self._drop_if_gone(present)

    def _drop_if_gone(self, present: _Present) -> None:
        if not present.lines and not present.devices and present.linger is None:
            self._present.pop(present.user, None)

    # --- lines ---------------------------------------------------------------------------------

    def _start_lines(self, present: _Present, *, may_shed: bool = True) -> None:
        for account in self.accounts.accounts(present.user):
            if account.state is AccountState.BAD_CREDENTIALS or account.network not in self._connectors:
                continue
            line = self._lines.get(account.number)
            if line is not None:
                if line.is_stopping:
                    self._again.add(account.number)
                continue
            if not self._make_room(present, may_shed=may_shed):
                self._set_shed(present)
                self.reports.shed(account)
                return
            self._start_line(present, account)

    def _start_line(self, present: _Present, account: Account) -> None:
        line = Line(account, self)
        self._lines[account.number] = present.lines[account.number] = line
        if present.user not in self._served:
            self._served[present.user] = present
        line.task.add_done_callback(lambda task: self._on_line_done(line, task))

    def _stop_line(self, line: Line, *, at_once: bool = False) -> None:
        if not line.is_stopping:
            self._stopping += 1
            self.reports.forget(line)
        line.stop(at_once=at_once)

    def _on_line_done(self, line: Line, task: asyncio.Task[None]) -> None:
        number, user = line.account.number, line.account.user
        if not task.cancelled() and task.exception() is not None:
            _log.error("im_line_ended", network=line.account.network, error=type(task.exception()).__name__)
        if line.is_stopping:
            self._stopping -= 1
        self.reports.forget(line)
        self._lines.pop(number, None)
        present = self._present.get(user)
        if present is not None:
            present.lines.pop(number, None)
            if not present.lines:
                self._served.pop(user, None)
        if number in self._again:
            self._again.discard(number)
            if present is not None and not self._is_closed and not present.is_shed:
                self._start_lines(present)
        if present is not None:
            self._drop_if_gone(present)
        self._readmit()

    def _make_room(self, present: _Present, *, may_shed: bool) -> bool:
        """Past im.max_sessions those whose users were silent longest are disconnected."""
        if len(self._lines) - self._stopping < self._config.max_sessions:
            return True
        if not may_shed:
            return False
        for other in self._served.values():
            live = [line for line in other.lines.values() if not line.is_stopping]
            if other is present or not live:
                continue
            self._set_shed(other)
            for line in live:
                self._again.discard(line.account.number)
                self.reports.shed(line.account)
                self._stop_line(line)
            return True
        return False

    def _set_shed(self, present: _Present) -> None:
        present.is_shed = True
        self._shed[present.user] = None

    def _readmit(self) -> None:
        """There may be room for one that had to go: the one that went last."""
        if self._is_closed or not self._shed or len(self._lines) - self._stopping >= self._config.max_sessions:
            return
        user, _ = self._shed.popitem()
        present = self._present.get(user)
        if present is not None and (present.devices or present.linger is not None):
            present.is_shed = False
            self._start_lines(present, may_shed=False)

    # --- Switchboard ---------------------------------------------------------------------------------

    def connector(self, network: str) -> Connector | None:
        return self._connectors.get(network)

    def rank(self, user: bytes) -> float:
        present = self._present.get(user)
        return 0.0 if present is None else present.active_at

    def on_fault(self, network: str) -> None:
        self._metrics.count(Metric.IM_FAULTS, label=network)

    def _readings(self) -> Iterator[Reading]:
        yield Metric.IM_LINES, "", len(self._lines)
        yield Metric.IM_SESSIONS, "", sum(1 for line in self._lines.values() if line.is_connected)
        yield Metric.IM_CONNECTS_WAITING, "", self.admission.waiting
        yield Metric.IM_HOSTS_RESTING, "", self.breakers.resting

    # --- Supervision ---------------------------------------------------------------------------------

    def bound(self, account: Account) -> None:
        if self._is_closed:
            return
        if account.state is not AccountState.IDLE:
            account = msgspec.structs.replace(account, state=AccountState.IDLE)
            self.accounts.put_account(account).add_done_callback(observe)
        line = self._lines.get(account.number)
        if line is not None:
            self._again.add(account.number)
            self._stop_line(line)
            return
        present = self._present.get(account.user)
        if present is not None:
            self._start_lines(present)

    def unbound(self, number: int) -> None:
        self._again.discard(number)
        line = self._lines.get(number)
        if line is not None:
            self._stop_line(line, at_once=True)
        self.sending.fail_all(number)

    def state(self, number: int) -> AccountState:
        line = self._lines.get(number)
        if line is not None and not line.is_stopping:
            return line.state
        account = self.accounts.account(number)
        if account is not None and account.state is AccountState.BAD_CREDENTIALS:
            return AccountState.BAD_CREDENTIALS
        if account is not None and account.network not in self._connectors:
            return AccountState.OUTAGE  # the network is not served here any more (im.networks)
        return AccountState.IDLE

    def wake(self, number: int) -> None:
        account = self.gate.owner(number)
        if account is None:
            return
        self.active(account.user)
        line = self._lines.get(number)
        if line is not None:
            line.wake()

    async def contacts(self, number: int) -> list[Contact]:
        line = self._lines.get(number)
        account = self.gate.owner(number)
        if account is None:
            raise NotFound("no such account", field="account")
        connector = self.connector(account.network)
        if connector is not None and not connector.caps.contacts:
            raise InvalidField(f"{account.network} has no contacts", field="account")
        if line is None or not line.is_connected:
            raise Conflict("the account is not connected: ask again when its state is connected", field="account")
        try:
            return await self._read_contacts(line, account)
        except Rejected as exc:
            raise InvalidField(str(exc), field="account") from None
        except DECLARED:
            raise Conflict("the network did not answer: ask again", field="account") from None

    async def _read_contacts(self, line: Line, account: Account) -> list[Contact]:
        contacts: list[Contact] = []
        async with aclosing(_closable(line.contacts())) as pieces:
            while len(contacts) < MOST_CONTACTS:
                async with bounded(self.request_s, account.network, self.on_fault):
                    try:
                        contacts.append(await pieces.__anext__())
                    except StopAsyncIteration:
                        break
        return contacts

    def try_act(self, number: int, act: Act) -> None:
        line = self._lines.get(number)
        if line is None or not line.is_connected or number in self._acts or len(self._acts) >= MOST_ACTS:
            self._metrics.count(Metric.IM_DROPPED, label="typing")
            return
        task = self._acts[number] = asyncio.create_task(self._act(line, act))
        task.add_done_callback(lambda _: self._acts.pop(number, None))

    async def _act(self, line: Line, act: Act) -> None:
        try:
            await line.act(act)
        except DECLARED:
            self._metrics.count(Metric.IM_DROPPED, label="typing")


async def _closable(contacts: AsyncIterator[Contact]) -> AsyncGenerator[Contact, None]:
    async for contact in contacts:
        yield contact
