"""Where a push to many goes on a machine that is alone: nowhere else; must hold no state."""

from __future__ import annotations

import asyncio

from gateway.model.notification import Notification, Target
from gateway.model.reach import Reach


class OneMachine:
    """model.reach.Reach of a store that has all registrations."""

    def is_wide(self, target: Target) -> bool:  # noqa: ARG002 - the port's
        return False

    def check(self, notification: Notification) -> None:  # noqa: ARG002
        return None

    def was_kept(self, kept: asyncio.Future[None]) -> None:  # noqa: ARG002
        return None

    def give_out(self, kept: Notification) -> asyncio.Future[None]:  # noqa: ARG002
        raise AssertionError("nothing is wide here")


ONE_MACHINE: Reach = OneMachine()
