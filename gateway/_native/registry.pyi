from collections.abc import Callable, Sequence
from typing import final

from typing_extensions import Buffer

@final
class Registry:
    """Registrations and sessions in RAM: token → number; number → group, broadcast cursor, link; device → link, bound
    registrations. Control thread only. Numbers have 31 bits (else ValueError or OverflowError); the attributes of an
    unknown number raise KeyError, while questions about its link answer 0 or False."""
    def __len__(self) -> int: ...
    def add(self, number: int, token: Buffer, group: int, cursor: int = 0) -> None:
        """ValueError where the number or the token is taken already."""
    def expect(self, registrations: int) -> None:
        """Before the first one: room for so many tokens."""
    def load(self, rows: list[tuple[bytes, bytes]], group_of: Callable[[int, bytes], int]) -> None:
        """Rows of the store (key, value). `group_of`: app number and packed cohort → group, negative: leave it out.
        ValueError where a row is cut, or number or token is taken."""
    def remove(self, number: int, token: Buffer) -> bool:
        """Unbinds it too. False where it was not there, or the token is another's."""
    def keep_hash(self, number: int, token: Buffer) -> None:
        """In place of its cursor, for a registry without broadcasts: `token` finds its token by it. KeyError."""
    def token(self, number: int) -> bytes:
        """KeyError where `keep_hash` was not told of it."""
    def has(self, number: int) -> bool: ...
    def find(self, token: Buffer) -> int: ...
    def find_many(self, tokens: Buffer) -> list[int]: ...
    def group(self, number: int) -> int: ...
    def set_group(self, number: int, group: int) -> None: ...
    def population(self, group: int) -> int:
        """Registrations of this group."""
    def signed_out(self, number: int) -> bool: ...
    def set_signed_out(self, number: int, signed_out: bool) -> None: ...
    def set_plain(self, number: int, plain: bool) -> None:
        """It has no fallback chain of its own: without a link it waits where its app has no notifiers. KeyError."""
    def set_quiet(self, number: int, quiet: bool) -> None:
        """It has quiet hours: batches leave it to the policy. KeyError."""
    def set_hour(self, hour: int) -> None:
        """Now, Unix time / 3600: what binds or unbinds from here on was seen in it."""
    def seen_hour(self, number: int) -> int:
        """Hour in which its device was connected last, now where it is; 0: not known. KeyError."""
    @property
    def seen_pages(self) -> int:
        """Pages of 1024 registrations that there may be."""
    def seen_page(self, place: int) -> bytes | None:
        """Packed big-endian hours of a page that changed since it was asked for last, else None."""
    def seen_again(self, place: int) -> None:
        """That page was not stored: hand it out once more."""
    def load_seen(self, place: int, page: bytes) -> None: ...
    def group_runs(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """(group, how many in a row) over these; unknown numbers are left out."""
    def set_group_app(self, group: int, app: int) -> None:
        """Number of the app that a group belongs to."""
    def cursor(self, number: int) -> int: ...
    def set_cursor(self, number: int, cursor: int) -> None: ...
    def load_cursors(self, first: int, page: bytes) -> None:
        """Packed big-endian cursors of the registrations from this number on; 0 and unknown numbers are left out."""
    def advance_many(self, numbers: Sequence[int], seq: int, floor: int) -> list[int]:
        """Each number whose cursor is ≥ floor gets cursor = max(cursor, seq); returns the numbers below the floor
        (and unknown ones are ignored)."""
    def login(self, device: int, link: int) -> int:
        """The device's link is now this one; returns the previous link or 0. What was bound to the previous is unbound.
        The same link again is no takeover: 0, and what is bound stays. ValueError for link 0."""
    def logout(self, device: int, link: int) -> list[int]:
        """Forget the session if its link is still this one; returns the registrations that were bound (else [])."""
    def device_link(self, device: int) -> int: ...
    def device(self, number: int) -> int:
        """The device it is bound to, 0 where it is bound to none."""
    def bind(self, number: int, device: int) -> bool:
        """False where the device has no session, or the number is unknown. A number bound elsewhere is moved."""
    def unbind(self, number: int) -> bool: ...
    def bound(self, device: int) -> list[int]:
        """In order of binding."""
    def link(self, number: int) -> int:
        """Link the registration is bound to, or 0."""
    def links(self, numbers: Sequence[int]) -> list[int]: ...
    @property
    def sessions(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
