"""Opaque ids of subscribers in the place of tokens (C1, C12): the seam between the directory and who knows ids; must
never tell an unknown id from one that ended.
"""

from __future__ import annotations

from typing import Protocol

from gateway.model.registration import Registration


class OpaqueTokens(Protocol):
    """delivery.opaque_tokens.OpaqueIndex."""

    def find(self, text: str, app: str) -> int:
        """Registration that a live id of the app leads to, else -1; makes none."""
        ...

    def reach(self, text: str, app: str) -> int:
        """The same for a push: where nothing but the operator's network leads to the subscriber, a paging-only
        registration is made on first use. StoreUnavailable or QueueFull where it can not be."""
        ...

    def claim(self, registration: Registration) -> bool:
        """A device registered with a proof that it is of the subscriber whose id is among its addresses. True where
        that changed something, or the proof is none: a device may do so a few times a minute."""
        ...


class _NoOpaqueTokens:
    def find(self, text: str, app: str) -> int:  # noqa: ARG002
        return -1

    def reach(self, text: str, app: str) -> int:  # noqa: ARG002
        return -1

    def claim(self, registration: Registration) -> bool:  # noqa: ARG002
        return True


NO_OPAQUE_TOKENS: OpaqueTokens = _NoOpaqueTokens()
