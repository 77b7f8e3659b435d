"""Keys as a node's book of apps has them; must never call a key wrong that it may only not know yet."""

from __future__ import annotations

from collections.abc import Callable

from gateway.auth.api_keys import ApiKeys, Principal, parse_key
from gateway.fleet.app_book import AppBook
from gateway.model.errors import NodeUnreachable, Unauthorized


class BookKeys(ApiKeys):
    """`is_fresh`: was the book compared with the apps of the fleet a moment ago?"""

    def __init__(self, book: AppBook, operator_hash: bytes, is_fresh: Callable[[], bool]) -> None:
        super().__init__(book, operator_hash)
        self._is_fresh = is_fresh

    def authenticate(self, authorization: str | None) -> Principal:
        """NodeUnreachable for a key that is not in the book while it may lack what the fleet has."""
        try:
            return super().authenticate(authorization)
        except Unauthorized:
            if self._is_fresh() or parse_key((authorization or "").partition(" ")[2].strip()) is None:
                raise
            raise NodeUnreachable("Whose key this is can not be found out now; nothing was done.") from None
