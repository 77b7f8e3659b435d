"""All that can be asked of UST, in one tuple."""

from __future__ import annotations

from gateway.config.im_section import Im
from gateway.im.operation import Operation
from gateway.im.operations.accounts import AccountOperations
from gateway.im.operations.contacts import ContactOperations
from gateway.im.operations.friends import FriendOperations
from gateway.im.operations.groups import GroupOperations
from gateway.im.operations.users import UserOperations
from gateway.im.ust.build import Ust


def build_ust_operations(ust: Ust, settings: Im) -> tuple[Operation, ...]:
    return (
        *UserOperations(ust.users, settings).operations(),
        *AccountOperations(ust.accounts, ust.contacts).operations(),
        *FriendOperations(ust.friends).operations(),
        *GroupOperations(ust.groups).operations(),
        *ContactOperations(ust.discovery).operations(),
    )
