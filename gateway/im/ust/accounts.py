"""Accounts of other networks that users bind (D1): the form of a network filled in, sealed, and handed to supervision.

Must never keep, log or repeat what was typed into a form: an error names the field of the form and nothing of its
value.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from gateway.config.im_section import Im
from gateway.im.ust.names import check_name
from gateway.metrics.names import Metric
from gateway.metrics.sink import Metrics
from gateway.model.errors import BadRequest, Conflict
from gateway.model.im import OWN, Connector, Credentials, Rejected
from gateway.model.im_people import Account, AccountState
from gateway.model.im_ports import AccountRecords, AddressTaken, Gate, Supervision

#: shorter values are in many a sentence by chance
_TELLING_CHARS = 4


class BoundAccounts:
    """Loop thread only."""

    def __init__(
        self,
        records: AccountRecords,
        *,
        gate: Gate,
        supervision: Supervision,
        connectors: Mapping[str, Connector],
        settings: Im,
        metrics: Metrics,
    ) -> None:
        self._records = records
        self._gate = gate
        self._supervision = supervision
        self._connectors = connectors
        self._settings = settings
        self._metrics = metrics

    @property
    def networks(self) -> list[Connector]:
        return list(self._connectors.values())

    def accounts(self, me: bytes) -> list[tuple[Account, AccountState]]:
        """By number, with the states of now."""
        found = sorted(self._records.accounts(me), key=lambda account: account.number)
        return [(account, self.state(account)) for account in found]

    def state(self, account: Account) -> AccountState:
        if account.state is AccountState.BAD_CREDENTIALS:
            return account.state
        return self._supervision.state(account.number)

    async def bind(self, me: bytes, network: str, name: str, values: Mapping[str, str], now_ms: int) -> Account:
        connector = self._connectors.get(network)
        if connector is None:
            raise BadRequest("no such network here: ask for the networks", field="network")
        mine = self._records.accounts(me)
        if len(mine) >= self._settings.accounts_per_user:
            raise Conflict(f"a user binds up to {self._settings.accounts_per_user} accounts: unbind one first")
        name = self._check_name(name, mine, 0)
        filled = self._fill(connector, values)
        number = self._records.reserve()
        sealed = self._records.seal(me, number, network, filled)
        account = Account(number, me, network, name, sealed, now_ms)
        await self._put(account)
        self._tell_bound(account, "bound")
        return account

    async def change_credentials(self, me: bytes, word: int | str, values: Mapping[str, str]) -> Account:
        """The whole form again: nothing of the old one stays."""
        account = self._gate.own_account(me, word)
        connector = self._connectors.get(account.network)
        if connector is None:
            raise BadRequest("this network is no longer here: unbind the account", field="account")
        sealed = self._records.seal(me, account.number, account.network, self._fill(connector, values))
        account = replace(account, sealed=sealed, state=AccountState.IDLE, reason="")
        await self._put(account)
        self._tell_bound(account, "changed")
        return account

    async def rename(self, me: bytes, word: int | str, name: str) -> Account:
        account = self._gate.own_account(me, word)
        account = replace(account, name=self._check_name(name, self._records.accounts(me), account.number))
        await self._put(account)
        return account

    async def unbind(self, me: bytes, word: int | str) -> None:
        account = self._gate.own_account(me, word)
        self._supervision.unbound(account.number)
        await self._records.remove_account(account.number)
        self._metrics.count(Metric.IM_ACCOUNTS, label="unbound")

    def cut_all(self, me: bytes) -> None:
        """Disconnect all of a user's, who is removed in the same turn of the loop."""
        for account in self._records.accounts(me):
            self._supervision.unbound(account.number)
            self._metrics.count(Metric.IM_ACCOUNTS, label="unbound")

    async def _put(self, account: Account) -> None:
        try:
            done = self._records.put_account(account)
        except AddressTaken:
            done = None
        if done is None:
            raise Conflict("another account of yours has this name", field="name")
        await done

    def _tell_bound(self, account: Account, event: str) -> None:
        self._metrics.count(Metric.IM_ACCOUNTS, label=event)
        # unbound, or given yet others, while this was written: whoever did that has told supervision
        now = self._records.account(account.number)
        if now is not None and now.sealed == account.sealed:
            self._supervision.bound(now)

    def _check_name(self, name: str, mine: list[Account], number: int) -> str:
        name = check_name(name)
        # a number stands for an account by itself, and own IM is no account
        if name.isdigit() or name.casefold() == OWN or any(char in ":," for char in name):
            raise BadRequest(f"a name is more than digits, not {OWN!r}, and has no colon or comma", field="name")
        if any(one.number != number and one.name.casefold() == name.casefold() for one in mine):
            raise Conflict("another account of yours has this name", field="name")
        return name

    def _fill(self, connector: Connector, values: Mapping[str, str]) -> dict[str, str]:
        """By the form's names, with its defaults. BadRequest, naming the field."""
        names = {field.name for field in connector.form}
        takes = ", ".join(field.name for field in connector.form)
        unknown = f"there is a field that this network's form has not; it has: {takes}"
        problem = (unknown, "") if set(values) - names else None
        filled = {}
        for field in connector.form:
            value = values.get(field.name, "") or field.default
            if not value and field.is_required:
                problem = problem or (f"the form needs {field.label}", field.name)
            if value:
                filled[field.name] = value
        if problem is None:
            try:
                if connector.host(Credentials(filled)):
                    return filled
                problem = ("this names no server", "")
            except Rejected as exc:
                problem = (_without_values(str(exc), connector, filled), "")
        # out of the handler, so that no context keeps what was given
        self._metrics.count(Metric.IM_ACCOUNTS, label="refused")
        text, name = problem
        raise BadRequest(text, field=f"credentials.{name}" if name else "credentials")


def _without_values(text: str, connector: Connector, filled: Mapping[str, str]) -> str:
    """What a connector says of a form, unless something that was typed is in it."""
    labels = {field.label for field in connector.form} | {field.name for field in connector.form}
    typed = (value for value in filled.values() if len(value) >= _TELLING_CHARS and value not in labels)
    return "the form is not filled in as this network needs it" if any(value in text for value in typed) else text
