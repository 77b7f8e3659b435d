"""UST, put together from its ports: what it can be asked, and whose a session key is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from gateway.config.im_section import Im
from gateway.im.ust.account_contacts import AccountContacts
from gateway.im.ust.accounts import BoundAccounts
from gateway.im.ust.discovery import Discovery
from gateway.im.ust.friends import Friends
from gateway.im.ust.groups import Groups
from gateway.im.ust.sessions import Sessions
from gateway.im.ust.users import CodeSenders, Users
from gateway.metrics.sink import Metrics
from gateway.model.im import Connector
from gateway.model.im_people import User
from gateway.model.im_ports import AccountRecords, Delivering, Gate, Supervision, UserRecords


class Ust(NamedTuple):
    sessions: Sessions
    users: Users
    accounts: BoundAccounts
    friends: Friends
    groups: Groups
    discovery: Discovery
    contacts: AccountContacts


def build_ust(
    *,
    users: UserRecords,
    accounts: AccountRecords,
    gate: Gate,
    delivering: Delivering,
    supervision: Supervision,
    connectors: Mapping[str, Connector],
    senders: CodeSenders,
    settings: Im,
    metrics: Metrics,
    on_signed_in: Callable[[bytes, bytes], None],
    on_signed_out: Callable[[bytes, bytes], None],
    on_removed: Callable[[bytes], None],
    on_mailbox: Callable[[User, int], Awaitable[None]] | None = None,
) -> Ust:
    """`on_signed_in` and `on_signed_out` are told of every device (token, user), `on_removed` of every user who is
    gone: supervision connects and lingers by them, as by devices that come and go. `on_mailbox`: a user has one from
    this turn on; what it writes is in the same commit."""
    sessions = Sessions(users, settings)
    friends = Friends(users, delivering, settings=settings, metrics=metrics)
    groups = Groups(users, delivering, gate, settings=settings)
    bound = BoundAccounts(
        accounts, gate=gate, supervision=supervision, connectors=connectors, settings=settings, metrics=metrics
    )
    people = Users(
        users,
        senders=senders,
        sessions=sessions,
        accounts=bound,
        friends=friends,
        groups=groups,
        settings=settings,
        metrics=metrics,
        on_signed_in=on_signed_in,
        on_signed_out=on_signed_out,
        on_removed=on_removed,
        on_mailbox=on_mailbox,
    )
    discovery = Discovery(users, settings=settings, metrics=metrics)
    return Ust(sessions, people, bound, friends, groups, discovery, AccountContacts(gate, supervision))
