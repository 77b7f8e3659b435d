"""UST's word on every message (D: each one is verified before it moves on): whose an account is, who may write to whom;
must never tell what is unknown from what is another's."""

from __future__ import annotations

from gateway.model.errors import NotFound
from gateway.model.im_people import Account, FriendState, Group, User
from gateway.model.im_ports import AccountRecords, UserRecords


class UstGate:
    """A Gate. Loop thread only; reads, and never writes."""

    def __init__(self, users: UserRecords, accounts: AccountRecords) -> None:
        self._users = users
        self._accounts = accounts

    def owner(self, account: int) -> Account | None:
        found = self._accounts.account(account)
        if found is None or self._users.user(found.user) is None:
            return None
        return found

    def own_account(self, user: bytes, account: int | str) -> Account:
        if isinstance(account, int):
            found = self._accounts.account(account)
            if found is not None and found.user == user:
                return found
        else:
            wanted = account.strip().casefold()
            for one in self._accounts.accounts(user):
                if one.name.casefold() == wanted:
                    return one
        raise NotFound("you have no such account", field="account")

    def check_reachable(self, user: bytes, other: bytes) -> User:
        here, there = self._users.friend(user, other), self._users.friend(other, user)
        found = self._users.user(other)
        are_friends = (
            here is not None
            and there is not None
            and here.state is FriendState.FRIENDS
            and there.state is FriendState.FRIENDS
        )
        if found is None or not are_friends:
            raise NotFound("you have no such friend", field="user")
        return found

    def own_group(self, user: bytes, group: bytes) -> Group:
        found = self._users.group(group)
        if found is None or user not in found.members:
            raise NotFound("you are in no such group", field="group")
        return found
