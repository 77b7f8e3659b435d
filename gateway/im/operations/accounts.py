"""What a user asks of accounts on other networks (D1): networks and their forms, bind, change, rename, unbind, list."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.im.operation import Ask, Caller, Operation, Reply
from gateway.im.operations.ids import AccountWord, read_account
from gateway.im.operations.pages import fit
from gateway.im.operations.users import Done, NameText, Nothing
from gateway.im.ust.account_contacts import AccountContacts
from gateway.im.ust.accounts import BoundAccounts
from gateway.model.im import Connector
from gateway.model.im_people import Account, AccountState

MAX_PAGE = 500

Values = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=8_192)]], Meta(max_length=32)
]


class FormField(msgspec.Struct, omit_defaults=True):
    name: str
    label: str
    is_secret: bool = False
    is_required: bool = True
    default: str = ""


class Network(msgspec.Struct):
    name: str
    form: list[FormField]
    #: what it can do: names of Caps
    can: list[str]


class Networks(Reply):
    networks: list[Network]


class AccountView(Reply):
    number: int
    network: str
    name: str
    state: AccountState
    created_ms: int
    #: of bad_credentials: what is wrong
    reason: str = ""


class Accounts(Reply):
    accounts: list[AccountView]


class Bind(Ask):
    network: Annotated[str, Meta(max_length=32)]
    #: the user's own word for it, unique among theirs
    name: NameText
    #: the network's form, filled in
    credentials: Values


class ChangeCredentials(Ask):
    account: AccountWord
    #: the whole form
    credentials: Values


class RenameAccount(Ask):
    account: AccountWord
    name: NameText


class Unbind(Ask):
    account: AccountWord


class ListContacts(Ask):
    account: AccountWord
    #: remote id behind which the page begins; empty: at the first, asked of the network anew
    after: Annotated[str, Meta(max_length=2_048)] = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE


class ContactView(msgspec.Struct, omit_defaults=True):
    remote_id: str
    display: str = ""
    #: both agreed, where the network knows such a thing
    is_mutual: bool = True

    def __repr__(self) -> str:
        return "ContactView(hidden)"


class ContactList(Reply):
    contacts: list[ContactView]
    #: `after` of the next page; absent: there is none
    next: str = ""


class AccountOperations:
    def __init__(self, accounts: BoundAccounts, contacts: AccountContacts) -> None:
        self._accounts = accounts
        self._contacts = contacts

    def operations(self) -> tuple[Operation, ...]:
        one = "/v1/im/accounts/{account}"
        return (
            Operation(
                "networks",
                "GET",
                "/v1/im/networks",
                Nothing,
                Networks,
                self._networks,
                "Networks whose accounts can be bound, and what each needs to know",
                needs_user=False,
            ),
            Operation("accounts", "GET", "/v1/im/accounts", Nothing, Accounts, self._list, "My accounts"),
            Operation("bind", "POST", "/v1/im/accounts", Bind, AccountView, self._bind, "Bind an account"),
            Operation(
                "change_credentials",
                "PUT",
                one + "/credentials",
                ChangeCredentials,
                AccountView,
                self._change,
                "Give other credentials for an account",
            ),
            Operation("rename_account", "PATCH", one, RenameAccount, AccountView, self._rename, "Rename an account"),
            Operation(
                "account_contacts",
                "GET",
                one + "/contacts",
                ListContacts,
                ContactList,
                self._list_contacts,
                "Contacts of an account, as its network has them",
            ),
            Operation("unbind", "DELETE", one, Unbind, Done, self._unbind, "Unbind an account"),
        )

    async def _networks(self, _: Caller, __: Nothing) -> Networks:
        return Networks(networks=[_view_network(connector) for connector in self._accounts.networks])

    async def _list(self, caller: Caller, _: Nothing) -> Accounts:
        return Accounts(accounts=[_view(account, state) for account, state in self._accounts.accounts(caller.me)])

    async def _bind(self, caller: Caller, ask: Bind) -> AccountView:
        account = await self._accounts.bind(caller.me, ask.network, ask.name, ask.credentials, caller.now_ms)
        return _view(account, self._accounts.state(account))

    async def _change(self, caller: Caller, ask: ChangeCredentials) -> AccountView:
        account = await self._accounts.change_credentials(caller.me, read_account(ask.account), ask.credentials)
        return _view(account, self._accounts.state(account))

    async def _rename(self, caller: Caller, ask: RenameAccount) -> AccountView:
        account = await self._accounts.rename(caller.me, read_account(ask.account), ask.name)
        return _view(account, self._accounts.state(account))

    async def _list_contacts(self, caller: Caller, ask: ListContacts) -> ContactList:
        page, has_more = await self._contacts.page(caller.me, read_account(ask.account), ask.after, ask.limit)
        rows = [ContactView(one.remote_id, one.display, one.is_mutual) for one in page]
        views, more = fit(rows, ask.limit)
        return ContactList(contacts=views, next=views[-1].remote_id if more or has_more else "")

    async def _unbind(self, caller: Caller, ask: Unbind) -> Done:
        await self._accounts.unbind(caller.me, read_account(ask.account))
        return Done()


def _view(account: Account, state: AccountState) -> AccountView:
    return AccountView(
        number=account.number,
        network=account.network,
        name=account.name,
        state=state,
        created_ms=account.created_ms,
        reason=account.reason if state is AccountState.BAD_CREDENTIALS else "",
    )


def _view_network(connector: Connector) -> Network:
    form = [FormField(*field) for field in connector.form]
    can = [name for name, value in connector.caps._asdict().items() if value is True]
    return Network(name=connector.name, form=form, can=can)
